//! A proxy that is pingora and nothing else, with the settings Tollhouse uses: what `benches/proxy.sh` compares with.
//!
//! `bare_pingora LISTEN ORIGIN THREADS`

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a benchmark that fails should stop and say where")]

use async_trait::async_trait;
use pingora::Result;
use pingora::proxy::{ProxyHttp, Session, http_proxy_service};
use pingora::server::Server;
use pingora::server::configuration::ServerConf;
use pingora::upstreams::peer::HttpPeer;

struct Bare {
    origin: std::net::SocketAddr,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(HttpPeer::new(self.origin, false, String::new())))
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, listen, origin, threads] = arguments.as_slice() else {
        eprintln!("usage: bare_pingora LISTEN ORIGIN THREADS");
        std::process::exit(2);
    };
    let conf =
        ServerConf { threads: threads.parse().unwrap(), upstream_keepalive_pool_size: 1024, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();
    let mut service = http_proxy_service(&server.configuration, Bare { origin: origin.parse().unwrap() });
    service.add_tcp(listen);
    server.add_service(service);
    server.run_forever();
}
