//! Whether the origins are there: a connection to every server, or an answer where health checks or TLS want one.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::{Certificate, Client, Identity};
use tokio::net::TcpStream;

use crate::chain::Finding;
use crate::config::{Config, UpstreamConfig};

pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let servers = config.upstreams.iter().flat_map(|upstream| {
        upstream.servers.iter().map(move |server| async move {
            let subject = format!("origin {} ({server})", upstream.name);
            match ask(upstream, server).await {
                Ok(answer) => Finding::ok(subject, answer),
                Err(error) => Finding::fail(
                    subject,
                    format!("{error:#}"),
                    "start the origin, or correct servers, tls and health_check of the upstream; paid requests would become owed answers",
                ),
            }
        })
    });
    futures::future::join_all(servers).await
}

async fn ask(upstream: &UpstreamConfig, server: &str) -> anyhow::Result<String> {
    let connecting = tokio::time::timeout(upstream.connect_timeout, TcpStream::connect(server)).await;
    let socket = connecting.context("no connection in time")?.context("can't connect")?;
    let address = socket.peer_addr().context("can't connect")?;
    drop(socket);
    if upstream.health.is_none() && !upstream.tls {
        return Ok("takes connections".to_owned());
    }
    let (host, port) = server.rsplit_once(':').context("no port")?;
    let name = upstream.tls_server_name.as_deref().unwrap_or(host);
    let limit = upstream.health.as_ref().map_or(upstream.read_timeout, |health| health.timeout);
    let client = client(upstream, limit)?.resolve(name, address).build().context("can't set up the HTTP client")?;
    let scheme = if upstream.tls { "https" } else { "http" };
    let path = upstream.health.as_ref().map_or("/", |health| health.path.as_str());
    let url = format!("{scheme}://{name}:{port}{path}");
    let request = if upstream.health.is_some() { client.get(url) } else { client.head(url) };
    let answer = request.send().await.map_err(|error| anyhow::Error::from(error.without_url()));
    let status = answer.context(if upstream.tls { "no answer over TLS" } else { "no answer" })?.status();
    if upstream.health.is_none() {
        return Ok("takes connections, and its certificate is trusted".to_owned());
    }
    // What the gateway's own checks take for well.
    ensure!((200..400).contains(&status.as_u16()), "its health check at {path} answers {}", status.as_u16());
    Ok(format!("its health check at {path} answers {}", status.as_u16()))
}

/// Straight to the origin, with the certificates that the gateway would trust and show.
fn client(upstream: &UpstreamConfig, limit: Duration) -> anyhow::Result<reqwest::ClientBuilder> {
    let mut client = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(upstream.connect_timeout)
        .timeout(upstream.connect_timeout.saturating_add(limit));
    if upstream.http2 {
        client = client.http2_prior_knowledge();
    }
    if let Some(file) = &upstream.tls_ca {
        let pem = std::fs::read(file).context("tls_ca can't be read")?;
        client = client.tls_certs_only(Certificate::from_pem_bundle(&pem).context("tls_ca can't be used")?);
    }
    if let Some(own) = &upstream.tls_client {
        let mut pem = std::fs::read(&own.cert).context("the client certificate can't be read")?;
        pem.extend(std::fs::read(&own.key).context("the client certificate's key can't be read")?);
        client = client.identity(Identity::from_pem(&pem).context("the client certificate can't be used")?);
    }
    Ok(client)
}
