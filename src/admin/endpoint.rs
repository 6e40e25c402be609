//! What there is to ask for, with which methods, and who may.

use http::Method;

/// A path of the operator's listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint<'path> {
    Page,
    OpenApi,
    Health,
    Readiness,
    Metrics,
    Payments,
    /// With the row's id.
    Payment(&'path str),
    Routes,
    Networks,
    Signers,
    Stats,
    Latency,
    Reload,
}

impl<'path> Endpoint<'path> {
    pub(super) fn of(path: &'path str) -> Option<Self> {
        Some(match path {
            "/" => Self::Page,
            "/openapi.json" => Self::OpenApi,
            "/healthz" => Self::Health,
            "/readyz" => Self::Readiness,
            "/metrics" => Self::Metrics,
            "/payments" => Self::Payments,
            "/routes" => Self::Routes,
            "/networks" => Self::Networks,
            "/signers" => Self::Signers,
            "/stats" => Self::Stats,
            "/latency" => Self::Latency,
            "/reload" => Self::Reload,
            _ => Self::Payment(path.strip_prefix("/payments/").filter(|id| !id.is_empty() && !id.contains('/'))?),
        })
    }

    /// Whether anybody who reaches the listener may have it (contract §3). The page is text that holds nothing of the shop.
    pub(super) fn is_open(self) -> bool {
        matches!(self, Self::Health | Self::Readiness | Self::Metrics | Self::Page)
    }

    /// Whether it changes anything.
    pub(super) fn is_change(self) -> bool {
        self == Self::Reload
    }

    /// The methods it has.
    pub(super) fn allow(self) -> &'static str {
        if self.is_change() { "POST" } else { "GET, HEAD" }
    }

    pub(super) fn allows(self, method: &Method) -> bool {
        match *method {
            Method::POST => self.is_change(),
            Method::GET | Method::HEAD => !self.is_change(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_endpoint_exactly_as_it_is_written() {
        assert_eq!(Endpoint::of("/payments/pay_1"), Some(Endpoint::Payment("pay_1")));
        for path in
            ["", "//", "/payments/", "/payments/a/b", "/Payments", "/reload/", "/%72eload", "/..", "/payments//a"]
        {
            assert_eq!(Endpoint::of(path), None, "{path}");
        }
    }

    #[test]
    fn nothing_that_changes_anything_is_had_by_reading() {
        for path in ["/reload"] {
            let endpoint = Endpoint::of(path).unwrap();
            assert!(endpoint.is_change() && !endpoint.is_open() && endpoint.allows(&Method::POST));
            for method in [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::TRACE] {
                assert!(!endpoint.allows(&method), "{method} {path}");
            }
        }
    }
}
