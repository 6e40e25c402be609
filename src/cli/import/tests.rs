//! What an operator gets from a description, good or hostile.

use std::path::Path;

use super::*;
use crate::config::{self, Config, RouteAction};
use crate::route::RouteTable;

const SHOP: &str = r##"
openapi: 3.1
info: { title: "Weather \"& more\"" }
servers:
  - url: https://{host}:8443/v1/
    variables: { host: { default: origin.example } }
  - url: https://staging.example
paths:
  /weather/{city}:
    get:
      summary: Weather
        of a city
      responses: { 200: { $ref: "#/components/responses/Report" } }
    head: {}
    post: { x-price: "$0.25", description: "Report it\nat length" }
  /health: { get: { x-free: true } }
  /paid:
    get: { x-payment-info: { price: { mode: fixed, currency: USD, amount: "0.05" }, protocols: [x402] } }
    put: { x-payment-info: { pricingMode: fixed, price: "0.07" } }
    delete: { x-payment-info: { price: { mode: dynamic, currency: USD, min: "1" } } }
    patch: { x-price: 0.5 }
  /internal: { get: { x-price: deny }, trace: {} }
  /other: { $ref: "#/components/pathItems/Other" }
  /gone: { $ref: "other.yaml#/x" }
components:
  pathItems: { Other: { get: { summary: "Ümlaut \"quoted\" \\ back" } } }
  responses: { Report: { content: { text/csv: {}, application/json: {} } } }
"##;

fn imported(text: &str) -> Imported {
    import(text, "api.yaml", "$0.01").unwrap_or_else(|error| panic!("{error}\n{text}"))
}

/// The table as `check` reads it once a network is there.
fn checked(imported: &Imported) -> Config {
    let network = "[networks.base-sepolia]\nrpc_url = \"http://127.0.0.1:1\"\nsigner = { env = \"K\" }\n\
        pay_to = \"0x209693Bc6afc0C5328bA36FaF03C514EF312287C\"\n";
    let text = format!("{}\n{network}", imported.toml);
    let parsed = config::parse(&text, Path::new("gateway.toml"), &|_| Some("11".repeat(32)));
    let config = parsed.into_result().unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"));
    RouteTable::build(&config.routes).unwrap_or_else(|mistakes| panic!("{mistakes:?}\n{text}"));
    config
}

/// `KEY: PRICE` of each route, atomic units of USDC.
fn prices(config: &Config) -> Vec<String> {
    let price = |action: &RouteAction| match action {
        RouteAction::Free => "free".to_owned(),
        RouteAction::Deny => "deny".to_owned(),
        RouteAction::Paid(paid) => paid.offers[0].amount.to_string(),
    };
    config.routes.iter().map(|route| format!("{}: {}", route.key, price(&route.action))).collect()
}

#[test]
fn a_description_becomes_a_table_that_check_accepts() {
    let imported = imported(SHOP);
    let config = checked(&imported);
    assert_eq!(
        prices(&config),
        [
            "GET /v1/health: free",
            "GET /v1/internal: deny",
            "GET /v1/other: 10000",
            "GET /v1/paid: 50000",
            "PUT /v1/paid: 70000",
            "GET /v1/weather/{city}: 10000",
            "POST /v1/weather/{city}: 250000",
        ]
    );
    assert_eq!(config.upstreams[0].servers, ["origin.example:8443"]);
    assert!(config.upstreams[0].tls);
    let RouteAction::Paid(weather) = &config.routes[5].action else { panic!("not paid") };
    assert_eq!((weather.description.as_str(), weather.mime_type.as_str()), ("Weather of a city", "application/json"));
    let RouteAction::Paid(other) = &config.routes[2].action else { panic!("not paid") };
    assert_eq!(other.description, "Ümlaut \"quoted\" \\ back");
    assert_eq!((imported.routes, imported.left_out), (7, 4), "{:#?}", imported.hints);
    for said in ["the first of 2 servers", "GET covers HEAD", "TRACE", "\"/gone\"", "not fixed", "no text such as"] {
        assert!(imported.hints.iter().any(|hint| hint.contains(said)), "{said}: {:#?}", imported.hints);
    }
}

#[test]
fn a_price_that_is_not_understood_is_never_the_default_price() {
    for odd in [
        "x-price: 1",
        "x-price: [\"$1\"]",
        "x-price: \"1 dollar\"",
        "x-price: \"10000 USDC\"",
        "x-price: \"$0\"",
        "x-price: \"$1000\"",
        "x-price: \"$0.0000001\"",
        "x-payment-info: {}",
        "x-payment-info: { price: 0.05 }",
        "x-payment-info: { price: { mode: fixed, currency: EUR, amount: \"5\" } }",
        "x-payment-info: { price: { mode: fixed, currency: USD, amount: 5 } }",
        "x-payment-info: { price: \"free\" }",
        "x-free: \"yes\"",
        "x-free: true, x-price: \"$1\"",
        "x-price: \"$1\", x-payment-info: { price: \"1\" }",
    ] {
        let text = format!("openapi: 3.0.3\npaths: {{ /a: {{ get: {{ {odd} }} }}, /b: {{ get: {{}} }} }}");
        let imported = imported(&text);
        assert_eq!(prices(&checked(&imported)), ["GET /b: 10000"], "{odd}");
        assert_eq!(imported.left_out, 1, "{odd}");
    }
}

#[test]
fn paths_that_clash_or_that_no_request_can_have_are_left_out_and_said() {
    let text = r#"{"openapi": "3.0.0", "servers": [{"url": "/api"}], "paths": {
        "/u/{id}": {"get": {}}, "/u/{name}": {"get": {}}, "/u/{*all}": {"get": {}}, "/U/{x}/": {"get": {}},
        "/a b": {"get": {}}, "/../x": {"get": {}}, "nopath": {"get": {}}, "/q?x=1": {"get": {}}, "/{a}{b}": {"get": {}},
        "/ok": {"get": {"summary": 5, "responses": 7}, "put": "nothing"}}}"#;
    let imported = imported(text);
    assert_eq!(prices(&checked(&imported)).len(), 2, "{}", imported.toml);
    assert_eq!((imported.routes, imported.left_out), (2, 9), "{:#?}", imported.hints);
    assert!(imported.toml.contains("127.0.0.1:9000") && imported.toml.contains("GET /api/ok"), "{}", imported.toml);
}

#[test]
fn a_hostile_description_writes_no_configuration_of_its_own() {
    let evil = "\\n[admin]\\nlisten = \\\"0.0.0.0:1\\\"\\n\\u007f\\u0085\\u2028\\\"\\\"\\\"";
    let text = format!(
        r#"{{"openapi": "3.0.0", "info": {{"title": "{evil}"}}, "servers": [{{"url": "https://h{evil}/"}}],
        "paths": {{"/a{evil}": {{"get": {{}}}}, "/b": {{"get": {{"summary": "{evil}", "x-price": "{evil}"}}}},
        "/c": {{"get": {{"summary": "{evil}", "responses": {{"200": {{"content": {{"a/b{evil}": {{}}}}}}}}}}}}}}}}"#
    );
    for name in ["x.json", "x\n[admin]\nlisten = 1\n.json"] {
        let imported = import(&text, name, "$0.01").unwrap();
        let config = checked(&imported);
        assert!(config.admin.listen.ip().is_loopback());
        assert_eq!(prices(&config), ["GET /c: 10000"]);
        let is_ours = |line: &str| {
            line.is_empty()
                || ["#", "[upstreams.api]", "servers = ", "tls = ", "[routes]", "\"GET "]
                    .iter()
                    .any(|start| line.starts_with(start))
        };
        assert!(imported.toml.lines().all(is_ours), "{}", imported.toml);
    }
}

#[test]
fn what_is_no_description_is_refused_with_its_place() {
    let place = |text: &str| match import(text, "x", "$0.01") {
        Err(ImportError::Syntax { line, .. }) => line,
        other => panic!("{other:?}"),
    };
    assert_eq!(place("{\n\"openapi\": \"3.0.0\",\n]"), 3);
    assert_eq!(place("openapi: 3.0.0\npaths:\n  a: [1,\n  b: }\n"), 3);
    assert_eq!(place("openapi: 3.0.0\nopenapi: 3.0.1\npaths: {}\n"), 2);
    for (text, said) in [
        ("", "expected an OpenAPI description"),
        ("[]", "expected an OpenAPI description"),
        ("swagger: \"2.0\"\npaths: {}", "Swagger 2.0"),
        ("openapi: 4.0.0\npaths: {}", "4.0.0"),
        ("info: {}", "key openapi"),
        ("openapi: 3.1.0", "key paths"),
        ("openapi: 3.1.0\npaths: []", "key paths"),
    ] {
        let error = import(text, "x", "$0.01").unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    for price in ["", "1", "10000 USDC"] {
        assert!(matches!(import(SHOP, "x", price), Err(ImportError::Price(_))), "{price}");
    }
}

#[test]
fn what_grows_without_end_is_refused_before_it_does() {
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n\
        d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    let wide = format!("a: &a \"{}\"\nb: [{}]\n", "x".repeat(1 << 20), "*a,".repeat(250));
    for text in [
        bomb.to_owned(),
        wide,
        format!("openapi: {}{}", "[".repeat(5000), "]".repeat(5000)),
        format!("{{\"openapi\": {}{}}}", "[".repeat(5000), "]".repeat(5000)),
    ] {
        assert!(matches!(import(&text, "x", "$0.01"), Err(ImportError::Syntax { .. })), "{}", &text[..60]);
    }
    let many: String = (0..5001).map(|index| format!("  /p{index}: {{ get: {{}} }}\n")).collect();
    let text = format!("openapi: 3.0.0\npaths:\n{many}");
    assert_eq!(import(&text, "x", "$0.01"), Err(ImportError::TooMany(5000)));
    let circle = "openapi: 3.0.0\npaths: { /a: { $ref: \"#/paths/~1a\" } }";
    assert_eq!(imported(circle).routes, 0);
}
