//! What is refused before anything else is asked: unsafe framing, targets that two servers could read differently, heads
//! that are too large (threats A6, A7, A11, A12, A14, F2). None of it needs a route, a payment or the network.

use http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};
use pingora::http::RequestHeader;

use super::headers;
use crate::route::PathError;

/// Most bytes of a request's head.
pub(super) const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Most header fields of a request.
pub(super) const HEADERS_MAX: usize = 100;

/// Most header names that `Connection` may nominate; pingora refuses ten, and would do so after the money moved.
const NOMINATIONS_MAX: usize = 9;

/// Why a request is refused unread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("head_too_large")]
    HeadTooLarge,
    #[error("target_too_long")]
    TargetTooLong,
    /// Both `Content-Length` and `Transfer-Encoding`, or several of either, or line ends without CR.
    #[error("unsafe_framing")]
    Framing,
    #[error("invalid_field")]
    Field,
    #[error("invalid_host")]
    Host,
    #[error("target_not_in_origin_form")]
    TargetForm,
    #[error("ambiguous_path")]
    Path,
    #[error("upgrade_not_supported")]
    Upgrade,
    /// `Connection` names fields that a hop must not lose.
    #[error("invalid_connection_header")]
    Connection,
    /// The host is another than the TLS handshake was for.
    #[error("misdirected_request")]
    OtherServer,
    #[error("body_unreadable")]
    Body,
    #[error("body_timeout")]
    BodyTimeout,
}

impl Malformed {
    pub fn status(self) -> StatusCode {
        match self {
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::OtherServer => StatusCode::MISDIRECTED_REQUEST,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// Whether what follows on the connection can't be trusted to be a request.
    pub fn closes(self) -> bool {
        !matches!(self, Self::Path | Self::OtherServer)
    }
}

impl From<PathError> for Malformed {
    fn from(error: PathError) -> Self {
        match error {
            PathError::TooLong => Self::TargetTooLong,
            PathError::NotOriginForm => Self::TargetForm,
            _ => Self::Path,
        }
    }
}

/// Checks a head: `raw` as it came, `head` as it was read.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check(raw: &[u8], head: &RequestHeader) -> Result<(), Malformed> {
    if raw.len() > HEAD_BYTES_MAX || head.headers.len() > HEADERS_MAX {
        return Err(Malformed::HeadTooLarge);
    }
    check_request_line(raw)?;
    check_framing(raw, head)?;
    check_host(head)?;
    check_connection(&head.headers)?;
    check_upgrade(head)
}

/// Checks the head of an HTTP/2 request, and gives it the `Host` that an HTTP/1 request has, so that all that follows need
/// not know the difference. The h2 crate has refused broken framing and malformed pseudo-headers by now.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check_h2(head: &mut RequestHeader) -> Result<(), Malformed> {
    let (mut bytes, mut lengths, mut is_framing, mut is_padded) = (head.raw_path().len(), 0, false, false);
    for (name, value) in &head.headers {
        // As RFC 9113 §6.5.2 counts.
        bytes = bytes.saturating_add(name.as_str().len() + value.len() + 32);
        // §8.2.1: no white space at either end. The h2 crate lets it pass, and HTTP/1 origins would not see it.
        is_padded |= value.as_bytes().trim_ascii().len() != value.len();
        if matches!(*name, header::CONNECTION | header::UPGRADE | header::TRANSFER_ENCODING) {
            is_framing = true;
        }
        if *name == header::CONTENT_LENGTH {
            lengths += 1;
            is_framing |= lengths > 1 || !value.as_bytes().iter().all(u8::is_ascii_digit);
        }
    }
    if bytes > HEAD_BYTES_MAX || head.headers.len() > HEADERS_MAX {
        return Err(Malformed::HeadTooLarge);
    }
    if is_framing {
        return Err(Malformed::Framing);
    }
    if is_padded {
        return Err(Malformed::Field);
    }
    // §8.3.1: one that is valid; for a proxy of HTTP there are two.
    let is_foreign = head.uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https"));
    if is_foreign || head.raw_path().contains(&b'#') {
        return Err(Malformed::TargetForm);
    }
    if let Some(authority) = head.uri.authority().map(|authority| authority.as_str().to_owned()) {
        // Both at once were compared before; `Host` is what origins go by.
        head.insert_header(header::HOST, authority).map_err(|_error| Malformed::Host)?;
    }
    check_host(head)
}

/// Pingora drops fragments, so that what it shows is not what came: the line itself has to be asked. A literal space is
/// escaped in there too by then, and is one spelling with `%20` for everything that follows.
fn check_request_line(raw: &[u8]) -> Result<(), Malformed> {
    // Empty lines before it are skipped (RFC 9112 §2.2).
    let mut lines = raw.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(_method), Some(target), Some(_version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(Malformed::TargetForm);
    };
    if target.contains(&b'#') { Err(Malformed::TargetForm) } else { Ok(()) }
}

fn check_framing(raw: &[u8], head: &RequestHeader) -> Result<(), Malformed> {
    if has_bare_line_feed(raw) {
        return Err(Malformed::Framing);
    }
    let mut encodings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let (encoding, length) = (encodings.next(), lengths.next());
    if encodings.next().is_some() || lengths.next().is_some() {
        return Err(Malformed::Framing);
    }
    let Some(encoding) = encoding else {
        // `Content-Length: 5, 5` is legal and still not worth a difference of opinion with an origin.
        let plain = |value: &http::HeaderValue| value.as_bytes().trim_ascii().iter().all(u8::is_ascii_digit);
        return if length.is_none_or(plain) { Ok(()) } else { Err(Malformed::Framing) };
    };
    // Pingora takes Content-Length out when both are there, so the bytes as they came have to be asked.
    let is_chunked = encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if is_chunked && !has_field(raw, b"content-length") { Ok(()) } else { Err(Malformed::Framing) }
}

/// A line feed without a carriage return before it. Every byte of every head passes here: without branches, so that the
/// compiler takes many at once.
fn has_bare_line_feed(raw: &[u8]) -> bool {
    let Some((first, rest)) = raw.split_first() else { return false };
    let pairs = raw.iter().zip(rest);
    *first == b'\n' || pairs.fold(false, |is_bare, (before, byte)| is_bare | ((*byte == b'\n') & (*before != b'\r')))
}

fn has_field(raw: &[u8], name: &[u8]) -> bool {
    raw.split(|byte| *byte == b'\n').skip(1).any(|line| {
        let field = line.split(|byte| *byte == b':').next().unwrap_or_default();
        field.trim_ascii().eq_ignore_ascii_case(name)
    })
}

/// One host, and one that is a host.
///
/// # Errors
/// Otherwise.
pub(super) fn check_host(head: &RequestHeader) -> Result<(), Malformed> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (None, None) if head.version < Version::HTTP_11 => Ok(()),
        _ => Err(Malformed::Host),
    }
}

/// A host name or address with an optional port; no lists, no userinfo, no escapes.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let (address, after) = rest.split_at(end);
            if !address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.')) {
                return false;
            }
            (address, after.strip_prefix(b"]").unwrap_or_default())
        }
        None => {
            let end = host.iter().position(|byte| *byte == b':').unwrap_or(host.len());
            let (name, after) = host.split_at(end);
            if !name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_')) {
                return false;
            }
            (name, after)
        }
    };
    let is_port = match port.strip_prefix(b":") {
        Some(digits) => !digits.is_empty() && digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        None => port.is_empty(),
    };
    !name.is_empty() && name.len() <= 253 && is_port
}

/// Refuses here, before any payment, what pingora would refuse on the way to the origin, and nominations of our own names.
fn check_connection(fields: &HeaderMap) -> Result<(), Malformed> {
    let mut nominations = 0;
    let tokens =
        fields.get_all(header::CONNECTION).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    for token in tokens.map(<[u8]>::trim_ascii).filter(|token| !token.is_empty()) {
        nominations += 1;
        let is_token = token.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte));
        let Ok(name) = HeaderName::from_bytes(token) else { return Err(Malformed::Connection) };
        let is_framing = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(&name);
        if nominations > NOMINATIONS_MAX || !is_token || is_framing || headers::is_owned(&name) {
            return Err(Malformed::Connection);
        }
    }
    Ok(())
}

/// Upgrades are refused (contract §3), but for `h2c`, which common clients offer with every request and which is dropped,
/// and for a WebSocket's, which the route may allow.
fn check_upgrade(head: &RequestHeader) -> Result<(), Malformed> {
    let is_h2c = |value: &http::HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"h2c");
    if head.headers.get_all(header::UPGRADE).iter().all(is_h2c) || asks_for_websocket(head) {
        Ok(())
    } else {
        Err(Malformed::Upgrade)
    }
}

/// Whether a request is the opening handshake of a WebSocket (RFC 6455 §4.1), without a body that could be mistaken for
/// what follows it.
pub(super) fn asks_for_websocket(head: &RequestHeader) -> bool {
    let mut upgrades = head.headers.get_all(header::UPGRADE).iter();
    let (Some(upgrade), None) = (upgrades.next(), upgrades.next()) else { return false };
    let connections = head.headers.get_all(header::CONNECTION).iter();
    let mut tokens = connections.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let framed = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::EXPECT];
    upgrade.as_bytes().eq_ignore_ascii_case(b"websocket")
        && tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        && head.method == Method::GET
        && head.version == Version::HTTP_11
        && head.headers.contains_key(header::SEC_WEBSOCKET_KEY)
        && !framed.iter().any(|name| head.headers.contains_key(name))
}

/// Methods that no route can have (threat A9).
pub(super) fn is_never_allowed(method: &Method) -> bool {
    matches!(*method, Method::TRACE | Method::CONNECT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &[(&str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in fields {
            head.append_header((*name).to_owned(), *value).unwrap();
        }
        head
    }

    fn checked(fields: &[(&str, &str)]) -> Result<(), Malformed> {
        let mut raw = "GET / HTTP/1.1\r\n".to_owned();
        for (name, value) in fields {
            raw.push_str(&format!("{name}: {value}\r\n"));
        }
        raw.push_str("\r\n");
        // As pingora leaves it: without Content-Length when both are there.
        let both = fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
        let kept: Vec<_> =
            fields.iter().filter(|(name, _)| !both || !name.eq_ignore_ascii_case("content-length")).copied().collect();
        check(raw.as_bytes(), &head(&kept))
    }

    #[test]
    fn targets_that_pingora_would_mend_are_refused() {
        for bad in ["GET /a#b HTTP/1.1\r\n", "GET /a b HTTP/1.1\r\n", "GET /a  HTTP/1.1\r\n", "GET /a\r\n", ""] {
            assert_eq!(check_request_line(bad.as_bytes()), Err(Malformed::TargetForm), "{bad:?}");
        }
        for good in ["GET /a HTTP/1.1\r\nX: a b # c\r\n", "\r\nGET /a HTTP/1.0\r\n"] {
            assert_eq!(check_request_line(good.as_bytes()), Ok(()), "{good:?}");
        }
    }

    #[test]
    fn two_framings_in_one_request_are_refused() {
        for fields in [
            &[("Host", "h"), ("Content-Length", "5"), ("Transfer-Encoding", "chunked")][..],
            &[("Host", "h"), ("Transfer-Encoding", "chunked"), ("CONTENT-length", "5")],
            &[("Host", "h"), ("Transfer-Encoding", "gzip, chunked")],
            &[("Host", "h"), ("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
            &[("Host", "h"), ("Content-Length", "5"), ("Content-Length", "5")],
            &[("Host", "h"), ("Content-Length", "5, 5")],
        ] {
            assert_eq!(checked(fields), Err(Malformed::Framing), "{fields:?}");
        }
        assert_eq!(checked(&[("Host", "h"), ("Transfer-Encoding", "chunked"), ("X", "content-length: 1")]), Ok(()));
    }

    #[test]
    fn lines_that_end_without_carriage_return_are_refused() {
        assert_eq!(check(b"GET / HTTP/1.1\nHost: h\r\n\r\n", &head(&[("Host", "h")])), Err(Malformed::Framing));
        for bare in [&b"\n"[..], b"\na", b"a\n", b"\r\n\n", b"\r\r\na\n\r"] {
            assert!(has_bare_line_feed(bare), "{bare:?}");
        }
        for good in [&b""[..], b"a", b"\r", b"\r\n", b"a\r\n\r\n", b"\ra\r\n"] {
            assert!(!has_bare_line_feed(good), "{good:?}");
        }
    }

    #[test]
    fn a_request_names_exactly_one_plain_host() {
        for good in ["h", "h:80", "H.example.", "127.0.0.1:8402", "[::1]", "[::1]:8402", "a_b.c-d"] {
            assert_eq!(checked(&[("Host", good)]), Ok(()), "{good}");
        }
        for bad in
            ["", "a, b", "a b", "u@h", "h:", "h:x", "h:123456", ":80", "[::1", "[::1]x", "[]", "h/p", "h%41", "a:1:2"]
        {
            assert_eq!(checked(&[("Host", bad)]), Err(Malformed::Host), "{bad}");
        }
        assert_eq!(checked(&[]), Err(Malformed::Host));
        assert_eq!(checked(&[("Host", "a"), ("Host", "a")]), Err(Malformed::Host));
        let mut old = head(&[]);
        old.set_version(Version::HTTP_10);
        assert_eq!(check(b"GET / HTTP/1.0\r\n\r\n", &old), Ok(()));
    }

    #[test]
    fn connection_may_not_nominate_what_the_gateway_owns() {
        for bad in
            ["X-Payment-Payer", "close, x-forwarded-for", "Host", "content-length", "a b", "\"x\"", "payment-signature"]
        {
            assert_eq!(checked(&[("Host", "h"), ("Connection", bad)]), Err(Malformed::Connection), "{bad}");
        }
        assert_eq!(checked(&[("Host", "h"), ("Connection", "keep-alive, x-hop")]), Ok(()));
        let many = ["x"; 10].join(",");
        assert_eq!(checked(&[("Host", "h"), ("Connection", many.as_str())]), Err(Malformed::Connection));
    }

    #[test]
    fn upgrades_are_refused_but_for_the_one_that_clients_offer_unasked() {
        assert_eq!(checked(&[("Host", "h"), ("Upgrade", "websocket")]), Err(Malformed::Upgrade));
        assert_eq!(checked(&[("Host", "h"), ("Upgrade", "h2c, foo")]), Err(Malformed::Upgrade));
        assert_eq!(checked(&[("Host", "h"), ("Upgrade", "h2c")]), Ok(()));
        let whole = [("Host", "h"), ("Upgrade", "WebSocket"), ("Connection", "a, Upgrade"), ("Sec-WebSocket-Key", "x")];
        assert_eq!(checked(&whole), Ok(()));
        for missing in 1..whole.len() {
            let fields: Vec<_> =
                whole.iter().enumerate().filter(|(index, _)| *index != missing).map(|(_, field)| *field).collect();
            assert_eq!(checked(&fields).is_ok(), missing == 1);
        }
        for more in [("Content-Length", "0"), ("Upgrade", "websocket"), ("Expect", "100-continue")] {
            assert_eq!(checked(&[&whole[..], &[more]].concat()), Err(Malformed::Upgrade), "{more:?}");
        }
    }

    #[test]
    fn heads_are_bounded_in_bytes_and_fields() {
        let long = "x".repeat(HEAD_BYTES_MAX);
        assert_eq!(checked(&[("Host", "h"), ("X", long.as_str())]), Err(Malformed::HeadTooLarge));
        let many = vec![("X", "y"); HEADERS_MAX];
        assert_eq!(checked(&[&[("Host", "h")], many.as_slice()].concat()), Err(Malformed::HeadTooLarge));
    }
}
