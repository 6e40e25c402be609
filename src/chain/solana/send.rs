//! Sending: the same bytes again until the chain has them. What a send is answered decides nothing.

use std::sync::{Arc, Weak};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::task::JoinHandle;

use super::Inner;
use super::watch::{Level, Watch};
use crate::chain::jsonrpc::{Call, RpcError};

/// How often the same bytes are sent again.
const AGAIN: Duration = Duration::from_secs(2);
/// The same after no endpoint took them.
const FAILED_AGAIN: Duration = Duration::from_millis(300);

/// Sends one transaction again and again until dropped.
pub(super) struct Sender(JoinHandle<()>);

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Sender {
    pub(super) fn start(inner: &Arc<Inner>, signature: &str, raw: &[u8], wanted: Level) -> Self {
        // Simulated a moment ago, so the node's own simulation would only be one more reason for it to be wrong.
        let call = (
            "sendTransaction",
            json!([STANDARD.encode(raw), {
                "encoding": "base64",
                "skipPreflight": true,
                "preflightCommitment": Level::Confirmed.as_str(),
                "maxRetries": 0,
            }]),
        );
        let watch = Arc::clone(&inner.watch);
        Self(tokio::spawn(run(Arc::downgrade(inner), watch, signature.to_owned(), call, wanted)))
    }
}

async fn run(inner: Weak<Inner>, watch: Arc<Watch>, signature: String, call: Call, wanted: Level) {
    let mut is_first = true;
    loop {
        // What has landed is not sent again, unless the chain takes it back.
        let pause = if watch.has(&signature, wanted) {
            AGAIN
        } else {
            let Some(inner) = inner.upgrade() else { return };
            crate::crash::point("mid_send");
            let result = send(&inner, &call, is_first).await;
            crate::crash::point("post_send");
            // Taken or not: a lost answer and a refused one may both have reached a leader.
            watch.sent(&signature);
            if let Err(error) = &result {
                tracing::debug!(%error, signature, "Send was not acknowledged.");
            }
            if is_first && result.is_err() { FAILED_AGAIN } else { AGAIN }
        };
        is_first = false;
        tokio::time::sleep(pause).await;
    }
}

/// To one endpoint, which is enough while all is well; later to every one, since one of the others may be it.
async fn send(inner: &Inner, call: &Call, is_first: bool) -> Result<(), RpcError> {
    if is_first {
        return inner.rpc.call::<String>(call.0, call.1.clone()).await.map(|_signature| ());
    }
    let mut result = Err(RpcError::Transport("no endpoint".to_owned()));
    for answer in inner.rpc.ask_all(std::slice::from_ref(call)).await {
        match answer {
            Ok(_signature) => return Ok(()),
            Err(error) => result = Err(error),
        }
    }
    result
}
