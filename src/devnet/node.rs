//! A chain behind HTTP, and its heartbeat.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderValue, Method, Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use serde_json::Value;

use super::chain::Chain;
use super::rpc;

/// Longest request that is read.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How often an empty block is made.
const BLOCK_TIME: Duration = Duration::from_secs(1);

/// A chain that answers JSON-RPC.
pub trait Served: Send + 'static {
    /// Answers the body of a request; `None` when it asks for nothing.
    fn answer(&mut self, body: &[u8]) -> Option<Value>;

    /// Makes a block.
    fn tick(&mut self);

    /// How often a block is made.
    fn block_time(&self) -> Duration;
}

impl Served for Chain {
    fn answer(&mut self, body: &[u8]) -> Option<Value> {
        rpc::answer(body, &mut |method, params| rpc::call(self, method, params))
    }

    fn tick(&mut self) {
        Self::tick(self);
    }

    fn block_time(&self) -> Duration {
        BLOCK_TIME
    }
}

/// One node, of which the chain consists.
pub struct Node<C = Chain> {
    chain: Mutex<C>,
}

impl<C: Served> Node<C> {
    /// A node that serves `chain`.
    #[must_use]
    pub fn new(chain: C) -> Self {
        Self { chain: Mutex::new(chain) }
    }

    /// Does something with the chain while nobody else does.
    pub fn with<T>(&self, work: impl FnOnce(&mut C) -> T) -> T {
        work(&mut self.chain.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Answers a request; `None` when it asks for nothing.
    #[must_use]
    pub fn answer(&self, body: &[u8]) -> Option<Value> {
        self.with(|chain| chain.answer(body))
    }

    /// Makes blocks by the clock, for as long as it is polled.
    pub async fn keep_time(self: Arc<Self>) {
        let mut beats = tokio::time::interval(self.with(|chain| chain.block_time()));
        loop {
            beats.tick().await;
            self.with(C::tick);
        }
    }
}

#[async_trait]
impl<C: Served> ServeHttp for Node<C> {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let method = session.req_header().method.clone();
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = session.read_request_body().await {
            body.extend_from_slice(&chunk);
            if body.len() > REQUEST_BYTES_MAX {
                session.set_keepalive(None);
                return plain(StatusCode::PAYLOAD_TOO_LARGE);
            }
        }
        match method {
            Method::POST => match self.answer(&body) {
                Some(answer) => json(&answer),
                None => plain(StatusCode::OK),
            },
            // A browser asks before it lets a page of another port talk to the chain.
            Method::OPTIONS => plain(StatusCode::NO_CONTENT),
            _ => plain(StatusCode::METHOD_NOT_ALLOWED),
        }
    }
}

fn json(answer: &Value) -> Response<Vec<u8>> {
    let mut response = plain(StatusCode::OK);
    let body = answer.to_string().into_bytes();
    response.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    *response.body_mut() = body;
    response
}

fn plain(status: StatusCode) -> Response<Vec<u8>> {
    let mut response = Response::new(Vec::new());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if status != StatusCode::NO_CONTENT {
        headers.insert(header::CONTENT_LENGTH, 0.into());
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("content-type"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, OPTIONS"));
    response
}
