//! `GET /`: the dashboard, one page with nothing from elsewhere. It holds nothing of the shop: it asks for that as JSON, with
//! the token where one is needed.

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, StatusCode};
use sha2::{Digest as _, Sha256};

use crate::service::Answer;

/// Only the page has it.
pub(super) const MEDIA_TYPE: &str = "text/html; charset=utf-8";

const PAGE: &str = include_str!("dashboard.html");

/// Only the page's own script and style, known by their digests, and only this listener to talk to.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let text = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
        digest("script"),
        digest("style"),
    );
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

pub(super) fn page() -> Answer {
    Answer::new(StatusCode::OK, MEDIA_TYPE, PAGE.into())
}

pub(super) fn policy() -> HeaderValue {
    POLICY.clone()
}

/// The digest of what stands in the page's only element of this name.
fn digest(element: &str) -> String {
    let text = PAGE.split_once(&format!("<{element}>")).and_then(|(_, rest)| rest.split_once(&format!("</{element}>")));
    STANDARD.encode(Sha256::digest(text.map(|(text, _)| text).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_one_script_and_one_style_and_takes_nothing_from_elsewhere() {
        for element in ["script", "style"] {
            assert_eq!(PAGE.matches(&format!("<{element}")).count(), 1, "{element}");
            assert_eq!(PAGE.matches(&format!("<{element}>")).count(), 1, "{element}");
        }
        for outside in ["http://", "https://", "src=", "@import", "url(", " style=", "onclick", "innerHTML", "eval("] {
            assert!(!PAGE.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
        }
        let policy = policy();
        let policy = policy.to_str().unwrap();
        assert!(policy.contains(&format!("script-src 'sha256-{}'", digest("script"))), "{policy}");
        assert_ne!(digest("script"), digest("style"));
    }
}
