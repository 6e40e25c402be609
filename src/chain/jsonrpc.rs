//! JSON-RPC over HTTP: several endpoints of one chain behind one face.
//!
//! Every call has a deadline, the number of calls at once is bounded, and an endpoint is used only after it has named the
//! right chain. Addresses of endpoints hold access tokens: they appear in no error and no log, which is why this is not
//! left to a transport that logs them. Knows nothing of payments.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use url::Url;

use super::{ChainObserver, RpcOutcome};
use crate::types::Network;

/// Calls at once, over all endpoints of a network.
const CONCURRENT_CALLS_MAX: usize = 64;
/// Calls at once of one batch that has to go one by one.
const SINGLES_AT_ONCE_MAX: usize = 8;
/// Largest answer that is read: a block's receipts.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest text of a node that is passed on.
const MESSAGE_CHARS_MAX: usize = 200;
/// Calls that fail in a row, over all endpoints, before a network counts as unreachable.
const FAILURES_IN_A_ROW_MAX: u32 = 3;

/// Why a call gave no result.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum RpcError {
    /// The node answered with an error.
    #[error("node said {code}: {message}")]
    Server { code: i64, message: String, data: Option<Value> },
    /// No usable answer from any endpoint: the call may or may not have had its effect.
    #[error("{0}")]
    Transport(String),
    /// Every endpoint that answers serves another chain.
    #[error("endpoint serves chain {found}, expected {expected}")]
    WrongChain { expected: String, found: String },
}

impl RpcError {
    /// Whether the node doesn't know the method.
    pub(super) fn is_unknown_method(&self) -> bool {
        matches!(self, Self::Server { code: -32601 | -32004, .. })
    }

    /// Whether a provider keeps the method from its customers, in one of the ways in which they say so.
    pub(super) fn is_withheld_method(&self) -> bool {
        let Self::Server { message, .. } = self else { return false };
        let message = message.to_ascii_lowercase();
        let says = |words: &str| message.contains(words);
        self.is_unknown_method()
            || (says("method") && (says("not found") || says("not available") || says("not supported")))
    }
}

/// Errors of a node that are about the node, not about the call.
fn is_overload(code: i64, message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    code == -32005
        || code == 429
        || ["rate limit", "too many requests", "limit exceeded", "capacity"].iter().any(|word| message.contains(word))
}

/// Cuts a node's text to size and takes addresses out of it.
pub(super) fn redact(text: &str) -> String {
    let words = text.split_whitespace().map(|word| if word.contains("://") { "[address]" } else { word });
    words.collect::<Vec<_>>().join(" ").chars().take(MESSAGE_CHARS_MAX).collect()
}

struct Endpoint {
    url: Url,
    state: Mutex<EndpointState>,
}

#[derive(Default)]
struct EndpointState {
    /// It named the right chain.
    is_right_chain: bool,
    /// Failures since the last answer.
    failures: u32,
    /// Others are asked first until then.
    resting_until: Option<Instant>,
    /// It refused a batch, for its size or at all: calls go one by one.
    refuses_batches: bool,
}

/// How an endpoint is asked which chain it serves.
pub(super) struct Identity {
    /// The method; it takes no parameters.
    pub method: &'static str,
    /// What the right chain answers, as `read` gives it.
    pub expected: String,
    /// Reads the answer; none if it names no chain.
    pub read: fn(&Value) -> Option<String>,
}

/// One chain's endpoints.
pub(super) struct Rpc {
    network: Network,
    identity: Identity,
    endpoints: Vec<Endpoint>,
    client: reqwest::Client,
    permits: Semaphore,
    deadline: Duration,
    observer: Arc<dyn ChainObserver>,
    next_id: AtomicU64,
    failures_in_a_row: AtomicU32,
}

/// A method and its parameters.
pub(super) type Call = (&'static str, Value);

/// What an endpoint answered to each of several calls, or why it gave no usable answer to any.
pub(super) type Answers = Result<Vec<Result<Value, RpcError>>, RpcError>;

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    id: Value,
    #[serde(default)]
    result: Option<Value>,
    #[serde(default)]
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    code: i64,
    #[serde(default)]
    message: String,
    #[serde(default)]
    data: Option<Value>,
}

impl Rpc {
    /// Builds the client; asks nothing yet.
    pub(super) fn new(
        network: Network,
        identity: Identity,
        urls: Vec<Url>,
        deadline: Duration,
        observer: Arc<dyn ChainObserver>,
    ) -> Result<Self, String> {
        // Idempotent; the client refuses to be built without a provider.
        let _already_installed = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .timeout(deadline)
            .connect_timeout(deadline.min(Duration::from_secs(5)))
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(CONCURRENT_CALLS_MAX)
            .tcp_nodelay(true)
            .build()
            .map_err(|error| error.without_url().to_string())?;
        let endpoints = urls.into_iter().map(|url| Endpoint { url, state: Mutex::default() }).collect();
        Ok(Self {
            network,
            identity,
            endpoints,
            client,
            permits: Semaphore::new(CONCURRENT_CALLS_MAX),
            deadline,
            observer,
            next_id: AtomicU64::new(1),
            failures_in_a_row: AtomicU32::new(0),
        })
    }

    /// Whether calls have been getting answers lately.
    pub(super) fn is_reachable(&self) -> bool {
        self.failures_in_a_row.load(Ordering::Relaxed) < FAILURES_IN_A_ROW_MAX
    }

    /// The endpoints' addresses, in the operator's order. They hold access tokens.
    pub(super) fn urls(&self) -> impl Iterator<Item = &Url> {
        self.endpoints.iter().map(|endpoint| &endpoint.url)
    }

    /// How many endpoints there are.
    pub(super) fn endpoints(&self) -> usize {
        self.endpoints.len()
    }

    /// One call. `null` is an answer if `R` is an `Option`.
    pub(super) async fn call<R: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<R, RpcError> {
        let mut results = self.batch(vec![(method, params)]).await?;
        let value = results.pop().unwrap_or_else(|| Err(RpcError::Transport("no answer".to_owned())))?;
        parse(method, value)
    }

    /// Several calls in one request to one endpoint, in order. The outer error means that nothing is known of any of them.
    pub(super) async fn batch(&self, calls: Vec<Call>) -> Result<Vec<Result<Value, RpcError>>, RpcError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let Ok(_permit) = self.permits.acquire().await else {
            return Err(RpcError::Transport("shutting down".to_owned()));
        };
        let mut worst = RpcError::Transport("no endpoint".to_owned());
        for endpoint in self.by_health() {
            match self.ask(endpoint, &calls).await {
                Ok(results) => {
                    self.failures_in_a_row.store(0, Ordering::Relaxed);
                    return Ok(results);
                }
                // A wrong chain is the operator's mistake and says more than a silent endpoint.
                Err(_) if matches!(worst, RpcError::WrongChain { .. }) => {}
                Err(error) => worst = error,
            }
        }
        self.failures_in_a_row.fetch_add(1, Ordering::Relaxed);
        Err(worst)
    }

    /// The same calls to every endpoint at once, in the operator's order; an endpoint that gave no usable answer to all of
    /// them is an error in its place.
    pub(super) async fn ask_all(&self, calls: &[Call]) -> Vec<Result<Vec<Value>, RpcError>> {
        let answers = self.ask_each(calls).await;
        answers.into_iter().map(|(results, _took)| results?.into_iter().collect()).collect()
    }

    /// The same with what each call was answered, and how long the endpoint took for all of them.
    pub(super) async fn ask_each(&self, calls: &[Call]) -> Vec<(Answers, Duration)> {
        let Ok(_permit) = self.permits.acquire().await else { return Vec::new() };
        let ask = async |endpoint| {
            let started = Instant::now();
            (self.ask(endpoint, calls).await, started.elapsed())
        };
        futures::future::join_all(self.endpoints.iter().map(ask)).await
    }

    /// Lets other endpoints go first for a while: the one asked last is behind the chain.
    pub(super) fn rest_first(&self) {
        if let Some(endpoint) = self.by_health().first() {
            endpoint.rest();
        }
    }

    /// Endpoints in the operator's order, those that failed lately last.
    fn by_health(&self) -> Vec<&Endpoint> {
        let now = Instant::now();
        let mut endpoints: Vec<&Endpoint> = self.endpoints.iter().collect();
        endpoints.sort_by_key(|endpoint| {
            endpoint.state.lock().ok().and_then(|state| state.resting_until.filter(|until| *until > now))
        });
        endpoints
    }

    async fn ask(&self, endpoint: &Endpoint, calls: &[Call]) -> Result<Vec<Result<Value, RpcError>>, RpcError> {
        self.check_chain(endpoint).await?;
        let results = self.exchange_all(endpoint, calls).await.and_then(|results| {
            // A node that is overloaded says nothing about the call: another may.
            match results.iter().find_map(|result| match result {
                Err(RpcError::Server { code, message, .. }) if is_overload(*code, message) => Some(message.clone()),
                _ => None,
            }) {
                Some(message) => Err(RpcError::Transport(format!("node is overloaded: {message}"))),
                None => Ok(results),
            }
        });
        match &results {
            Ok(_) => endpoint.recovered(),
            Err(_) => endpoint.rest(),
        }
        results
    }

    /// Asks an endpoint which chain it serves before it is believed, and again after it failed.
    async fn check_chain(&self, endpoint: &Endpoint) -> Result<(), RpcError> {
        if endpoint.state.lock().is_ok_and(|state| state.is_right_chain) {
            return Ok(());
        }
        let Identity { method, expected, read } = &self.identity;
        let asked = self.exchange(endpoint, &[(method, json!([]))]).await;
        let mut results = asked.inspect_err(|_error| endpoint.rest())?;
        let value = results.pop().unwrap_or(Ok(Value::Null)).inspect_err(|_error| endpoint.rest())?;
        let found = read(&value).ok_or_else(|| {
            endpoint.rest();
            RpcError::Transport(format!("{method} named no chain"))
        })?;
        if found == *expected {
            if let Ok(mut state) = endpoint.state.lock() {
                state.is_right_chain = true;
            }
            return Ok(());
        }
        endpoint.rest();
        Err(RpcError::WrongChain { expected: expected.clone(), found: redact(&found) })
    }

    /// One request for all calls, or one each where the endpoint takes no such batch.
    async fn exchange_all(
        &self,
        endpoint: &Endpoint,
        calls: &[Call],
    ) -> Result<Vec<Result<Value, RpcError>>, RpcError> {
        let refuses = || endpoint.state.lock().is_ok_and(|state| state.refuses_batches);
        if calls.len() == 1 || !refuses() {
            let results = self.exchange(endpoint, calls).await;
            if calls.len() == 1 || !refuses() {
                return results;
            }
        }
        let mut results = Vec::with_capacity(calls.len());
        for some in calls.chunks(SINGLES_AT_ONCE_MAX) {
            let mut singles = Vec::with_capacity(some.len());
            for call in some {
                singles.push(self.exchange(endpoint, std::slice::from_ref(call)));
            }
            for result in futures::future::join_all(singles).await {
                results.extend(result?);
            }
        }
        Ok(results)
    }

    async fn exchange(&self, endpoint: &Endpoint, calls: &[Call]) -> Result<Vec<Result<Value, RpcError>>, RpcError> {
        let count = u64::try_from(calls.len()).unwrap_or(u64::MAX);
        let first_id = self.next_id.fetch_add(count, Ordering::Relaxed);
        let mut requests: Vec<Value> = (first_id..)
            .zip(calls)
            .map(|(id, (method, params))| json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
            .collect();
        let body = if requests.len() == 1 { requests.pop().unwrap_or_default() } else { Value::Array(requests) };
        let started = Instant::now();
        let answers = tokio::time::timeout(self.deadline, self.post(endpoint, &body))
            .await
            .unwrap_or_else(|_elapsed| Err(RpcError::Transport("no answer in time".to_owned())))
            .map(|answers| in_order(first_id, calls.len(), answers));
        let took = started.elapsed();
        for (position, (method, _)) in calls.iter().enumerate() {
            let outcome = match &answers {
                Err(_) => RpcOutcome::Unanswered,
                Ok(results) => match results.get(position) {
                    Some(Ok(_)) => RpcOutcome::Ok,
                    _ => RpcOutcome::Error,
                },
            };
            self.observer.rpc(&self.network, method, outcome, took);
        }
        answers
    }

    async fn post(&self, endpoint: &Endpoint, body: &Value) -> Result<Vec<Answer>, RpcError> {
        let lost = |error: reqwest::Error| {
            let what = if error.is_timeout() {
                "no answer in time"
            } else if error.is_connect() {
                "can't connect"
            } else {
                "connection failed"
            };
            RpcError::Transport(what.to_owned())
        };
        let response = self.client.post(endpoint.url.clone()).json(body).send().await.map_err(lost)?;
        let status = response.status();
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(lost)?);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(RpcError::Transport("answer is too large".to_owned()));
            }
        }
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(RpcError::Transport(format!("HTTP status {}", status.as_u16())));
        }
        let asked = body.as_array().map_or(0, Vec::len);
        let answers = if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
            serde_json::from_slice::<Vec<Answer>>(&bytes)
        } else {
            serde_json::from_slice::<Answer>(&bytes).map(|answer| vec![answer])
        };
        let is_refused = status.is_client_error() || answers.as_ref().is_ok_and(|answers| answers.len() < asked);
        if asked > 1
            && is_refused
            && let Ok(mut state) = endpoint.state.lock()
        {
            state.refuses_batches = true;
        }
        answers.map_err(|_error| RpcError::Transport(format!("HTTP status {}, no JSON-RPC answer", status.as_u16())))
    }
}

impl Endpoint {
    /// Lets others go first for a while; forgets which chain it serves, since a load balancer may have changed what is behind.
    fn rest(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.is_right_chain = false;
            state.failures = state.failures.saturating_add(1);
            let rest = Duration::from_secs(1 << state.failures.min(5));
            state.resting_until = Some(Instant::now() + rest);
        }
    }

    fn recovered(&self) {
        if let Ok(mut state) = self.state.lock() {
            state.failures = 0;
            state.resting_until = None;
        }
    }
}

/// Puts a batch's answers in the order of its calls. One error for the whole batch is everybody's error.
fn in_order(first_id: u64, count: usize, answers: Vec<Answer>) -> Vec<Result<Value, RpcError>> {
    let mut results: Vec<Result<Value, RpcError>> =
        (0..count).map(|_| Err(RpcError::Transport("no answer in the batch".to_owned()))).collect();
    for answer in answers {
        let result = match answer.error {
            Some(error) => {
                Err(RpcError::Server { code: error.code, message: redact(&error.message), data: error.data })
            }
            None => Ok(answer.result.unwrap_or(Value::Null)),
        };
        match answer.id.as_u64().and_then(|id| usize::try_from(id.checked_sub(first_id)?).ok()) {
            Some(position) => {
                if let Some(slot) = results.get_mut(position) {
                    *slot = result;
                }
            }
            None if answer.id.is_null() && result.is_err() => {
                for slot in &mut results {
                    *slot = result.clone();
                }
            }
            None => {}
        }
    }
    results
}

/// Reads a result; what doesn't parse is a broken node, not a broken payment.
pub(super) fn parse<R: DeserializeOwned>(method: &str, value: Value) -> Result<R, RpcError> {
    serde_json::from_value(value).map_err(|_error| RpcError::Transport(format!("{method} gave an unreadable result")))
}
