//! The 402 for people: what it costs, where, who gets it, and how to pay. Nothing from elsewhere; without a script it is
//! plain terms, with it a wallet in the browser can pay (EIP-6963, EIP-1193, the Solana wallet standard).

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::config::{PaidRoute, RouteOffer};
use crate::types::DecimalAmount;

/// Whether a person looks at the answer (protocol §1.5).
pub(super) fn is_browser(fields: &HeaderMap) -> bool {
    let holds = |name: HeaderName, word: &[u8]| {
        let mut values = fields.get_all(name).iter();
        values.any(|value| value.as_bytes().windows(word.len()).any(|part| part.eq_ignore_ascii_case(word)))
    };
    holds(header::ACCEPT, b"text/html") && holds(header::USER_AGENT, b"mozilla")
}

/// The head of the page, but for the terms.
pub(super) fn headers() -> Vec<(HeaderName, HeaderValue)> {
    let fixed = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::VARY, "Accept, User-Agent"),
    ];
    let fixed = fixed.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value)));
    fixed.chain([(header::CONTENT_SECURITY_POLICY, POLICY.clone())]).collect()
}

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = concat!(include_str!("page/solana.js"), include_str!("page/pay.js"));

/// Nothing runs or styles but what is in this file's folder; nothing is asked but the page's own site. `data:` is for the
/// icons of wallets (EIP-6963), `blob:` for answers that are pictures or sound.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = |text: &str| STANDARD.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data: blob:; \
         media-src blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    );
    HeaderValue::from_str(&policy).unwrap_or_else(|_not_ascii| HeaderValue::from_static("default-src 'none'"))
});

/// What the page is about.
pub(super) struct Page<'a> {
    /// The route's name, for one that isn't described.
    pub name: &'a str,
    pub route: &'a PaidRoute,
    /// Of the request that the page answers.
    pub method: &'a Method,
    /// As the client knows it, with its query.
    pub url: &'a str,
    /// The value of `PAYMENT-REQUIRED`.
    pub terms: &'a str,
    /// What a wallet needs to know of an offer's chain.
    pub facts: &'a dyn Fn(&RouteOffer) -> Map<String, Value>,
}

/// The page that a browser would get for a GET of a route, for whoever wants to look at it beforehand. `terms` is the value of
/// `PAYMENT-REQUIRED`.
#[must_use]
pub fn page_for_people(name: &str, route: &PaidRoute, url: &str, terms: &str) -> String {
    render(&Page { name, route, method: &Method::GET, url, terms, facts: &|_offer| Map::new() })
}

/// The page: the terms as people read them, and a script that pays from a wallet.
pub(super) fn render(page: &Page<'_>) -> String {
    let mut rows = String::new();
    for offer in &page.route.offers {
        rows.push_str(&format!(
            "<tr><td>{}</td><td>{}</td><td><code>{}</code></td></tr>",
            escaped(&price(offer)),
            escaped(network_name(offer)),
            escaped(offer.pay_to.as_str())
        ));
    }
    let about = if page.route.description.is_empty() { page.name } else { &page.route.description };
    // Values first: they hold no brace, so that none of them is filled; then what holds braces of its own.
    TEMPLATE
        .replace("{about}", &escaped(about))
        .replace("{price}", &escaped(&page.route.offers.first().map(price).unwrap_or_default()))
        .replace("{rows}", &rows)
        .replace("{url}", &escaped(&quoted(page.url)))
        .replace("{method}", &escaped(page.method.as_str()))
        .replace("{terms}", &escaped(page.terms))
        .replace("{labels}", &escaped(&labels(page).to_string()))
        .replace("{style}", STYLE)
        .replace("{script}", SCRIPT)
}

/// What the script shows of each offer and what else its wallet needs; the script finds an offer's by what is paid, where and
/// to whom.
fn labels(page: &Page<'_>) -> Value {
    let label = |offer: &RouteOffer| {
        json!({
            "network": offer.network,
            "asset": offer.asset.id,
            "amount": offer.amount,
            "payTo": offer.pay_to,
            "decimals": offer.asset.decimals,
            "text": format!("{} on {}", price(offer), network_name(offer)),
            "wallet": (page.facts)(offer),
        })
    };
    page.route.offers.iter().map(label).collect()
}

fn price(offer: &RouteOffer) -> String {
    format!("{} {}", DecimalAmount::from_atomic(offer.amount, offer.asset.decimals), offer.asset.symbol)
}

fn network_name(offer: &RouteOffer) -> &str {
    offer.network.v1_name().unwrap_or(offer.network.as_str())
}

/// One word of a shell, whatever a link put into its URL: people copy the line.
fn quoted(url: &str) -> String {
    format!("'{}'", url.replace('\'', r"'\''"))
}

fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // The template's own braces are filled before anything of a request or configuration is put in twice.
            '{' => safe.push_str("&#123;"),
            other => safe.push(other),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(route: &PaidRoute, url: &str) -> String {
        let facts = |_offer: &RouteOffer| Map::from_iter([("blockhash".to_owned(), json!("</body>"))]);
        render(&Page { name: "GET /", route, method: &Method::GET, url, terms: "dGVybXM=", facts: &facts })
    }

    #[test]
    fn a_page_is_whole_and_what_runs_in_it_is_what_its_policy_names() {
        let page = rendered(&crate::proxy::testing::paid_route(), "http://h/");
        for mark in ["{about}", "{price}", "{rows}", "{url}", "{method}", "{terms}", "{labels}", "{style}", "{script}"]
        {
            assert!(!page.contains(mark), "{mark}");
        }
        let policy = POLICY.to_str().unwrap();
        for (tag, directive) in [("script", "script-src"), ("style", "style-src")] {
            let start = page.find(&format!("<{tag}>")).unwrap() + tag.len() + 2;
            let end = page.find(&format!("</{tag}>")).unwrap();
            let hash = STANDARD.encode(Sha256::digest(&page[start..end]));
            assert!(policy.contains(&format!("{directive} 'sha256-{hash}'")), "{tag}");
        }
        assert!(page.contains("data-terms=\"dGVybXM=\"") && page.contains("data-method=\"GET\""));
    }

    #[test]
    fn nothing_a_client_or_operator_wrote_becomes_markup() {
        let mut paid = crate::proxy::testing::paid_route();
        paid.description = "<b>{url}".into();
        paid.offers[0].asset.symbol = "<i>".into();
        let url = "http://h/\"><script>alert(1)</script>{rows}'&";
        let page = rendered(&paid, url);
        for bad in ["<script>alert", "<b>", "<i>"] {
            assert!(!page.contains(bad), "{bad} in {page}");
        }
        assert_eq!(page.matches("</body>").count(), 1);
        assert!(page.contains("&quot;wallet&quot;:&#123;&quot;blockhash&quot;:&quot;&lt;/body&gt;&quot;}"), "{page}");
        assert!(page.contains("tollhouse pay &#39;http://h/&quot;&gt;&lt;script&gt;"));
        assert!(page.contains("0.01 &lt;i&gt;") && page.contains("base-sepolia"), "{page}");
        assert_eq!(page.matches("<td>").count(), 3, "{page}");
    }

    #[test]
    fn the_line_to_copy_is_one_word_for_a_shell() {
        assert_eq!(quoted("http://h/a?b=1&c=$(id)"), "'http://h/a?b=1&c=$(id)'");
        assert_eq!(quoted("http://h/';reboot;'"), r"'http://h/'\'';reboot;'\'''");
    }

    #[test]
    fn only_browsers_get_the_page() {
        let fields = |accept: &'static str, agent: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert(header::ACCEPT, HeaderValue::from_static(accept));
            fields.insert(header::USER_AGENT, HeaderValue::from_static(agent));
            fields
        };
        assert!(is_browser(&fields("text/html,application/xml", "Mozilla/5.0")));
        assert!(!is_browser(&fields("*/*", "Mozilla/5.0")));
        assert!(!is_browser(&fields("text/html", "curl/8")));
    }
}
