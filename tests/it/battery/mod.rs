//! The HTTP safety battery (threats A1–A19): whatever a client says and however it says it, in HTTP/1 and HTTP/2, no byte of
//! priced content leaves unpaid, and what the gateway matched, what it forwarded and what the origin saw are one path.
//!
//! Every origin puts [`MARKER`] into what is priced, and the target as it saw it into every answer. The recorder keeps each
//! request byte for byte; the others are servers from packages that read what they get as generously as they can.

mod answers;
mod fields;
mod frames;
mod framing;
mod hosts;
mod http2;
mod methods;
mod paths;
mod recorder;
mod rfc9113;
mod servers;
mod spellings;
mod wire;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use crate::harness::{Answer, Header, Plan, Shop, Terms};
use frames::H2;
use recorder::Recorder;
use servers::Server;
use wire::{Place, Reply, Wire};

/// Part of all priced content; in no unpaid answer.
const MARKER: &str = "priced-content-5c1f9ab2";

/// The recorder's name.
const RAW: &str = "raw.wild.test";

/// Whether a canonical path leads to something priced.
fn is_priced(path: &str) -> bool {
    let path = path.to_lowercase();
    let path = path.strip_suffix('/').unwrap_or(&path);
    matches!(path, "/api/paid" | "/premium/report.json" | "/wow!" | "/files") || path.starts_with("/files/")
}

/// A gateway before a recorder and, if wanted, before servers that others wrote.
struct World {
    shop: Shop,
    recorder: Recorder,
    servers: Vec<(&'static str, Server)>,
    is_tls: bool,
    _certificates: TempDir,
}

impl World {
    /// In HTTP/1.1 without TLS, before the recorder alone.
    async fn plain() -> Self {
        Self::open(false, false, "", "").await
    }

    async fn tls() -> Self {
        Self::open(true, false, "", "").await
    }

    async fn open(is_tls: bool, has_servers: bool, more_routes: &str, more_server: &str) -> Self {
        let recorder = Recorder::start().await;
        let mut servers = Vec::new();
        if has_servers {
            let (nginx, haproxy, node, python) =
                tokio::join!(Server::nginx(1), Server::haproxy(), Server::node(), Server::python());
            servers.extend([("nginx", nginx), ("haproxy", haproxy), ("node", node), ("python", python)]);
        }
        let mut upstream = String::new();
        let mut routes = "\"/api/data\" = { price = \"$0.01\", upstream = \"api\" }\n".to_owned();
        let ports = servers.iter().map(|(name, server)| (*name, server.port));
        for (name, port) in [("raw", recorder.port)].into_iter().chain(ports) {
            upstream += &format!("\n[upstreams.{name}]\nservers = [\"127.0.0.1:{port}\"]\n");
            routes += &format!("\"{name}.wild.test/{{*rest}}\" = {{ price = \"free\", upstream = \"{name}\" }}\n");
            for path in ["/api/paid", "/Premium/Report.json", "/wow!", "/files/{*rest}"] {
                routes += &format!("\"{name}.wild.test{path}\" = {{ price = \"$0.01\", upstream = \"{name}\" }}\n");
            }
        }
        routes += more_routes;
        let certificates = tempfile::tempdir().unwrap();
        let server = format!("{}\n{more_server}", if is_tls { tls(&certificates) } else { String::new() });
        let plan = Plan { server, upstream, routes, ..Plan::default() };
        let shop = Shop::open_with(plan).await;
        Self { shop, recorder, servers, is_tls, _certificates: certificates }
    }

    /// Names of the origins.
    fn names(&self) -> Vec<String> {
        let others = self.servers.iter().map(|(name, _)| format!("{name}.wild.test"));
        std::iter::once(RAW.to_owned()).chain(others).collect()
    }

    fn place<'a>(&self, host: &'a str) -> Place<'a> {
        Place { port: self.shop.port, server: self.is_tls.then_some(host) }
    }

    async fn wire(&self, host: &str) -> Wire {
        Wire::open(self.place(host)).await
    }

    async fn h2(&self, host: &str) -> H2 {
        H2::open(self.place(host)).await
    }

    /// All that comes back when these bytes are all that a client sends, with `Connection: close` among them or not.
    async fn say(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut wire = self.wire(RAW).await;
        wire.send(bytes).await;
        String::from_utf8_lossy(&wire.rest(QUIET).await).into_owned()
    }

    /// One request to the recorder's name.
    async fn ask(&self, method: &str, target: &str, fields: &str) -> Option<Reply> {
        let mut wire = self.wire(RAW).await;
        wire.send(format!("{method} {target} HTTP/1.1\r\nHost: {RAW}\r\n{fields}\r\n")).await;
        wire.reply(method).await
    }

    /// A payment for a priced target at the recorder.
    async fn payment(&self, method: &str, target: &str) -> Header {
        let reply = self.ask(method, target, "Connection: close\r\n").await.unwrap();
        let Reply { status, headers, body } = reply;
        let terms = Terms::read(&Answer { status, headers, body, is_complete: true });
        self.shop.payer.pay(&terms).v2()
    }

    /// Nothing was sold, and nothing priced went to any origin.
    async fn close_unpaid(self) {
        for recorded in self.recorder.take() {
            let line = recorded.line();
            let target = line.split(' ').nth(1).unwrap_or_default();
            assert!(target.starts_with('/') && !is_priced(target.split('?').next().unwrap_or_default()), "{line}");
        }
        self.shop.assert_untouched().await;
        self.shop.audit().await;
    }
}

/// How long nothing must come for nothing more to be expected.
const QUIET: std::time::Duration = std::time::Duration::from_millis(700);

/// The key of `[server]` for two certificates of the fixtures, put into a folder of their own.
pub fn tls(certificates: &TempDir) -> String {
    let pair = |name: &str| {
        let file = |kind: &str| {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/tls/{name}.{kind}.pem"));
            let to = certificates.path().join(format!("{name}.{kind}.pem"));
            std::fs::copy(from, &to).unwrap();
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
            to.display().to_string()
        };
        format!("{{ cert = {:?}, key = {:?} }}", file("cert"), file("key"))
    };
    format!("tls = [{}, {}]", pair("shop"), pair("wild"))
}

/// No unpaid answer says anything of what is priced.
#[track_caller]
fn assert_no_marker(text: &str, what: &str) {
    assert!(!text.contains(MARKER), "priced content left unpaid: {what}");
}
