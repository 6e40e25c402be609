//! What doctor says of configuration, ledger, origins, 402 and public URL, provoked without a chain.

use axum::http::HeaderMap;
use axum::routing::get;
use tempfile::TempDir;
use tokio::net::TcpListener;

use super::*;
use crate::config::{LedgerUrl, Secret};

const PAY_TO: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";

struct Site {
    folder: TempDir,
    server: String,
    upstream: String,
    origin: String,
    network: String,
    routes: String,
}

impl Site {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            server: String::new(),
            upstream: String::new(),
            origin: "127.0.0.1:1".to_owned(),
            network: "base".to_owned(),
            routes: "\"GET /api/data\" = \"$0.01\"".to_owned(),
        }
    }

    fn text(&self) -> String {
        let Self { server, upstream, origin, network, routes, .. } = self;
        format!(
            "[server]\n{server}\n[upstreams.api]\nservers = [\"{origin}\"]\n{upstream}\n\
             [networks.{network}]\nrpc_url = \"http://127.0.0.1:1/secret-token\"\nsigner = {{ env = \"SIGNER\" }}\n\
             pay_to = \"{PAY_TO}\"\n[routes]\n{routes}\n"
        )
    }

    fn read(&self) -> Result<Blueprint, Diagnostics> {
        let file = self.folder.path().join("gateway.toml");
        std::fs::write(&file, self.text()).unwrap();
        Blueprint::read(&file, &|name| (name == "SIGNER").then(|| "11".repeat(32)))
    }

    fn blueprint(&self) -> Blueprint {
        let _installed = rustls::crypto::ring::default_provider().install_default();
        self.read().unwrap()
    }

    fn challenge(&self) -> Vec<Finding> {
        challenge::examine(&self.blueprint())
    }
}

fn fails(finding: &Finding, text: &str) {
    assert_eq!(finding.status, Severity::Fail, "{finding:?}");
    assert!(finding.finding.contains(text) && finding.hint.is_some(), "{finding:?}");
}

#[tokio::test]
async fn a_configuration_that_can_not_be_used_is_told_with_its_places() {
    let mut site = Site::new();
    site.routes = "\"/a\" = \"freee\"".to_owned();
    let found = of_configuration(&site.read().err().unwrap());
    assert!(found[0].subject.contains("gateway.toml:"), "{found:?}");
    assert!(found.iter().all(|finding| finding.status == Severity::Fail && finding.hint.is_some()), "{found:?}");
}

#[tokio::test]
async fn a_ledger_that_can_not_be_kept_is_a_failure_and_looking_leaves_nothing_behind() {
    let site = Site::new();
    let config = &site.blueprint().config;
    let before = std::fs::read_dir(site.folder.path()).unwrap().count();
    assert_eq!(ledger::examine(config).await.status, Severity::Ok);
    assert_eq!(std::fs::read_dir(site.folder.path()).unwrap().count(), before);
    std::fs::write(site.folder.path().join("tollhouse.db"), "these are no books, but a file of some length").unwrap();
    fails(&ledger::examine(config).await, "can't be used");
    std::fs::remove_dir_all(site.folder.path()).unwrap();
    fails(&ledger::examine(config).await, "no folder");
    let mut config = (**config).clone();
    config.ledger.url = LedgerUrl::Postgres(Secret::new("postgres://user:secret-token@127.0.0.1:1/books".to_owned()));
    let unreachable = ledger::examine(&config).await;
    fails(&unreachable, "the database");
    assert!(!format!("{unreachable:?}").contains("secret-token"), "{unreachable:?}");
}

#[tokio::test]
async fn an_origin_that_is_down_or_unwell_is_a_failure() {
    let mut site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    site.origin = listener.local_addr().unwrap().to_string();
    assert_eq!(origins::examine(&site.blueprint().config).await[0].status, Severity::Ok);
    let unwell = axum::routing::get(|| async { axum::http::StatusCode::SERVICE_UNAVAILABLE });
    let app = axum::Router::new().route("/well", get(|| async { "" })).route("/unwell", unwell);
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    site.upstream = "health_check = \"/well\"".to_owned();
    assert_eq!(origins::examine(&site.blueprint().config).await[0].status, Severity::Ok);
    site.upstream = "health_check = \"/unwell\"".to_owned();
    fails(&origins::examine(&site.blueprint().config).await[0], "answers 503");
    site.upstream = "tls = true".to_owned();
    fails(&origins::examine(&site.blueprint().config).await[0], "no answer over TLS");
    server.abort();
    let _ended = server.await;
    site.upstream = String::new();
    fails(&origins::examine(&site.blueprint().config).await[0], "can't connect");
}

#[tokio::test]
async fn a_402_that_everybody_takes_is_one_line() {
    let found = Site::new().challenge();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].status, Severity::Ok);
    assert!(found[0].finding.contains("1 priced routes"), "{found:?}");
}

#[tokio::test]
async fn what_keeps_some_clients_from_paying_is_a_warning_with_its_routes() {
    let warning = |change: &dyn Fn(&mut Site), text: &str| {
        let mut site = Site::new();
        change(&mut site);
        let found = site.challenge();
        let noted = found.iter().find(|finding| finding.finding.contains(text));
        let noted = noted.unwrap_or_else(|| panic!("{text}: {found:?}")).clone();
        assert!(noted.status == Severity::Warn && noted.hint.is_some(), "{noted:?}");
        noted
    };
    let routes = |text: &'static str| move |site: &mut Site| site.routes = text.to_owned();
    warning(&routes("\"/a\" = \"$0.11\""), "v1 clients pay at most $0.10");
    warning(&routes("\"/a\" = \"$1.01\""), "v2 clients pay at most $1");
    warning(&|site| site.network = "polygon-amoy".to_owned(), "refuse these assets");
    warning(&|site| site.network = "ethereum".to_owned(), "only v2 clients can pay");
    let long = |site: &mut Site| {
        let text = "é".repeat(500);
        site.routes = format!("\"/a\" = {{ price = \"$0.01\", description = \"{text}\" }}");
    };
    warning(&long, "header bytes");
    let two = warning(&routes("\"/a\" = \"$0.50\"\n\"/b\" = \"$0.60\""), "at most $0.10");
    assert_eq!(two.subject, "402 of /a and 1 more");
}

/// Answers as an admin listener, and as a gateway with the terms of `shown`.
async fn front(status: u16, shown: &Site) -> std::net::SocketAddr {
    let header = {
        let blueprint = shown.blueprint();
        let key = crate::protocol::QuoteKey::new(&[1; 32]).unwrap();
        let nonce = crate::protocol::QuoteNonce::random().unwrap();
        let priced = blueprint.priced()[0].clone().unwrap();
        let url = format!("{}api/data", blueprint.config.server.public_url.as_ref().map_or("", |url| url.as_str()));
        let expires = crate::types::UnixMillis::from_secs(1);
        priced.challenge_of_all("due", &url, &key, nonce, expires).unwrap().header
    };
    let status = axum::http::StatusCode::from_u16(status).unwrap();
    let answer = move || {
        let mut headers = HeaderMap::new();
        headers.insert("payment-required", header.parse().unwrap());
        async move { (status, headers) }
    };
    let address = shown.server.rsplit_once("127.0.0.1:").unwrap().1.trim_end_matches("/\"");
    let listener = TcpListener::bind(format!("127.0.0.1:{address}")).await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().route("/healthz", get(|| async { "" })).route("/api/data", get(answer));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// A site whose public URL and admin listener are one free port.
async fn site_with_public_url() -> Site {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut site = Site::new();
    site.server = format!("public_url = \"http://127.0.0.1:{port}/\"");
    site.upstream = format!("[admin]\nlisten = \"127.0.0.1:{port}\"");
    site
}

#[tokio::test]
async fn the_public_url_must_lead_to_a_gateway_with_this_price_table() {
    let site = site_with_public_url().await;
    let found = gateway::examine(&site.blueprint()).await.unwrap();
    assert!(found.status == Severity::Warn && found.finding.contains("no gateway"), "{found:?}");
    front(402, &site).await;
    assert_eq!(gateway::examine(&site.blueprint()).await.unwrap().status, Severity::Ok);
    let mut dearer = site;
    dearer.routes = "\"GET /api/data\" = \"$0.02\"".to_owned();
    fails(&gateway::examine(&dearer.blueprint()).await.unwrap(), "another price");
    assert!(gateway::examine(&Site::new().blueprint()).await.is_none());
}

#[tokio::test]
async fn a_public_url_that_does_not_answer_402_is_told() {
    for (status, expected) in [(503, Severity::Fail), (404, Severity::Fail), (200, Severity::Warn)] {
        let site = site_with_public_url().await;
        front(status, &site).await;
        let found = gateway::examine(&site.blueprint()).await.unwrap();
        assert_eq!(found.status, expected, "{found:?}");
    }
}

#[tokio::test]
async fn nothing_that_is_printed_holds_a_secret_and_json_counts() {
    let findings = examine(&Site::new().blueprint()).await;
    let mut text = Vec::new();
    report::print(&findings, false, &mut text).unwrap();
    report::print(&findings, true, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(!text.contains("secret-token") && !text.contains("1111"), "{text}");
    assert!(text.contains("fail  base endpoint 1 (127.0.0.1:1): can't connect"), "{text}");
    assert!(text.contains("\"fail\": 2"), "{text}");
}
