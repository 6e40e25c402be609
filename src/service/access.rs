//! Who may enter a listener that is not for clients (threat G1).

use std::net::SocketAddr;

use http::{HeaderMap, HeaderValue, header};
use subtle::ConstantTimeEq;

use crate::config::Secret;

/// Lets programs of this machine in when the listener is loopback, and who shows the token otherwise.
pub(crate) struct Access {
    is_loopback: bool,
    token: Option<Secret>,
}

impl Access {
    /// For a listener on this address.
    pub(crate) fn new(listen: SocketAddr, token: Option<Secret>) -> Self {
        Self { is_loopback: listen.ip().is_loopback(), token }
    }

    /// Whether the request was meant for this listener: on loopback only names of this machine are, since a page from
    /// elsewhere can have its own name point here.
    pub(crate) fn is_meant(&self, fields: &HeaderMap) -> bool {
        !self.is_loopback || names_this_machine(fields)
    }

    /// Loopback needs no token; elsewhere there is no way in without one.
    pub(crate) fn is_allowed(&self, fields: &HeaderMap) -> bool {
        if self.is_loopback {
            return true;
        }
        let Some(token) = &self.token else { return false };
        let given = fields.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let Some((scheme, given)) = given.split_at_checked("Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(given.ct_eq(token.expose().as_bytes()))
    }
}

fn names_this_machine(fields: &HeaderMap) -> bool {
    let mut hosts = fields.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let host = host.to_str().unwrap_or_default();
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
