//! `/.well-known/x402`: who is told what is for sale, and where an operator's own route stands before it.

use super::*;
use crate::config::RouteConfig;

const LIST: &str = "/.well-known/x402";

async fn told(more: Option<RouteConfig>) -> Shop {
    open(Opening { discovery: true, more, ..Opening::default() }).await
}

fn document(answer: &str) -> Value {
    serde_json::from_str(body(answer)).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

#[tokio::test]
async fn the_list_names_every_priced_route_with_its_terms_and_nothing_else() {
    let hidden = crate::config::PaidRoute { discoverable: false, ..paid_route() };
    let shop = told(Some(route("/hidden", Paid(hidden)))).await;
    let answer = shop.ask(&format!("GET {LIST}?a=b"), "Origin: https://page.example\r\n").await;
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(field(&answer, "content-type"), Some("application/json"));
    assert_eq!(field(&answer, "cache-control"), Some("public, max-age=60"));
    assert_eq!(field(&answer, "access-control-allow-origin"), Some("*"));
    let list = document(&answer);
    assert_eq!(list["resources"], serde_json::json!(["http://shop.example/paid"]));
    let item = &list["items"][0];
    assert_eq!(item["methods"], serde_json::json!(["GET", "POST"]));
    assert_eq!(item["accepts"], serde_json::json!([crate::proxy::testing::terms()]), "the same terms, and no quote");
    for secret in ["/free", "/open", "/denied", "/hidden", "quote", "127.0.0.1"] {
        assert!(!body(&answer).contains(secret), "{secret} in {answer}");
    }
    let head = shop.ask(&format!("HEAD {LIST}"), "").await;
    assert_eq!((status(&head), body(&head)), (200, ""));
    assert_eq!(field(&head, "content-length"), field(&answer, "content-length"));
    let post = shop.ask(&format!("POST {LIST}"), "Content-Length: 0\r\n").await;
    assert_eq!((status(&post), field(&post, "allow")), (405, Some("GET, HEAD")));
    assert_eq!(shop.hits(), 0, "no origin is asked");
}

#[tokio::test]
async fn nothing_is_told_unless_the_operator_says_so_nor_under_another_spelling() {
    let shop = shop().await;
    assert_eq!(status(&shop.ask(&format!("GET {LIST}"), "").await), 404);
    let shop = told(None).await;
    for other in ["/.well-known/X402", "/.well-known/x402/", "/.well-known/", "/.well-known/x402.json", "/x402"] {
        assert_eq!(status(&shop.ask(&format!("GET {other}"), "").await), 404, "{other}");
    }
}

#[tokio::test]
async fn a_route_that_takes_the_path_wins_whatever_it_does() {
    for (key, action, wanted) in [
        (LIST, Free, 200),
        ("/{*rest}", Free, 200),
        ("/.well-known/{file}", Paid(paid_route()), 402),
        ("/.well-known/{*rest}", Deny, 404),
        ("POST /.well-known/x402", Free, 405),
    ] {
        let shop = told(Some(route(key, action))).await;
        let answer = shop.ask(&format!("GET {LIST}"), "").await;
        assert_eq!(status(&answer), wanted, "{key}: {answer}");
        if wanted == 200 {
            assert_eq!((body(&answer), shop.hits()), ("ok", 1), "{key}: the origin answers");
        }
    }
}

#[tokio::test]
async fn a_hosts_own_routes_are_told_to_who_asks_that_host() {
    let own = RouteConfig { host: Some("own.example".into()), ..route("/own", Paid(paid_route())) };
    let shop = told(Some(own)).await;
    assert!(!shop.ask(&format!("GET {LIST}"), "").await.contains("/own"));
    let request = format!("GET {LIST} HTTP/1.1\r\nHost: OWN.example:8402\r\nConnection: close\r\n\r\n");
    let list = document(&exchange(shop.address, request.as_bytes()).await);
    assert_eq!(list["resources"], serde_json::json!(["http://OWN.example:8402/paid", "http://OWN.example:8402/own"]));
    // What is no host never gets as far as the document (threat G6).
    for bad in ["a\"b", "h/x", "h<script>", "u@h"] {
        let request = format!("GET {LIST} HTTP/1.1\r\nHost: {bad}\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&exchange(shop.address, request.as_bytes()).await), 400, "{bad}");
    }
}
