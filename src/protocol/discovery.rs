//! `/.well-known/x402`: what is for sale here, for crawlers and agents (protocol §2.4). One document in both forms that are in
//! use: a list of resource URLs with a version, and the bazaar's list of discovered resources.
//!
//! Rendered once per configuration but for the base of its URLs. Holds terms without quotes: a price here is news, never an
//! offer.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::bazaar::{self, output_part};
use super::challenge::ResourceInfo;
use super::header::escape_non_ascii;
use super::requirements::PaymentRequirements;

/// Most resources in one document; of more the document says how many there are.
pub const LISTED_MAX: usize = 1000;

/// The base of a URL in text that is yet to be completed; JSON text holds no unescaped control characters.
const BASE_MARK: char = '\u{1}';

/// One priced route as it is listed.
#[derive(Debug, Clone)]
pub struct Listed {
    /// Its methods; none means all.
    pub methods: Vec<String>,
    /// Its path; parameters as `{name}`.
    pub path: String,
    /// What is asked on each network.
    pub terms: Vec<PaymentRequirements>,
    /// What is said of it.
    pub resource: ResourceInfo,
}

/// The document, complete but for the base of its URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryDocument {
    pieces: Vec<String>,
}

impl DiscoveryDocument {
    /// Renders it; `updated` is RFC 3339.
    #[must_use]
    pub fn new(listed: &[Listed], updated: &str) -> Self {
        let shown = || listed.iter().take(LISTED_MAX);
        let mut seen = HashSet::new();
        let urls: Vec<String> = shown().map(url_of).filter(|url| seen.insert(url.clone())).collect();
        let items: Vec<Value> = shown().map(|listed| item(listed, updated)).collect();
        let document = json!({
            "version": 1,
            "x402Version": 2,
            "resources": urls,
            "items": items,
            "pagination": { "limit": LISTED_MAX, "offset": 0, "total": listed.len() },
        });
        let text = document.to_string();
        let text = escape_non_ascii(&text);
        // A string that starts with the mark: inside a longer string an escape never follows an unescaped quote.
        let pieces = text.split(r#""\u0001"#).map(str::to_owned).collect();
        Self { pieces }
    }

    /// The document for a base such as `https://shop.example`.
    #[must_use]
    pub fn render(&self, base: &str) -> String {
        let base = Value::from(base).to_string();
        // The quote that opens the string stays with the base.
        let base = base.strip_suffix('"').unwrap_or_default();
        self.pieces.join(&escape_non_ascii(base))
    }
}

fn url_of(listed: &Listed) -> String {
    format!("{BASE_MARK}{}", listed.path.replace("{*", "{"))
}

fn item(listed: &Listed, updated: &str) -> Value {
    let resource = &listed.resource;
    let mut item = Map::new();
    let mut say = |key: &str, value: Value| drop(item.insert(key.to_owned(), value));
    say("resource", url_of(listed).into());
    say("type", "http".into());
    say("x402Version", 2.into());
    if !listed.methods.is_empty() {
        say("methods", json!(listed.methods));
    }
    say("accepts", json!(listed.terms));
    say("lastUpdated", updated.into());
    for (key, text) in [("description", &resource.description), ("mimeType", &resource.mime_type)] {
        if !text.is_empty() {
            say(key, text.as_str().into());
        }
    }
    if let Some(schema) = &resource.output_schema {
        say("outputSchema", output_part(schema).clone());
    }
    if let Some(extension) = bazaar::extension(resource) {
        say("extensions", json!({ bazaar::BAZAAR: extension }));
    }
    Value::Object(item)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Usage;

    fn listed(path: &str, description: &str) -> Listed {
        let terms = json!({"scheme":"exact","network":"eip155:84532","amount":"10000","asset":"0xA","payTo":"0xB",
            "maxTimeoutSeconds":60,"extra":{"name":"USDC"}});
        let usage = Some(Usage { path: path.to_owned(), ..Usage::default() });
        Listed {
            methods: vec!["GET".to_owned()],
            path: path.to_owned(),
            terms: vec![serde_json::from_value(terms).unwrap()],
            resource: ResourceInfo { description: description.to_owned(), usage, ..ResourceInfo::default() },
        }
    }

    #[test]
    fn one_document_reads_as_a_list_of_urls_and_as_discovered_resources() {
        let document = DiscoveryDocument::new(
            &[listed("/a", "Köln"), listed("/u/{id}", ""), listed("/f/{*rest}", "")],
            "2026-01-02T03:04:05Z",
        );
        let text = document.render("https://shop.example");
        assert!(text.is_ascii());
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&read["version"], &read["x402Version"]), (&json!(1), &json!(2)));
        assert_eq!(
            read["resources"],
            json!(["https://shop.example/a", "https://shop.example/u/{id}", "https://shop.example/f/{rest}"])
        );
        let item = &read["items"][0];
        assert_eq!(item["resource"], "https://shop.example/a");
        assert_eq!((&item["type"], &item["x402Version"]), (&json!("http"), &json!(2)));
        assert_eq!(item["accepts"][0]["amount"], "10000");
        assert!(item["accepts"][0]["extra"].get("quote").is_none(), "a price list seals no offers");
        assert_eq!((&item["description"], &item["methods"]), (&json!("Köln"), &json!(["GET"])));
        assert_eq!(read["items"][1]["extensions"]["bazaar"]["routeTemplate"], "/u/:id");
        assert_eq!(read["pagination"], json!({"limit": LISTED_MAX, "offset": 0, "total": 3}));
    }

    #[test]
    fn neither_a_text_nor_a_host_breaks_out_of_the_document() {
        let document = DiscoveryDocument::new(&[listed("/a", "\u{1}/x\"\\u0001\",\"y\":\"")], "now");
        let read: Value = serde_json::from_str(&document.render("http://h\",\"x\":\"")).unwrap();
        assert_eq!(read["resources"], json!(["http://h\",\"x\":\"/a"]));
        assert_eq!(read["items"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_long_list_is_cut_and_says_how_long_it_was() {
        let many: Vec<Listed> = (0..LISTED_MAX + 5).map(|index| listed(&format!("/r{index}"), "")).collect();
        let read: Value = serde_json::from_str(&DiscoveryDocument::new(&many, "now").render("http://h")).unwrap();
        assert_eq!(read["resources"].as_array().unwrap().len(), LISTED_MAX);
        assert_eq!(read["pagination"]["total"], LISTED_MAX + 5);
    }
}
