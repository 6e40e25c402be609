//! A proxy that is pingora and nothing else, with the settings Tollhouse uses: what `benches/proxy.sh` compares with.
//!
//! `bare_pingora LISTEN ORIGIN THREADS [timeouts|bare [CERT KEY]]`: with a certificate it speaks TLS, HTTP/2 and HTTP/1.1; with `timeouts` it bounds what every proxy in service has to bound, as
//! nginx does unasked and Tollhouse does: connecting to, reading from and writing to the origin, and writing to the client.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark that fails should stop and say where")]

use std::time::Duration;

use async_trait::async_trait;
use pingora::Result;
use pingora::listeners::tls::TlsSettings;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

struct Bare {
    origin: std::net::SocketAddr,
    has_timeouts: bool,
}

const TIMEOUT: Duration = Duration::from_secs(60);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut ()) -> Result<Box<HttpPeer>> {
        let mut peer = Box::new(HttpPeer::new(self.origin, false, String::new()));
        if self.has_timeouts {
            peer.options.connection_timeout = Some(TIMEOUT);
            peer.options.total_connection_timeout = Some(TIMEOUT);
            peer.options.read_timeout = Some(TIMEOUT);
            peer.options.write_timeout = Some(TIMEOUT);
        }
        Ok(peer)
    }

    async fn request_filter(&self, session: &mut Session, _context: &mut ()) -> Result<bool> {
        if self.has_timeouts {
            session.set_write_timeout(Some(TIMEOUT));
        }
        Ok(false)
    }
}

/// The proxy; also the start of `bare_pingora_mimalloc`.
pub fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, listen, origin, threads, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: bare_pingora LISTEN ORIGIN THREADS [timeouts|bare [CERT KEY]]");
        std::process::exit(2);
    };
    let conf =
        ServerConf { threads: threads.parse().unwrap(), upstream_keepalive_pool_size: 1024, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(
        &server.configuration,
        Bare { origin: origin.parse().unwrap(), has_timeouts: rest.first().is_some_and(|word| word == "timeouts") },
    );
    match rest {
        [_, cert, key] => {
            let mut settings = TlsSettings::intermediate(cert, key).unwrap();
            settings.enable_h2();
            service.add_tls_with_settings(listen, None, settings);
        }
        _ => service.add_tcp(listen),
    }
    server.add_service(service);
    server.run_forever();
}
