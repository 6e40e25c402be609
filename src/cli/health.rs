//! `tollhouse health`: whether the running gateway is ready; for container health checks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use reqwest::{StatusCode, Url};

use super::ConfigArgs;

/// How long the gateway may take to answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// `tollhouse health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Where the configuration is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The admin listener, such as http://127.0.0.1:8403, instead of the configuration's
    #[arg(long, value_name = "URL")]
    pub url: Option<Url>,
}

/// Asks the admin listener.
///
/// # Errors
/// When it can't be reached or is not ready.
pub async fn run(args: HealthArgs) -> anyhow::Result<()> {
    let base = match args.url {
        Some(url) => url,
        None => admin_url(super::load_config(&args.config.config)?.admin.listen)?,
    };
    let url = base.join("/healthz").context("no URL to ask")?;
    // Straight to the listener: a proxy's answer would say nothing about the gateway.
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
    let status = client.get(url.clone()).send().await.with_context(|| format!("{url} does not answer"))?.status();
    if status != StatusCode::OK {
        bail!("{url} answers {}", status.as_u16());
    }
    Ok(())
}

/// The listener's URL as seen from this machine.
pub(super) fn admin_url(listen: SocketAddr) -> anyhow::Result<Url> {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    let address = SocketAddr::new(ip, listen.port());
    Url::parse(&format!("http://{address}")).context("admin address is no URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_on_loopback() {
        let url = |text: &str| admin_url(text.parse().unwrap()).unwrap().to_string();
        assert_eq!(url("0.0.0.0:8403"), "http://127.0.0.1:8403/");
        assert_eq!(url("[::]:1"), "http://[::1]:1/");
        assert_eq!(url("10.0.0.5:8403"), "http://10.0.0.5:8403/");
    }

    #[tokio::test]
    async fn only_a_200_is_healthy() {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        for (status, is_healthy) in [(200, true), (204, false), (503, false)] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
            let answer = move || async move { axum::http::StatusCode::from_u16(status).unwrap() };
            let app = axum::Router::new().route("/healthz", axum::routing::get(answer));
            let server = tokio::spawn(async move { axum::serve(listener, app).await });
            let outcome = run(HealthArgs { config: ConfigArgs::default(), url: Some(url) }).await;
            assert_eq!(outcome.is_ok(), is_healthy, "{status}");
            server.abort();
        }
    }
}
