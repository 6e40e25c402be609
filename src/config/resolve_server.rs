//! From typed to validated: `[server]`.

use std::thread::available_parallelism;

use url::Url;

use super::free_for::free_for;
use super::leaf::{List, OneOrMany};
use super::model::{LimitsConfig, Rates, ServerConfig, TlsCertificate};
use super::raw::{Limits, Server, Tls};
use super::reader::{At, Report, shown};
use super::resolve::bounded;
use super::secret_source::Secrets;
use crate::types::{AddressRange, AtomicAmount, DecimalAmount};

const THREADS_MAX: u64 = 1024;
const DELIVERIES_MAX: u64 = 100;
const QUOTE_KEY_BYTES_MIN: usize = 32;

/// More than a machine has ports for.
const CONNECTIONS_MAX: u64 = 10_000_000;

/// A rate that no network reaches keeps everybody out.
const RATE_MAX: u64 = 1_000_000_000;

/// The section as far as it is valid; what isn't has been reported.
pub(super) fn server(raw: Server, secrets: &Secrets<'_>, report: &mut Report) -> Option<ServerConfig> {
    let public_url = raw.public_url.and_then(|url| public_url(&url, report));
    let threads = match raw.threads {
        Some(threads) => bounded("server.threads", &threads, 1..=THREADS_MAX, report).unwrap_or(1),
        None => available_parallelism().map_or(1, |threads| u64::try_from(threads.get()).unwrap_or(1)),
    };
    let quote_key = raw.quote_key.and_then(|source| {
        let key = secrets.read(&source.value, report)?;
        let length = key.expose().len();
        if length < QUOTE_KEY_BYTES_MIN {
            let message = format!("server.quote_key: expected {QUOTE_KEY_BYTES_MIN} bytes or more, got {length}");
            report.error_with_hint(source.location, message, "openssl rand -hex 32 makes one");
            return None;
        }
        Some(key)
    });
    let tls = raw.tls.map(|tls| certificates(&tls.value, secrets, report)).unwrap_or_default();
    let trusted_proxies = raw
        .trusted_proxies
        .map(|ranges| address_ranges("server.trusted_proxies", &ranges.value, report))
        .unwrap_or_default();
    let free_for = free_for("server", raw.free_for.as_ref(), &trusted_proxies, secrets, report).unwrap_or_default();
    let proxy_protocol = raw.proxy_protocol?;
    if proxy_protocol.value && trusted_proxies.is_empty() {
        let message = "server.proxy_protocol: nobody is trusted to say who the client is";
        let hint = "add trusted_proxies = [\"10.0.0.0/8\"] with the addresses of the proxies in front";
        report.error_with_hint(proxy_protocol.location, message, hint);
    }
    let max_deliveries = raw.max_deliveries?;
    let max_deliveries = bounded("server.max_deliveries", &max_deliveries, 1..=DELIVERIES_MAX, report).unwrap_or(1);
    Some(ServerConfig {
        listen: raw.listen?.value,
        tls,
        trusted_proxies,
        proxy_protocol: proxy_protocol.value,
        limits: limits(raw.limits?.value, report)?,
        public_url,
        discovery: raw.discovery?.value,
        threads: usize::try_from(threads).ok()?,
        quote_key,
        offer_ttl: raw.offer_ttl?.value,
        max_price: max_price(&raw.max_price?, report),
        max_deliveries: u32::try_from(max_deliveries).ok()?,
        redeliver_for: raw.redeliver_for?.value,
        drain_timeout: raw.drain_timeout?.value,
        upgrade_socket: raw.upgrade_socket.map(|path| secrets.dir.join(path.value)),
        free_for,
    })
}

fn certificates(raw: &OneOrMany<Tls>, secrets: &Secrets<'_>, report: &mut Report) -> Vec<TlsCertificate> {
    let mut read = |At { value, location }: &At<Tls>| {
        let cert = secrets.existing_file(value.cert.as_ref()?, report);
        let key = secrets.existing_private_file(value.key.as_ref()?, report);
        Some(TlsCertificate { cert: cert?, key: key?, location: *location })
    };
    raw.0.iter().filter_map(&mut read).collect()
}

/// The ranges that can be read.
pub(super) fn address_ranges(key: &str, raw: &List<String>, report: &mut Report) -> Vec<AddressRange> {
    let mut read = |At { value, location }: &At<String>| match value.parse::<AddressRange>() {
        Ok(range) => Some(range),
        Err(error) => {
            report.error(*location, format!("{key}: {error}, got {}", shown(value)));
            None
        }
    };
    raw.0.iter().filter_map(&mut read).collect()
}

fn limits(raw: Limits, report: &mut Report) -> Option<LimitsConfig> {
    let mut count = |key: &str, number: &At<u64>| {
        let number = bounded(key, number, 1..=CONNECTIONS_MAX, report).unwrap_or(1);
        usize::try_from(number).ok()
    };
    let connections = count("server.limits.connections", &raw.connections?)?;
    let connections_per_address = count("server.limits.connections_per_address", &raw.connections_per_address?)?;
    let payments_per_address = count("server.limits.payments_per_address", &raw.payments_per_address?)?;
    let verifications = count("server.limits.verifications", &raw.verifications?)?;
    let rates =
        Rates { unpaid: raw.unpaid_rate.map(|at| at.value), paid: raw.paid_rate.map(|at| at.value), total: None };
    let mut rate = |key: &str, number: &At<u64>| bounded(key, number, 0..=RATE_MAX, report).unwrap_or_default();
    Some(LimitsConfig {
        connections,
        connections_per_address,
        head_timeout: raw.head_timeout?.value,
        idle_timeout: raw.idle_timeout?.value,
        min_body_rate: rate("server.limits.min_body_rate", &raw.min_body_rate?),
        min_response_rate: rate("server.limits.min_response_rate", &raw.min_response_rate?),
        rates,
        payments_per_address,
        verifications,
    })
}

fn public_url(text: &At<String>, report: &mut Report) -> Option<Url> {
    let origin_only = |url: &Url| {
        url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none()
    };
    match Url::parse(&text.value) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() && origin_only(&url) => Some(url),
        _ => {
            let message = "server.public_url: expected scheme and host only, such as \"https://shop.example\"";
            report.error(text.location, format!("{message}, got {}", shown(&text.value)));
            None
        }
    }
}

/// The bound; one that can't be read is reported and gives way to one that no price exceeds, so that routes are not blamed.
fn max_price(text: &At<String>, report: &mut Report) -> DecimalAmount {
    let parsed = text.value.strip_prefix('$').and_then(|dollars| dollars.parse::<DecimalAmount>().ok());
    match parsed {
        Some(amount) if !amount.is_zero() => amount,
        _ => {
            let message = format!("server.max_price: expected dollars such as \"$100\", got {}", shown(&text.value));
            report.error(text.location, message);
            DecimalAmount::from_atomic(AtomicAmount::from(u64::MAX), 0)
        }
    }
}
