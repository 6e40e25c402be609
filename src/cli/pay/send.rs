//! The request on the wire: asked without a payment, then presented with one until its outcome is known or time is up.

use std::io::Write;
use std::time::{Duration, Instant};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};

use super::receipt::Receipt;
use crate::protocol::{Version, names};

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a server may be silent in the middle of an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

/// The pause when the server names none, or names it as a date.
const PAUSE_DEFAULT: Duration = Duration::from_secs(2);

/// The longest wait for an outcome: the longest that an authorization is signed for.
const WAIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The shortest pause, whatever the server says.
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// The request that is paid for.
#[derive(Clone)]
pub struct Request {
    /// Where.
    pub url: Url,
    /// How.
    pub method: Method,
    /// Headers, without the payment.
    pub headers: HeaderMap,
    /// Body.
    pub body: Option<Vec<u8>>,
}

/// A payment header.
pub struct PaymentHeader {
    /// `payment-signature` or `x-payment`.
    pub name: HeaderName,
    /// The signed payment.
    pub value: HeaderValue,
}

/// What came of presenting a payment.
pub enum Presented {
    /// An answer that says how it stands, be it good or bad.
    Answered(Response),
    /// The server still did not know when time was up.
    Pending(Response),
    /// No answer came, and the payment may have arrived.
    Unknown(String),
}

/// Why a request can't be made.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No client.
    #[error("can't set up the HTTP client: {0}")]
    Client(#[source] reqwest::Error),
    /// No answer to the unpaid request.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The payment can't be a header.
    #[error("the payment is no legal header value")]
    Header,
}

impl PaymentHeader {
    /// The header for a payment of this version (protocol §1.1).
    ///
    /// # Errors
    /// When the value is no legal header value.
    pub fn new(version: Version, value: &str) -> Result<Self, SendError> {
        let name = match version {
            Version::V1 | Version::Vitwit => names::X_PAYMENT,
            Version::V2 => names::PAYMENT_SIGNATURE,
        };
        let mut value = HeaderValue::from_str(value).map_err(|_error| SendError::Header)?;
        value.set_sensitive(true);
        Ok(Self { name: HeaderName::from_static(name), value })
    }
}

/// A client that follows no redirect: a payment goes where its payer sent it and nowhere else.
///
/// # Errors
/// When TLS can't be set up.
pub fn client() -> Result<Client, SendError> {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("tollhouse/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .build()
        .map_err(SendError::Client)
}

/// Makes the request without a payment.
///
/// # Errors
/// When no answer comes.
pub async fn ask(client: &Client, request: &Request) -> Result<Response, SendError> {
    once(client, request, None).await.map_err(|error| SendError::NoAnswer(error_text(error)))
}

/// Presents one payment, and the same one again while the server says that it is still at work or no answer comes, for
/// at most `wait`.
pub async fn present(
    client: &Client,
    request: &Request,
    payment: &PaymentHeader,
    wait: Duration,
    progress: &mut dyn Write,
) -> Presented {
    let deadline = Instant::now() + wait.min(WAIT_MAX);
    let left = || deadline.saturating_duration_since(Instant::now());
    loop {
        let (pause, why) = match tokio::time::timeout(left(), once(client, request, Some(payment))).await {
            Ok(Ok(response)) => match pause_asked(&response) {
                None => return Presented::Answered(response),
                Some(pause) if pause >= left() => return Presented::Pending(response),
                Some(pause) => (pause, format!("HTTP {}", response.status().as_u16())),
            },
            Ok(Err(error)) if PAUSE_DEFAULT >= left() => return Presented::Unknown(error_text(error)),
            Ok(Err(error)) => (PAUSE_DEFAULT, error_text(error)),
            Err(_elapsed) => return Presented::Unknown("no answer in time".to_owned()),
        };
        // Progress is for people; a closed stderr must not end the wait.
        let _ignored = writeln!(progress, "{why}: presenting the same payment again in {} ms", pause.as_millis());
        tokio::time::sleep(pause).await;
    }
}

async fn once(client: &Client, request: &Request, payment: Option<&PaymentHeader>) -> Result<Response, reqwest::Error> {
    let mut builder = client.request(request.method.clone(), request.url.clone()).headers(request.headers.clone());
    if let Some(body) = &request.body {
        builder = builder.body(body.clone());
    }
    if let Some(payment) = payment {
        builder = builder.header(payment.name.clone(), payment.value.clone());
    }
    builder.send().await
}

/// How long to wait before the same payment is presented again; nothing if this answer is the last word (contract §3).
fn pause_asked(response: &Response) -> Option<Duration> {
    if !matches!(response.status(), StatusCode::CONFLICT | StatusCode::SERVICE_UNAVAILABLE) {
        return None;
    }
    match response.headers().get(RETRY_AFTER) {
        Some(value) => {
            let secs = value.to_str().ok().and_then(|text| text.trim().parse().ok());
            Some(secs.map_or(PAUSE_DEFAULT, Duration::from_secs).max(PAUSE_MIN))
        }
        None => Receipt::of(response.headers()).is_some_and(|receipt| receipt.is_pending()).then_some(PAUSE_DEFAULT),
    }
}

/// An error with its causes but without the URL, which may hold a token.
fn error_text(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
