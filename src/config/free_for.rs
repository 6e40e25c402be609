//! From typed to validated: who is let through without a payment.

use http::{HeaderName, header};

use super::model::FreeFor;
use super::raw;
use super::reader::{At, Report, shown};
use super::secret::Secret;
use super::secret_source::Secrets;
use crate::types::AddressRange;

/// Shorter keys can be guessed by who asks often enough.
const KEY_BYTES_MIN: usize = 16;

/// More than anybody hands out by hand.
const KEYS_MAX: usize = 1000;

/// `section` names the place, `trusted` are the proxies in front: a request whose client they don't tell seems to come from
/// themselves, and would be let through whoever sent it.
pub(super) fn free_for(
    section: &str,
    raw: Option<&At<raw::FreeFor>>,
    trusted: &[AddressRange],
    secrets: &Secrets<'_>,
    report: &mut Report,
) -> Option<FreeFor> {
    let Some(At { value: raw, location }) = raw else { return Some(FreeFor::default()) };
    let section = format!("{section}.free_for");
    if raw.keys.is_none() && raw.addresses.is_none() {
        let hint = "add keys = [{ env = \"NAME\" }] or addresses = [\"192.0.2.0/24\"]";
        report.error_with_hint(*location, format!("{section} names nobody"), hint);
        return None;
    }
    let header = match (&raw.keys, raw.header.as_ref()?) {
        (Some(_), name) => Some(header_name(&section, name, report)?),
        (None, _) => None,
    };
    let mut keys: Vec<Secret> = Vec::new();
    for At { value: source, location } in raw.keys.iter().flat_map(|keys| &keys.value.0) {
        let key = secrets.read(source, report)?;
        let length = key.expose().len();
        if length < KEY_BYTES_MIN || !key.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!(
                "{section}.keys: expected {KEY_BYTES_MIN} or more printable ASCII characters without spaces, got {length} bytes"
            );
            report.error_with_hint(*location, message, "openssl rand -hex 32 makes one");
            return None;
        }
        if keys.contains(&key) {
            report.error(*location, format!("{section}.keys: the same key is given twice"));
            return None;
        }
        keys.push(key);
    }
    if keys.len() > KEYS_MAX {
        report.error(*location, format!("{section}.keys: expected at most {KEYS_MAX}, got {}", keys.len()));
        return None;
    }
    let mut addresses = Vec::new();
    for At { value: text, location } in raw.addresses.iter().flat_map(|list| &list.value.0) {
        let range: AddressRange = match text.parse() {
            Ok(range) => range,
            Err(error) => {
                report.error(*location, format!("{section}.addresses: {error}, got {}", shown(text)));
                return None;
            }
        };
        if let Some(proxy) = trusted.iter().find(|proxy| proxy.overlaps(&range)) {
            let message = format!("{section}.addresses: {range} overlaps {proxy} of server.trusted_proxies");
            let hint = "who comes from there may be a proxy that speaks for anybody; name the callers' own addresses";
            report.error_with_hint(*location, message, hint);
            return None;
        }
        addresses.push(range);
    }
    Some(FreeFor { keys, header, addresses })
}

/// A header that can carry a key and that isn't the gateway's own or the connection's.
fn header_name(section: &str, name: &At<String>, report: &mut Report) -> Option<HeaderName> {
    let is_taken = |name: &HeaderName| {
        let text = name.as_str();
        let is_ours = text.starts_with("x-payment") || text.starts_with("payment-") || text.starts_with("x-forwarded");
        let is_framing = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION];
        is_ours || is_framing.contains(name) || text.contains('_') || [header::COOKIE, header::EXPECT].contains(name)
    };
    match HeaderName::from_bytes(name.value.as_bytes()) {
        Ok(header) if !is_taken(&header) => Some(header),
        _ => {
            let message = format!(
                "{section}.header: expected a header of its own such as \"X-Api-Key\" or \"Authorization\", got {}",
                shown(&name.value)
            );
            report.error(name.location, message);
            None
        }
    }
}
