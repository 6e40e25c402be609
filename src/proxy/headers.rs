//! Header names that are the gateway's: never taken from a client, never passed on from an origin (threats A8, A14, A19).

use std::net::IpAddr;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};

use super::limits::{Left, Pass};
use crate::config::UpstreamConfig;
use crate::payment::{Receipt, Sale};
use crate::protocol::{encode_json, names};

/// Every name that starts so is the gateway's, in both directions.
const PAYMENT_PREFIX: &str = "x-payment";

/// x402's names without that prefix.
const PAYMENT: [&str; 3] = [names::PAYMENT_SIGNATURE, names::PAYMENT_REQUIRED, names::PAYMENT_RESPONSE];

/// With this the gateway's own page asks.
const PAGE: &str = "x-payment-page";

/// Where an answer that is a redirect leads, for that page.
const PAGE_LOCATION: &str = "x-payment-location";

/// Names that are the gateway's besides.
const OWNED: [&str; 9] = [
    "settlement-overrides",
    "sign-in-with-x",
    "extension-responses",
    "idempotency-key",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Names by which a client could have an origin serve another URL or method than the one that was priced.
const OVERRIDES: [&str; 16] = [
    "x-original-url",
    "x-original-uri",
    "x-original-host",
    "x-rewrite-url",
    "x-forwarded-uri",
    "x-forwarded-path",
    "x-forwarded-prefix",
    "x-forwarded-method",
    "x-forwarded-server",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-override-url",
    "x-envoy-original-path",
    "x-forwarded-port",
    // CGI-like origins take it for the proxy of their own requests (CVE-2016-5385).
    "proxy",
];

/// draft-ietf-httpapi-ratelimit-headers: what is left.
pub(super) const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Of how much, and in which time.
pub(super) const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

pub(super) fn rate_limit(left: &Left) -> String {
    format!("\"free\";r={};t={}", left.requests, left.reset_secs)
}

pub(super) fn rate_limit_policy(left: &Left) -> String {
    format!("\"free\";q={};w={}", left.of, left.period_secs)
}

/// Keeps an answer that was let out without a payment from those who would have to pay for it (threat A16), and tells what is
/// left.
pub(super) fn mark_passed(head: &mut ResponseHeader, pass: &Pass) -> pingora::Result<()> {
    if let Some(left) = pass.left() {
        head.insert_header(RATE_LIMIT, rate_limit(&left))?;
        head.insert_header(RATE_LIMIT_POLICY, rate_limit_policy(&left))?;
    }
    make_private(head)
}

/// Whether a client may not speak this name to an origin, nor have it removed. `idempotency-key` is only the gateway's on
/// paid requests; nominating it is never right.
pub(super) fn is_owned(name: &HeaderName) -> bool {
    is_payment(name) || OWNED.contains(&name.as_str())
}

fn is_payment(name: &HeaderName) -> bool {
    name.as_str().starts_with(PAYMENT_PREFIX) || PAYMENT.contains(&name.as_str())
}

/// What the origin must not see from a client. A client's own `Idempotency-Key` passes on free routes, where the gateway
/// sets none. Underscores count as dashes, since CGI-like origins can't tell the two apart.
fn is_stripped(name: &HeaderName, is_paid: bool) -> bool {
    if name.as_str().contains('_') {
        let dashed = name.as_str().replace('_', "-");
        return HeaderName::from_bytes(dashed.as_bytes()).is_ok_and(|dashed| is_stripped(&dashed, is_paid));
    }
    if name == "idempotency-key" {
        return is_paid;
    }
    is_owned(name) || OVERRIDES.contains(&name.as_str())
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Who asks, for the origin's log.
pub(super) struct Hop<'a> {
    pub client: Option<IpAddr>,
    pub host: Option<&'a HeaderValue>,
    /// `http` or `https`: as clients know the gateway.
    pub scheme: &'static str,
}

/// Prepares the head that goes to the origin: nothing of it that a client could have forged, the gateway's own put in.
pub(super) fn prepare_request(
    head: &mut RequestHeader,
    upstream: &UpstreamConfig,
    hop: &Hop<'_>,
    sale: Option<Sale<'_>>,
) -> pingora::Result<()> {
    strip(head, sale.is_some());
    tell_hop(head, hop)?;
    if hop.host.is_none()
        && let Some(server) = upstream.servers.first()
    {
        // HTTP/1.0 needs no Host; the origin is spoken to in HTTP/1.1, and would refuse what was just paid for.
        head.insert_header(header::HOST, server.as_str())?;
    }
    for (name, value) in &upstream.set_headers {
        let mut value = HeaderValue::from_str(value.expose())
            .map_err(|_error| pingora::Error::explain(pingora::ErrorType::InvalidHTTPHeader, "set_headers"))?;
        value.set_sensitive(true);
        head.insert_header(name.clone(), value)?;
    }
    if let Some(Sale { record, transaction }) = sale {
        head.insert_header("X-Payment-Payer", record.claim.payer.as_str())?;
        head.insert_header("X-Payment-Network", record.claim.network.as_str())?;
        if let Some(transaction) = transaction {
            head.insert_header("X-Payment-Transaction", transaction)?;
        }
        head.insert_header("X-Payment-Amount", record.claim.amount.to_string())?;
        head.insert_header("X-Payment-Asset", record.claim.asset.as_str())?;
        head.insert_header("Idempotency-Key", record.record.0.as_str())?;
    }
    Ok(())
}

fn tell_hop(head: &mut RequestHeader, hop: &Hop<'_>) -> pingora::Result<()> {
    let fields = [
        (X_FORWARDED_FOR, "X-Forwarded-For", hop.client.map(address_value).transpose()?),
        (X_FORWARDED_HOST, "X-Forwarded-Host", hop.host.cloned()),
        (X_FORWARDED_PROTO, "X-Forwarded-Proto", Some(HeaderValue::from_static(hop.scheme))),
    ];
    if is_plain(head) {
        // One map that grows once, instead of two that grow by turns: with few fields, that is most of what forwarding adds.
        let nothing = RequestHeader::from(Request::new(()).into_parts().0);
        let mut parts = Parts::from(std::mem::replace(head, nothing));
        parts.headers.reserve(fields.len());
        for (name, _, value) in fields {
            value.map(|value| parts.headers.insert(name, value));
        }
        *head = RequestHeader::from(parts);
        return Ok(());
    }
    for (_, name, value) in fields {
        value.map_or(Ok(()), |value| head.insert_header(name, value))?;
    }
    Ok(())
}

/// Whether a head that goes out as HTTP/1.1 says nothing but its parts: no letter case of a client's choice, and no target other
/// than its URI.
fn is_plain(head: &RequestHeader) -> bool {
    let is_plain_name = |name: &[u8]| name == b"Host" || !name.iter().any(u8::is_ascii_uppercase);
    head.version == Version::HTTP_11
        && head.case_header_iter().all(|(name, _)| is_plain_name(name.as_slice()))
        && head.uri.path_and_query().is_some_and(|target| target.as_str().as_bytes() == head.raw_path())
}

/// An address as text. Every forwarded request has one, and the formatting machinery takes ten times as long for IPv4.
fn address_value(address: IpAddr) -> pingora::Result<HeaderValue> {
    let text: Vec<u8> = match address {
        IpAddr::V4(address) => {
            let mut text = Vec::with_capacity(15);
            for octet in address.octets() {
                if !text.is_empty() {
                    text.push(b'.');
                }
                if octet >= 100 {
                    text.push(b'0' + octet / 100);
                }
                if octet >= 10 {
                    text.push(b'0' + octet / 10 % 10);
                }
                text.push(b'0' + octet % 10);
            }
            text
        }
        IpAddr::V6(address) => address.to_string().into_bytes(),
    };
    HeaderValue::from_bytes(&text)
        .map_err(|_error| pingora::Error::explain(pingora::ErrorType::InvalidHTTPHeader, "client address"))
}

fn strip(head: &mut RequestHeader, is_paid: bool) {
    // Free traffic rarely carries any of them: look before anything is allocated.
    if head.headers.keys().any(|name| is_stripped(name, is_paid)) {
        let names: Vec<HeaderName> = head.headers.keys().filter(|name| is_stripped(name, is_paid)).cloned().collect();
        for name in names {
            head.remove_header(&name);
        }
    }
}

/// Takes out of an origin's answer what only the gateway may say (threat A19).
pub(super) fn strip_response(head: &mut ResponseHeader) {
    let is_ours =
        |name: &HeaderName| is_payment(name) || name == "settlement-overrides" || name == "extension-responses";
    if head.headers.keys().any(is_ours) {
        let names: Vec<HeaderName> = head.headers.keys().filter(|name| is_ours(name)).cloned().collect();
        for name in names {
            head.remove_header(&name);
        }
    }
}

/// Leaves nothing but the status: an interim answer to a request that is not paid for yet says nothing of the final one.
pub(super) fn empty(head: &mut ResponseHeader) {
    let names: Vec<HeaderName> = head.headers.keys().cloned().collect();
    for name in names {
        head.remove_header(&name);
    }
}

/// Adds the outcome to a paid answer, and keeps shared caches from giving it to somebody else (threat A16).
pub(super) fn mark_paid(head: &mut ResponseHeader, receipt: &Receipt) -> pingora::Result<()> {
    let outcome = encode_json(&receipt.response());
    head.insert_header(names::PAYMENT_RESPONSE, outcome.as_str())?;
    head.insert_header(names::X_PAYMENT_RESPONSE, outcome.as_str())?;
    make_private(head)
}

/// Gives the gateway's own page a redirect as a header of an answer with status 200: browsers keep redirects from scripts, receipt and
/// all, and who paid for one must get it.
pub(super) fn show_redirect(head: &mut ResponseHeader, request: &HeaderMap) -> pingora::Result<()> {
    let is_redirect = matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308);
    if is_redirect
        && request.contains_key(PAGE)
        && let Some(location) = head.remove_header(&header::LOCATION)
    {
        head.set_status(StatusCode::OK)?;
        head.insert_header(PAGE_LOCATION, location)?;
    }
    Ok(())
}

/// Headers that caches between gateway and client believe more than `Cache-Control` (RFC 9213 and its forerunners).
fn is_cache_override(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.ends_with("cdn-cache-control") || matches!(name, "surrogate-control" | "edge-control" | "x-accel-expires")
}

/// Adds `private` to what the origin said of caching, `private, no-store` if it said nothing, and `Vary`. What would speak
/// past `Cache-Control` is taken out.
pub(super) fn make_private(head: &mut ResponseHeader) -> pingora::Result<()> {
    let overrides: Vec<HeaderName> = head.headers.keys().filter(|name| is_cache_override(name)).cloned().collect();
    for name in overrides {
        head.remove_header(&name);
    }
    let said = cache_directives(&head.headers);
    let value = if said.is_empty() {
        "private, no-store".to_owned()
    } else {
        // `public` and `s-maxage` speak to shared caches, for which there is nothing here.
        let mut kept = vec!["private"];
        kept.extend(said.iter().map(String::as_str).filter(|directive| !is_shared(directive)));
        kept.join(", ")
    };
    head.insert_header(header::CACHE_CONTROL, value)?;
    head.append_header(header::VARY, "PAYMENT-SIGNATURE, X-PAYMENT").map(|_added| ())
}

fn cache_directives(fields: &HeaderMap) -> Vec<String> {
    let values = fields.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives = values.flat_map(|value| value.split(','));
    directives.map(|directive| directive.trim().to_owned()).filter(|directive| !directive.is_empty()).collect()
}

fn is_shared(directive: &str) -> bool {
    let name = directive.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(name.as_str(), "public" | "private" | "s-maxage" | "proxy-revalidate")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Secret;

    fn upstream() -> UpstreamConfig {
        UpstreamConfig {
            name: "api".into(),
            servers: vec!["127.0.0.1:1".into()],
            tls: false,
            tls_server_name: None,
            tls_ca: None,
            tls_client: None,
            http2: false,
            balance: crate::config::Balance::RoundRobin,
            health: None,
            total_timeout: None,
            max_concurrent: None,
            queue_timeout: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(1),
            set_headers: vec![("authorization".parse().unwrap(), Secret::new("origin's own".into()))],
        }
    }

    #[test]
    fn a_redirect_is_told_as_a_header_to_the_page_only() {
        let redirected = |status: u16, location: Option<&'static str>, page: bool| {
            let mut head = ResponseHeader::build(status, None).unwrap();
            if let Some(location) = location {
                head.insert_header(header::LOCATION, location).unwrap();
            }
            let mut request = HeaderMap::new();
            if page {
                request.insert("x-payment-page", HeaderValue::from_static("1"));
            }
            show_redirect(&mut head, &request).unwrap();
            let field = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            (head.status.as_u16(), field("location"), field("x-payment-location"))
        };
        let there = || Some("/there".to_owned());
        for status in [301, 302, 303, 307, 308] {
            assert_eq!(redirected(status, Some("/there"), true), (200, None, there()));
            assert_eq!(redirected(status, Some("/there"), false), (status, there(), None));
        }
        assert_eq!(redirected(302, None, true), (302, None, None));
        assert_eq!(redirected(201, Some("/there"), true), (201, there(), None));
        assert_eq!(redirected(304, None, true), (304, None, None));
    }

    #[test]
    fn a_client_cannot_forge_what_the_gateway_says() {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for name in [
            "X-Payment",
            "PAYMENT-SIGNATURE",
            "X-Payment-Payer",
            "x-payment-anything",
            "X_Payment_Payer",
            "Sign-In-With-X",
            "Settlement-Overrides",
            "X-Forwarded-For",
            "X-Original-URL",
            "X-HTTP-Method-Override",
            "x_http_method_override",
            "X-Envoy-Original-Path",
            "Proxy",
            "Authorization",
        ] {
            head.append_header(name.to_owned(), "forged").unwrap();
            head.append_header(name.to_owned(), "twice").unwrap();
        }
        head.append_header("Accept", "*/*").unwrap();
        head.append_header("Idempotency-Key", "the client's own").unwrap();
        let host = HeaderValue::from_static("shop");
        let hop = Hop { client: Some(IpAddr::from([10, 0, 0, 1])), host: Some(&host), scheme: "http" };
        prepare_request(&mut head, &upstream(), &hop, None).unwrap();
        let mut left: Vec<_> =
            head.headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(
            left,
            [
                "accept=*/*",
                "authorization=origin's own",
                "idempotency-key=the client's own",
                "x-forwarded-for=10.0.0.1",
                "x-forwarded-host=shop",
                "x-forwarded-proto=http"
            ]
        );
        assert!(is_stripped(&HeaderName::from_static("idempotency-key"), true));
    }

    /// What the origin gets of a head with these fields.
    fn told(target: &[u8], version: Version, fields: &[(&'static str, &str)]) -> (RequestHeader, Vec<String>) {
        let mut head = RequestHeader::build("POST", target, Some(fields.len())).unwrap();
        head.set_version(version);
        head.set_send_end_stream(false);
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        let host = HeaderValue::from_static("shop");
        let hop = Hop { client: Some(IpAddr::from([10, 0, 0, 1])), host: Some(&host), scheme: "https" };
        tell_hop(&mut head, &hop).unwrap();
        let mut wire = Vec::new();
        head.header_to_h1_wire(&mut wire);
        let mut lines: Vec<_> = String::from_utf8_lossy(&wire).lines().map(str::to_owned).collect();
        lines.sort_by_key(|line| line.to_ascii_lowercase());
        (head, lines)
    }

    #[test]
    fn who_asks_is_told_in_whatever_letter_case_a_client_chose() {
        let hop = ["x-forwarded-for: 10.0.0.1", "x-forwarded-host: shop", "x-forwarded-proto: https"];
        let (_, lines) = told(b"/a?b", Version::HTTP_11, &[("Host", "shop"), ("x-mine", "1"), ("x-mine", "2")]);
        assert_eq!(lines, [["Host: shop"].as_slice(), &hop[..2], &hop[2..], &["x-mine: 1", "x-mine: 2"]].concat());
        let (_, lines) = told(b"/", Version::HTTP_11, &[("Host", "shop"), ("X-Mine", "1"), ("x-mine", "2")]);
        assert!(lines.contains(&"X-Mine: 1".to_owned()) && lines.contains(&"x-mine: 2".to_owned()), "{lines:?}");
        assert!(lines.contains(&"X-Forwarded-For: 10.0.0.1".to_owned()), "{lines:?}");
    }

    #[test]
    fn who_asks_is_told_without_a_change_of_the_request() {
        for target in ["/", "/a%2fb?c=%20", "*", "http://shop/a?b", "/\u{fc}"]
            .map(str::as_bytes)
            .iter()
            .chain(&[b"/\xfc".as_slice()])
        {
            for version in [Version::HTTP_11, Version::HTTP_2] {
                let (head, _) = told(target, version, &[("Host", "shop")]);
                assert_eq!((head.raw_path(), head.version), (*target, version));
                assert_eq!(head.method, http::Method::POST);
                assert!(head.headers.contains_key("x-forwarded-for") && head.send_end_stream() != Some(true));
            }
        }
    }

    #[test]
    fn addresses_are_spelled_as_everywhere() {
        for number in (0..=255).chain([0x0102_0304, 0x0a64_ff63, 0x7f00_0001, 0xffff_ffff, 0xc0a8_0a09]) {
            let address = std::net::Ipv4Addr::from(u32::rotate_left(number, number % 32));
            assert_eq!(address_value(address.into()).unwrap(), address.to_string().as_str());
        }
        assert_eq!(address_value("2001:db8::1".parse().unwrap()).unwrap(), "2001:db8::1");
    }

    #[test]
    fn a_request_without_host_gets_one_on_its_way() {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        prepare_request(&mut head, &upstream(), &Hop { client: None, host: None, scheme: "http" }, None).unwrap();
        assert_eq!(head.headers.get(header::HOST).unwrap(), "127.0.0.1:1");
        assert!(!head.headers.contains_key("x-forwarded-host"));
    }

    #[test]
    fn an_origin_cannot_speak_for_the_gateway() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for name in ["PAYMENT-RESPONSE", "X-PAYMENT-RESPONSE", "PAYMENT-REQUIRED", "Settlement-Overrides", "ETag"] {
            head.append_header(name.to_owned(), "x").unwrap();
        }
        strip_response(&mut head);
        assert_eq!(head.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["etag"]);
    }

    #[test]
    fn a_paid_answer_is_kept_from_shared_caches() {
        for (said, expected) in [
            (None, "private, no-store"),
            (Some("public, max-age=60"), "private, max-age=60"),
            (Some("s-maxage=9,no-cache"), "private, no-cache"),
            (Some("Private"), "private"),
        ] {
            let mut head = ResponseHeader::build(200, None).unwrap();
            if let Some(said) = said {
                head.insert_header(header::CACHE_CONTROL, said).unwrap();
            }
            make_private(&mut head).unwrap();
            assert_eq!(head.headers.get(header::CACHE_CONTROL).unwrap(), expected);
            assert_eq!(head.headers.get(header::VARY).unwrap(), "PAYMENT-SIGNATURE, X-PAYMENT");
        }
    }

    #[test]
    fn no_header_tells_a_cache_to_keep_a_paid_answer_all_the_same() {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for name in [
            "CDN-Cache-Control",
            "Cloudflare-CDN-Cache-Control",
            "Surrogate-Control",
            "Edge-Control",
            "X-Accel-Expires",
        ] {
            head.append_header(name.to_owned(), "public, max-age=60").unwrap();
        }
        make_private(&mut head).unwrap();
        assert_eq!(head.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["cache-control", "vary"]);
    }
}
