//! What one request carries from phase to phase. Lives as long as the request, never as long as its connection (threat A18).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};

use super::body::BodyPace;
use super::limits::Pass;
use super::respond::Answer;
use super::snapshot::Snapshot;
use super::upstream::{End, Running, Upstream};
use crate::payment::{HeldPayment, Place, Receipt};
use crate::route::Route;
use crate::telemetry::Trace;

/// What became of a request; the `outcome` label of the request metric and of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Forwarded on a free route.
    Free,
    /// Forwarded on a priced route: its address had a free request left.
    FreeQuota,
    /// Forwarded on a priced route: its caller pays in some other way.
    FreeFor,
    /// More requests than may come.
    RateLimited,
    /// No place for it came free in time.
    Busy,
    /// A CORS preflight or `OPTIONS *`, answered here.
    Preflight,
    /// The list of what is for sale.
    Discovery,
    /// No route, or a denied one.
    NotFound,
    MethodNotAllowed,
    /// Malformed, ambiguous, oversize or unsafe.
    BadRequest,
    /// The terms, since no payment came.
    Challenge,
    /// The terms, since the payment wasn't good.
    Refused,
    /// Two payments that contradict each other.
    Contradiction,
    InProgress,
    Bound,
    Pending,
    Owed,
    /// No network, ledger or randomness.
    Unavailable,
    /// The origin was down before any money moved.
    OriginDown,
    /// Paid for; the answer was delivered.
    Paid,
    /// Paid for; the answer was not delivered.
    Undelivered,
    /// The origin refused a request whose payment was to be settled after it: nothing was charged.
    Released,
    /// A free request that the origin did not answer.
    OriginError,
    /// The client went away.
    ClientGone,
    /// A mistake of ours.
    InternalError,
}

impl Outcome {
    /// How many there are.
    pub const COUNT: usize = Self::InternalError as usize + 1;

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::FreeQuota => "free_quota",
            Self::FreeFor => "free_for",
            Self::RateLimited => "rate_limited",
            Self::Busy => "busy",
            Self::Preflight => "preflight",
            Self::Discovery => "discovery",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BadRequest => "bad_request",
            Self::Challenge => "challenge",
            Self::Refused => "refused",
            Self::Contradiction => "contradiction",
            Self::InProgress => "in_progress",
            Self::Bound => "bound_to_other_request",
            Self::Pending => "pending",
            Self::Owed => "owed",
            Self::Unavailable => "payments_unavailable",
            Self::OriginDown => "origin_unavailable",
            Self::Paid => "paid",
            Self::Undelivered => "undelivered",
            Self::Released => "released",
            Self::OriginError => "origin_error",
            Self::ClientGone => "client_gone",
            Self::InternalError => "internal_error",
        }
    }
}

/// The request's own state.
pub struct Context {
    pub(super) started: Instant,
    pub(super) outcome: Outcome,
    /// What was in force when the request began.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) route: Option<Arc<Route>>,
    /// The canonical target as it was asked for, while a payment waits for the answer.
    pub(super) asked: Option<String>,
    pub(super) upstream: Option<Arc<Upstream>>,
    /// The request's place at its origin.
    pub(super) place: Option<Place>,
    /// Leave to go to a priced route without a payment.
    pub(super) pass: Option<Pass>,
    /// Headers that are for the gateway and for no origin.
    pub(super) hidden: Vec<HeaderName>,
    /// The request's share of its server.
    pub(super) running: Option<Running>,
    /// Whether it becomes a WebSocket, and for how long at most.
    pub(super) websocket: Option<Duration>,
    /// When the connection to its origin is over, where that has a limit.
    pub(super) end: Option<End>,
    /// How fast its body comes, over HTTP/2.
    pub(super) pace: BodyPace,
    /// Proof of payment. Without it nothing on a priced route is forwarded.
    /// Boxed: pingora moves a context several times a request, and most are of requests that pay nothing.
    pub(super) receipt: Option<Box<Receipt>>,
    /// A claimed payment whose answer is held until its money has moved.
    pub(super) held: Option<Box<HeldPayment>>,
    /// What the client gets instead of the origin's answer.
    pub(super) refusal: Option<Box<Answer>>,
    /// The ledger row's id, for the log; outlives the receipt.
    pub(super) payment: Option<String>,
    /// `Origin`, if a browser asked on a priced route: its page may read the terms and the outcome.
    pub(super) cors_origin: Option<HeaderValue>,
    /// Body bytes that were read for the digest and that pingora's own buffer doesn't hold.
    pub(super) held_body: Option<Bytes>,
    /// When the request, or its last try, went to the origin, where that makes a difference.
    pub(super) forwarded: Option<Instant>,
    /// Connections tried so far.
    pub(super) connects: usize,
    /// Where its stages are told.
    pub(super) trace: Trace,
    /// The path as it was asked for, for the access log.
    pub(super) path: Option<Box<str>>,
}

impl Context {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            outcome: Outcome::BadRequest,
            snapshot: None,
            route: None,
            asked: None,
            upstream: None,
            place: None,
            pass: None,
            hidden: Vec::new(),
            running: None,
            websocket: None,
            end: None,
            pace: BodyPace::default(),
            receipt: None,
            held: None,
            refusal: None,
            payment: None,
            cors_origin: None,
            held_body: None,
            forwarded: None,
            connects: 0,
            trace: Trace::default(),
            path: None,
        }
    }
}
