//! The 402: one answer for v1 and v2 clients (protocol §1.3), rendered once per route but for reason, resource and quotes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::bazaar::{self, BAZAAR, Usage, output_part};
use super::header::escape_non_ascii;
use super::identifier::extensions;
use super::quote::{QuoteKey, QuoteNonce, terms_digest};
use super::requirements::{PaymentRequirements, QUOTE_KEY};
use super::vitwit;
use crate::types::{IdentifierRule, UnixMillis};

/// Most bytes of a `PAYMENT-REQUIRED` header; Node clients cap all headers of an answer at 16 KiB.
const HEADER_BYTES_MAX: usize = 8 * 1024;

/// Most bytes of an `X-Payment-Requirements` header, which stands beside it.
const VITWIT_BYTES_MAX: usize = 4 * 1024;

/// Room left in the header for what differs per request: reason and resource URL.
const VARIABLE_BYTES: usize = 1024;

/// What is said of the resource itself.
#[derive(Debug, Clone, Default)]
pub struct ResourceInfo {
    /// For people.
    pub description: String,
    /// Media type of the answer.
    pub mime_type: String,
    /// v1 `outputSchema`, or the answer's schema alone.
    pub output_schema: Option<Value>,
    /// How it is called, where catalogues may know.
    pub usage: Option<Usage>,
    /// Whether purchases may or must be named.
    pub identifier: IdentifierRule,
}

/// One offer of a route.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The terms.
    pub terms: PaymentRequirements,
    /// Their digest on this route, which quotes seal.
    pub digest: [u8; 32],
}

impl Offer {
    /// An offer on a route.
    #[must_use]
    pub fn new(route: &str, terms: PaymentRequirements) -> Self {
        let digest = terms_digest(route, &terms);
        Self { terms, digest }
    }
}

/// Why a route's terms can't be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChallengeError {
    /// Too many or too long offers.
    #[error("the terms take {0} bytes as a header, at most {HEADER_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// The same for the vitwit dialect's header.
    #[error("the terms in the vitwit dialect take {0} bytes as a header, at most {VITWIT_BYTES_MAX} are allowed")]
    VitwitTooLong(usize),
}

/// A rendered 402.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// The value of `PAYMENT-REQUIRED`.
    pub header: String,
    /// The JSON body: v1 terms where a v1 client can read all of them, the v2 terms otherwise.
    pub body: String,
    /// The value of `X-Payment-Requirements`, where the vitwit dialect is spoken: the first offer alone.
    pub vitwit: Option<String>,
}

#[derive(Debug, Clone)]
enum Part {
    Static(String),
    Reason,
    Url,
    Quote(usize),
}

/// A route's terms, ready to be completed per request. Offers of networks that are out of business are left out by
/// rendering another template.
#[derive(Debug, Clone)]
pub struct ChallengeTemplate {
    header: Vec<Part>,
    body: Option<Vec<Part>>,
    vitwit: Option<Vec<Part>>,
    digests: Vec<[u8; 32]>,
}

// Placeholders are control characters, which JSON text never holds unescaped.
const REASON_MARK: char = '\u{1}';
const URL_MARK: char = '\u{2}';
const QUOTE_MARK: char = '\u{3}';

impl ChallengeTemplate {
    /// Renders the terms of a route; `with_vitwit` also in the vitwit dialect.
    ///
    /// # Errors
    /// When a header would outgrow its bounds, 8 KiB or for the vitwit dialect 4.
    pub fn new(offers: &[Offer], resource: &ResourceInfo, with_vitwit: bool) -> Result<Self, ChallengeError> {
        let header = split(&v2_terms(offers, resource), true);
        let v1: Vec<Value> = offers
            .iter()
            .filter(|offer| offer.terms.network.is_v1_safe())
            .map(|offer| v1_entry(offer, resource, offer.terms.network.v1_name(), v1_schema(resource)))
            .collect();
        let body = (!v1.is_empty())
            .then(|| split(&json!({"x402Version": 1, "error": REASON_MARK.to_string(), "accepts": v1}), false));
        let vitwit = offers.first().filter(|_offer| with_vitwit).map(|first| vitwit_terms(first, resource));
        let template = Self { header, body, vitwit, digests: offers.iter().map(|offer| offer.digest).collect() };
        let bytes = bytes_of(&template.header).div_ceil(3) * 4;
        let vitwit_bytes = template.vitwit.as_deref().map_or(0, bytes_of);
        if bytes > HEADER_BYTES_MAX {
            Err(ChallengeError::TooLong(bytes))
        } else if vitwit_bytes > VITWIT_BYTES_MAX {
            Err(ChallengeError::VitwitTooLong(vitwit_bytes))
        } else {
            Ok(template)
        }
    }

    /// Completes the 402 for one request. `reason` is plain text, `url` an absolute URL.
    #[must_use]
    pub fn render(&self, reason: &str, url: &str, key: &QuoteKey, nonce: QuoteNonce, expires: UnixMillis) -> Challenge {
        let reason = escaped(reason);
        let url = escaped(url);
        let quotes: Vec<String> = self.digests.iter().map(|digest| key.seal(digest, nonce, expires)).collect();
        let fill = |parts: &[Part]| {
            let mut text = String::with_capacity(2048);
            for part in parts {
                match part {
                    Part::Static(piece) => text.push_str(piece),
                    Part::Reason => text.push_str(&reason),
                    Part::Url => text.push_str(&url),
                    Part::Quote(index) => text.push_str(quotes.get(*index).map_or("", String::as_str)),
                }
            }
            text
        };
        let v2 = fill(&self.header);
        let header = STANDARD.encode(&v2);
        let vitwit = self.vitwit.as_deref().map(fill);
        Challenge { header, body: self.body.as_deref().map_or(v2, fill), vitwit }
    }
}

/// How long rendered parts may become.
fn bytes_of(parts: &[Part]) -> usize {
    const QUOTE_BYTES: usize = 55;
    let bytes = |part: &Part| match part {
        Part::Static(piece) => piece.len(),
        Part::Quote(_) => QUOTE_BYTES,
        Part::Reason | Part::Url => VARIABLE_BYTES / 2,
    };
    parts.iter().map(bytes).sum()
}

fn v2_terms(offers: &[Offer], resource: &ResourceInfo) -> Value {
    let accepts: Vec<Value> = offers
        .iter()
        .map(|offer| {
            let mut entry = serde_json::to_value(&offer.terms).unwrap_or_default();
            if let Some(Value::Object(extra)) = entry.get_mut("extra") {
                extra.insert(QUOTE_KEY.to_owned(), QUOTE_MARK.to_string().into());
            }
            entry
        })
        .collect();
    let mut about = Map::new();
    about.insert("url".to_owned(), URL_MARK.to_string().into());
    for (key, text) in [("description", &resource.description), ("mimeType", &resource.mime_type)] {
        if !text.is_empty() {
            about.insert(key.to_owned(), text.as_str().into());
        }
    }
    let mut extensions = extensions(resource.identifier);
    if let (Some(bazaar), Value::Object(extensions)) = (bazaar::extension(resource), &mut extensions) {
        extensions.insert(BAZAAR.to_owned(), bazaar);
    }
    json!({"x402Version": 2, "error": REASON_MARK.to_string(), "resource": about, "accepts": accepts,
        "extensions": extensions})
}

/// v1's `outputSchema`: as configured, with how the resource is called where catalogues may know.
fn v1_schema(resource: &ResourceInfo) -> Option<Value> {
    let configured = resource.output_schema.as_ref();
    let Some(input) = resource.usage.as_ref().and_then(Usage::v1_input) else { return configured.cloned() };
    // Who wrote out v1's pair has said it already.
    if let Some(Value::Object(pair)) = configured
        && pair.get("input").is_some_and(Value::is_object)
        && !pair.contains_key("type")
    {
        let mut pair = pair.clone();
        if let Some(Value::Object(input)) = pair.get_mut("input") {
            input.entry("discoverable").or_insert(Value::Bool(true));
        }
        return Some(Value::Object(pair));
    }
    let mut pair = json!({ "input": input });
    if let (Some(schema), Value::Object(pair)) = (configured, &mut pair) {
        pair.insert("output".to_owned(), output_part(schema).clone());
    }
    Some(pair)
}

/// An entry of a v1 body: absent fields are left out, never null, or v1 JavaScript throws.
fn v1_entry(offer: &Offer, resource: &ResourceInfo, network: Option<&str>, schema: Option<Value>) -> Value {
    let terms = &offer.terms;
    let mut entry = json!({
        "scheme": terms.scheme,
        "network": network.unwrap_or(terms.network.as_str()),
        "maxAmountRequired": terms.amount,
        "resource": URL_MARK.to_string(),
        "description": resource.description,
        "mimeType": resource.mime_type,
        "payTo": terms.pay_to,
        "maxTimeoutSeconds": terms.max_timeout_seconds,
        "asset": terms.asset,
    });
    if let Value::Object(entry) = &mut entry {
        if !terms.extra.is_empty() {
            entry.insert("extra".to_owned(), Value::Object(terms.extra.clone()));
        }
        if let Some(schema) = schema {
            entry.insert("outputSchema".to_owned(), schema);
        }
    }
    entry
}

/// One v1 entry that says its own version: the only place of v1's shape where any network is safe (protocol §1.3).
fn vitwit_terms(offer: &Offer, resource: &ResourceInfo) -> Vec<Part> {
    let network = Some(vitwit::network_name(&offer.terms.network));
    // The header is short, and no catalogue reads it.
    let mut entry = v1_entry(offer, resource, network, resource.output_schema.clone());
    if let Value::Object(entry) = &mut entry {
        entry.insert("x402Version".to_owned(), 1.into());
    }
    split(&entry, false)
}

/// Cuts rendered JSON at its placeholders.
fn split(terms: &Value, has_quotes: bool) -> Vec<Part> {
    let text = terms.to_string();
    let text = escape_non_ascii(&text);
    let mut parts = Vec::new();
    let mut rest = text.as_ref();
    let mut quotes = 0;
    // The whole JSON string, quotes included: inside a longer string the same escape never follows an unescaped quote.
    let marks = [(r#""\u0001""#, REASON_MARK), (r#""\u0002""#, URL_MARK), (r#""\u0003""#, QUOTE_MARK)];
    loop {
        let next = marks.iter().filter_map(|(escape, mark)| rest.find(escape).map(|at| (at, *escape, *mark))).min();
        let Some((at, escape, mark)) = next else { break };
        let (before, after) = rest.split_at(at);
        parts.push(Part::Static(format!("{before}\"")));
        parts.push(match mark {
            REASON_MARK => Part::Reason,
            URL_MARK => Part::Url,
            _ => {
                quotes += 1;
                Part::Quote(quotes - 1)
            }
        });
        // The closing quote stays with what follows.
        rest = after.get(escape.len() - 1..).unwrap_or_default();
    }
    debug_assert!(has_quotes || quotes == 0, "only v2 terms hold quotes");
    parts.push(Part::Static(rest.to_owned()));
    parts
}

/// Text as it stands between the quotes of an ASCII JSON string.
fn escaped(text: &str) -> String {
    let json = Value::from(text).to_string();
    let ascii = escape_non_ascii(&json);
    ascii.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(network: &str) -> Offer {
        let terms = json!({"scheme":"exact","network":network,"amount":"10000","asset":"0xA","payTo":"0xB",
            "maxTimeoutSeconds":60,"extra":{"name":"USDC","version":"2"}});
        Offer::new("GET /a", serde_json::from_value(terms).unwrap())
    }

    fn rendered(offers: &[Offer], resource: &ResourceInfo) -> (Value, Value) {
        let key = QuoteKey::new(&[1; 32]).unwrap();
        let template = ChallengeTemplate::new(offers, resource, false).unwrap();
        let challenge = template.render(
            "it's \"due\" \u{1}é",
            "https://h/p?x=\"",
            &key,
            QuoteNonce::random().unwrap(),
            UnixMillis::from_secs(100),
        );
        assert!(challenge.body.is_ascii() && challenge.vitwit.is_none());
        let header = STANDARD.decode(&challenge.header).unwrap();
        (serde_json::from_slice(&header).unwrap(), serde_json::from_str(&challenge.body).unwrap())
    }

    #[test]
    fn one_answer_carries_v2_terms_in_the_header_and_v1_safe_terms_in_the_body() {
        let resource = ResourceInfo { description: "Wetter für Köln".into(), ..ResourceInfo::default() };
        let (v2, v1) = rendered(&[offer("eip155:84532"), offer("eip155:1")], &resource);
        assert_eq!(v2["accepts"].as_array().unwrap().len(), 2);
        assert_eq!(v2["error"], "it's \"due\" \u{1}é");
        assert_eq!(v2["resource"], json!({"url":"https://h/p?x=\"","description":"Wetter für Köln"}));
        assert_eq!(v2["accepts"][0]["amount"], "10000");
        assert_eq!(v1["x402Version"], 1);
        assert_eq!(v1["accepts"].as_array().unwrap().len(), 1, "ethereum is not v1-safe");
        assert_eq!(
            v1["accepts"][0],
            json!({"scheme":"exact","network":"base-sepolia","maxAmountRequired":"10000","resource":"https://h/p?x=\"",
                "description":"Wetter für Köln","mimeType":"","payTo":"0xB","maxTimeoutSeconds":60,"asset":"0xA",
                "extra":{"name":"USDC","version":"2"}})
        );
    }

    #[test]
    fn each_offer_carries_a_quote_of_its_own_that_opens() {
        let offers = [offer("eip155:84532"), offer("eip155:1")];
        let (v2, _) = rendered(&offers, &ResourceInfo::default());
        let key = QuoteKey::new(&[1; 32]).unwrap();
        for (index, offer) in offers.iter().enumerate() {
            let quote = v2["accepts"][index]["extra"]["quote"].as_str().unwrap();
            assert_eq!(quote.len(), 55);
            assert_eq!(key.open(quote, &offer.digest, UnixMillis::from_secs(1)), super::super::QuoteVerdict::Valid);
        }
    }

    #[test]
    fn without_a_v1_safe_offer_the_body_holds_the_v2_terms() {
        let (v2, body) = rendered(&[offer("eip155:1")], &ResourceInfo::default());
        assert_eq!(v2, body);
    }

    #[test]
    fn a_resource_that_catalogues_may_know_says_how_it_is_called_to_v2_and_v1() {
        let usage = Some(Usage { methods: vec!["GET".into()], path: "/u/{id}".into(), ..Usage::default() });
        let schema = json!({"type": "object"});
        let resource = ResourceInfo { usage, output_schema: Some(schema.clone()), ..ResourceInfo::default() };
        let (v2, v1) = rendered(&[offer("eip155:84532")], &resource);
        assert_eq!(v2["extensions"]["bazaar"]["info"]["input"], json!({"type": "http", "method": "GET"}));
        assert_eq!(v2["extensions"]["bazaar"]["routeTemplate"], "/u/:id");
        let input = json!({"type": "http", "method": "GET", "discoverable": true});
        assert_eq!(v1["accepts"][0]["outputSchema"], json!({"input": input, "output": schema}));
        // What the operator wrote in v1's own form stays, and an offer without any usage is as it was.
        let pair = json!({"input": {"type": "http", "method": "POST"}, "output": {"a": "string"}});
        let resource = ResourceInfo { output_schema: Some(pair.clone()), ..resource };
        let (_, v1) = rendered(&[offer("eip155:84532")], &resource);
        let kept =
            json!({"input": {"type": "http", "method": "POST", "discoverable": true}, "output": {"a": "string"}});
        assert_eq!(v1["accepts"][0]["outputSchema"], kept);
        let (v2, v1) = rendered(&[offer("eip155:84532")], &ResourceInfo { usage: None, ..resource });
        assert_eq!((&v2["extensions"], &v1["accepts"][0]["outputSchema"]), (&json!({}), &pair));
    }

    #[test]
    fn terms_that_outgrow_the_header_are_refused() {
        let resource = ResourceInfo { description: "x".repeat(7000), ..ResourceInfo::default() };
        assert!(matches!(
            ChallengeTemplate::new(&[offer("eip155:1")], &resource, false),
            Err(ChallengeError::TooLong(_))
        ));
    }

    #[test]
    fn the_vitwit_dialect_shows_the_first_offer_as_raw_ascii_json_that_says_its_version() {
        let resource = ResourceInfo { description: "Köln \u{7f}\n".into(), ..ResourceInfo::default() };
        let template = ChallengeTemplate::new(&[offer("cosmos:grand-1"), offer("eip155:1")], &resource, true).unwrap();
        let key = QuoteKey::new(&[1; 32]).unwrap();
        let nonce = QuoteNonce::random().unwrap();
        let challenge = template.render("due", "https://h/ü", &key, nonce, UnixMillis::from_secs(100));
        let text = challenge.vitwit.unwrap();
        assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{text}");
        assert_eq!(
            serde_json::from_str::<Value>(&text).unwrap(),
            json!({"x402Version":1,"scheme":"exact","network":"grand-1","maxAmountRequired":"10000","resource":"https://h/ü",
                "description":"Köln \u{7f}\n","mimeType":"","payTo":"0xB","maxTimeoutSeconds":60,"asset":"0xA",
                "extra":{"name":"USDC","version":"2"}})
        );
    }

    #[test]
    fn vitwit_terms_that_outgrow_their_header_are_refused() {
        let output_schema = Some(json!({ "output": "x".repeat(4000) }));
        let resource = ResourceInfo { output_schema, ..ResourceInfo::default() };
        assert!(ChallengeTemplate::new(&[offer("eip155:1")], &resource, false).is_ok());
        let refused = ChallengeTemplate::new(&[offer("eip155:1")], &resource, true);
        assert!(matches!(refused, Err(ChallengeError::VitwitTooLong(_))));
    }

    #[test]
    fn a_description_with_placeholder_characters_is_not_a_placeholder() {
        for text in ["\\u0001", "\"\\u0001\"", "\u{1}x", "\"\u{2}\""] {
            let resource = ResourceInfo { description: text.into(), ..ResourceInfo::default() };
            let (v2, _) = rendered(&[offer("eip155:84532")], &resource);
            assert_eq!(v2["resource"]["description"], text);
        }
    }
}
