//! The 402 for people: what it costs, where, who gets it, and how to pay. No script, nothing from elsewhere.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::config::PaidRoute;
use crate::types::AtomicAmount;

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
    [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::VARY, "Accept, User-Agent"),
    ]
    .into_iter()
    .map(|(name, value)| (name, HeaderValue::from_static(value)))
    .collect()
}

/// The page for a route at a URL.
#[must_use]
pub fn render(name: &str, route: &PaidRoute, url: &str) -> String {
    let mut rows = String::new();
    for offer in &route.offers {
        rows.push_str(&format!(
            "<tr><td>{} {}</td><td>{}</td><td><code>{}</code></td></tr>",
            escaped(&decimal(offer.amount, offer.asset.decimals)),
            escaped(&offer.asset.symbol),
            escaped(offer.network.v1_name().unwrap_or(offer.network.as_str())),
            escaped(offer.pay_to.as_str())
        ));
    }
    let about = if route.description.is_empty() { name } else { &route.description };
    TEMPLATE.replace("{about}", &escaped(about)).replace("{rows}", &rows).replace("{url}", &escaped(&quoted(url)))
}

const TEMPLATE: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Payment required</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:4rem auto;padding:0 1rem;color:#1b1b1b;background:#fff}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.4rem .8rem .4rem 0;border-bottom:1px solid #ddd}
code,pre{font:14px/1.5 ui-monospace,monospace;overflow-wrap:anywhere;white-space:pre-wrap}pre{background:#f4f4f4;padding:.8rem}</style>
</head><body><h1>Payment required</h1>
<p>{about}</p>
<table><tr><th>Price</th><th>Network</th><th>Paid to</th></tr>{rows}</table>
<h2>How to pay</h2>
<p>One payment buys one answer. Any x402 client pays by itself; from a shell:</p>
<pre>tollhouse pay {url}</pre>
<p>Programs find the same terms in the <code>PAYMENT-REQUIRED</code> header of this answer.</p>
</body></html>
"#;

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

/// Atomic units as a decimal number, without trailing zeros.
fn decimal(amount: AtomicAmount, decimals: u8) -> String {
    let decimals = usize::from(decimals);
    let digits = format!("{:0>width$}", amount.to_string(), width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    match fraction.trim_end_matches('0') {
        "" => whole.to_owned(),
        fraction => format!("{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_shown_as_people_write_them() {
        for (amount, decimals, expected) in
            [("10000", 6, "0.01"), ("1", 6, "0.000001"), ("2500000", 6, "2.5"), ("7", 0, "7"), ("100", 2, "1")]
        {
            assert_eq!(decimal(amount.parse().unwrap(), decimals), expected);
        }
    }

    #[test]
    fn nothing_a_client_or_operator_wrote_becomes_markup() {
        let mut paid = crate::proxy::testing::paid_route();
        paid.description = "<b>{url}".into();
        paid.offers[0].asset.symbol = "<i>".into();
        let url = "http://h/\"><script>alert(1)</script>{rows}'&";
        let page = render("GET /", &paid, url);
        for bad in ["<script", "<b>", "<i>"] {
            assert!(!page.contains(bad), "{bad} in {page}");
        }
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
