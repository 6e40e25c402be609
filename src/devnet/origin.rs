//! The shop's origin: something of every kind that can be sold. Knows nothing of payments.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::Method;
use pingora::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream};
use pingora::http::ResponseHeader;
use pingora::protocols::http::ServerSession;
use pingora::server::ShutdownWatch;
use serde_json::json;

/// Events of the stream, and how far they are apart.
const EVENTS: u32 = 5;
const EVENT_EVERY: Duration = Duration::from_secs(1);

/// Bytes of the large file, and of each piece that is written.
const FILE_BYTES: usize = 10 * 1024 * 1024;
const PIECE_BYTES: usize = 64 * 1024;

/// A route of the shop.
#[derive(Debug, Clone, Copy)]
pub struct SampleRoute {
    /// As a key of `[routes]`.
    pub key: &'static str,
    /// Its path.
    pub path: &'static str,
    /// What it costs, as `[routes]` says it.
    pub price: &'static str,
    /// What it gives.
    pub about: &'static str,
}

/// What the shop sells.
pub const ROUTES: &[SampleRoute] = &[
    SampleRoute { key: "GET /", path: "/", price: "free", about: "what is for sale" },
    SampleRoute { key: "GET /weather", path: "/weather", price: "$0.001", about: "JSON" },
    SampleRoute { key: "GET /stream", path: "/stream", price: "$0.01", about: "events, one a second, for 5 s" },
    SampleRoute { key: "GET /file", path: "/file", price: "$0.05", about: "10 MiB" },
    SampleRoute { key: "GET /flaky", path: "/flaky", price: "$0.001", about: "JSON, or status 500 with ?fail=1" },
];

/// The origin.
pub struct Origin;

#[async_trait]
impl HttpServerApp for Origin {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if !matches!(session.read_request().await, Ok(true)) {
            return None;
        }
        session.set_keepalive(if *shutdown.borrow() { None } else { Some(60) });
        session.drain_request_body().await.ok()?;
        // A client that goes away in the middle is no news.
        self.answer(&mut session).await.ok()?;
        let settings = HttpPersistentSettings::for_session(&session);
        let reusable = session.finish().await.ok()??;
        Some(ReusedHttpStream::from_reusable_stream(reusable, settings))
    }
}

impl Origin {
    async fn answer(&self, session: &mut ServerSession) -> pingora::Result<()> {
        let head = session.req_header();
        let is_head = head.method == Method::HEAD;
        let query = head.uri.query().unwrap_or_default().to_owned();
        match head.uri.path() {
            "/" => whole(session, 200, "text/plain; charset=utf-8", menu()).await,
            "/weather" => {
                let report = json!({"place": "Nowhere", "sky": "clear", "celsius": 21});
                whole(session, 200, "application/json", report.to_string()).await
            }
            "/stream" if !is_head => stream(session).await,
            "/file" if !is_head => file(session).await,
            "/flaky" if query.split('&').any(|pair| pair == "fail=1") => {
                whole(session, 500, "application/json", json!({"error": "as asked for"}).to_string()).await
            }
            "/flaky" => whole(session, 200, "application/json", json!({"ok": true}).to_string()).await,
            _ => whole(session, 404, "application/json", json!({"error": "not_found"}).to_string()).await,
        }
    }
}

fn menu() -> String {
    ROUTES.iter().map(|route| format!("{:<10} {:<7} {}\n", route.path, route.price, route.about)).collect()
}

async fn whole(session: &mut ServerSession, status: u16, kind: &str, body: String) -> pingora::Result<()> {
    let is_head = session.req_header().method == Method::HEAD;
    let mut head = ResponseHeader::build(status, Some(2))?;
    head.insert_header("content-type", kind)?;
    head.insert_header("content-length", body.len().to_string())?;
    session.write_response_header(Box::new(head)).await?;
    if !is_head {
        session.write_response_body(body.into(), true).await?;
    }
    Ok(())
}

async fn stream(session: &mut ServerSession) -> pingora::Result<()> {
    let mut head = ResponseHeader::build(200, Some(3))?;
    head.insert_header("content-type", "text/event-stream")?;
    head.insert_header("cache-control", "no-store")?;
    head.insert_header("transfer-encoding", "chunked")?;
    session.write_response_header(Box::new(head)).await?;
    for number in 1..=EVENTS {
        let event = format!("id: {number}\ndata: {{\"event\":{number},\"of\":{EVENTS}}}\n\n");
        session.write_response_body(event.into(), number == EVENTS).await?;
        if number < EVENTS {
            tokio::time::sleep(EVENT_EVERY).await;
        }
    }
    Ok(())
}

async fn file(session: &mut ServerSession) -> pingora::Result<()> {
    let mut head = ResponseHeader::build(200, Some(3))?;
    head.insert_header("content-type", "application/octet-stream")?;
    head.insert_header("content-length", FILE_BYTES.to_string())?;
    session.write_response_header(Box::new(head)).await?;
    let piece = Bytes::from(vec![b'.'; PIECE_BYTES]);
    let pieces = FILE_BYTES / PIECE_BYTES;
    for number in 1..=pieces {
        session.write_response_body(piece.clone(), number == pieces).await?;
    }
    Ok(())
}
