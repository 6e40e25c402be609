//! Who the client of a request is, and how it knows the gateway, when proxies that are trusted stand in between.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};
use pingora::proxy::Session;

use super::connection;
use crate::types::AddressRange;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The proxies in front.
#[derive(Debug, Clone, Default)]
pub(super) struct Trusted(pub Vec<AddressRange>);

impl Trusted {
    fn holds(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(address))
    }

    /// Who asks: the connection's own client, or, as long as that is a trusted proxy, whom it says it speaks for. The
    /// rightmost address that isn't trusted counts, since a client may have written what stands left of it.
    pub fn client(&self, session: &Session) -> Option<IpAddr> {
        peer(session).map(|peer| self.behind(peer, &session.req_header().headers))
    }

    /// As [`Self::client`], but nobody where all that is known is the proxy that somebody asks through.
    pub fn known_client(&self, session: &Session) -> Option<IpAddr> {
        self.client(session).filter(|client| !self.holds(*client))
    }

    fn behind(&self, peer: IpAddr, fields: &HeaderMap) -> IpAddr {
        let mut client = peer;
        if self.holds(client) {
            let values = fields.get_all(FORWARDED_FOR).iter().rev();
            let hops = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
            for hop in hops {
                let Some(address) = hop_address(hop) else { break };
                client = address;
                if !self.holds(client) {
                    break;
                }
            }
        }
        client
    }

    /// `http` or `https`: as the client knows the gateway. A trusted proxy's word counts for more than the connection.
    pub fn scheme(&self, session: &Session) -> &'static str {
        let own =
            if connection::of(session).is_some_and(|connection| connection.tls.is_some()) { "https" } else { "http" };
        if self.is_from_proxy(session) { said_scheme(&session.req_header().headers).unwrap_or(own) } else { own }
    }

    /// Whether the peer is a proxy that is trusted.
    pub fn is_from_proxy(&self, session: &Session) -> bool {
        !self.0.is_empty() && peer(session).is_some_and(|peer| self.holds(peer))
    }
}

fn peer(session: &Session) -> Option<IpAddr> {
    if let Some(connection) = connection::of(session) {
        return Some(connection.client);
    }
    // An IPv4 client on a dual-stack listener is the same client.
    session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_canonical())
}

/// An address with or without a port, as proxies write it.
fn hop_address(hop: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(hop).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()));
    address.map(|address: IpAddr| address.to_canonical())
}

fn said_scheme(fields: &HeaderMap) -> Option<&'static str> {
    let said = fields.get_all(FORWARDED_PROTO).iter().next_back()?.as_bytes();
    let last = said.rsplit(|byte| *byte == b',').next()?.trim_ascii();
    if last.eq_ignore_ascii_case(b"https") {
        Some("https")
    } else if last.eq_ignore_ascii_case(b"http") {
        Some("http")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for value in values {
            fields.append(&name, value.parse().unwrap());
        }
        fields
    }

    #[test]
    fn only_trusted_proxies_say_who_the_client_is_and_the_client_cannot() {
        let trusted = Trusted(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()]);
        for (peer, said, expected) in [
            ("192.0.2.1", &["198.51.100.1"][..], "192.0.2.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["203.0.113.9, 198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["203.0.113.9", "198.51.100.1"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1, 10.0.0.2"], "198.51.100.1"),
            ("10.0.0.1", &["198.51.100.1", "10.0.0.2, 10.0.0.3"], "198.51.100.1"),
            ("10.0.0.1", &["10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["198.51.100.1, , 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["198.51.100.1:443"], "198.51.100.1"),
            ("10.0.0.1", &["[2001:db8::1]:443"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("fd00::1", &["2001:db8::1"], "2001:db8::1"),
        ] {
            let client = trusted.behind(peer.parse().unwrap(), &fields(FORWARDED_FOR, said));
            assert_eq!(client, expected.parse::<IpAddr>().unwrap(), "{peer} {said:?}");
        }
        let nobody = Trusted::default().behind("10.0.0.1".parse().unwrap(), &fields(FORWARDED_FOR, &["192.0.2.1"]));
        assert_eq!(nobody, "10.0.0.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn a_scheme_is_one_of_two_words_and_the_nearest_proxy_has_the_last() {
        for (said, expected) in [
            (&["https"][..], Some("https")),
            (&["HTTP"], Some("http")),
            (&["https, http"], Some("http")),
            (&["http", "https"], Some("https")),
            (&["ftp"], None),
            (&[], None),
        ] {
            assert_eq!(said_scheme(&fields(FORWARDED_PROTO, said)), expected, "{said:?}");
        }
    }
}
