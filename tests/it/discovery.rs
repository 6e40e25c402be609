//! What is told to who looks for something to buy: `/.well-known/x402`, the bazaar extension, and clients that send it back;
//! and the table that `import` writes, up to a sale.

use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Call, Plan, Shop, decode_header, encode};

fn plan() -> Plan {
    let routes = "\"GET,POST /api/data\" = { price = \"$0.01\", mime_type = \"application/json\", \
        input = { query_params = { city = \"Berlin\" } } }\n\
        \"GET /api/other\" = { price = \"$0.02\", discoverable = false }\n\"/health\" = \"free\"\n";
    Plan { server: "discovery = true\n".to_owned(), routes: routes.to_owned(), ..Plan::default() }
}

#[tokio::test]
async fn what_is_listed_is_what_the_402_asks_and_a_client_that_echoes_the_extension_pays_once() {
    let shop = Shop::open_with(plan()).await;
    let list = shop.call(&Call::get("/.well-known/x402")).await;
    assert_eq!(list.status, 200, "{list:?}");
    let list = list.json();
    let unpaid = shop.call(&Call::get("/api/data")).await;
    let asked = decode_header(unpaid.header("payment-required").unwrap());
    assert_eq!(list["resources"], json!([asked["resource"]["url"]]), "{list}");
    let mut accepts = asked["accepts"].clone();
    for offer in accepts.as_array_mut().unwrap() {
        assert!(offer["extra"].as_object_mut().unwrap().remove("quote").is_some());
    }
    assert_eq!(list["items"][0]["accepts"], accepts);
    let bazaar = &asked["extensions"]["bazaar"];
    assert_eq!(list["items"][0]["extensions"]["bazaar"], *bazaar);
    assert_eq!(
        bazaar["info"],
        json!({"input": {"type": "http", "method": "GET", "queryParams": {"city": "Berlin"}}, "output": {"type": "json"}})
    );
    assert_eq!(unpaid.json()["accepts"][0]["outputSchema"]["input"]["discoverable"], true);
    let other = shop.call(&Call::get("/api/other")).await;
    assert_eq!(decode_header(other.header("payment-required").unwrap())["extensions"], json!({}));
    // As official clients do: the extensions as they came. One that twists them pays no less and no more.
    for extensions in [asked["extensions"].clone(), json!({"bazaar": {"info": [1], "routeTemplate": "/../x"}})] {
        let mut payment: Value = shop.payment().await.v2_json();
        payment["extensions"] = extensions;
        assert_eq!(shop.present(&("PAYMENT-SIGNATURE", encode(&payment))).await.status, 200);
    }
    assert_eq!(shop.node.transfers().await.len(), 2);
    shop.audit().await;
}

#[tokio::test]
async fn a_description_becomes_a_shop_that_sells() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("api.yaml");
    let text = "openapi: 3.1.0\npaths:\n  /api/data: { get: { summary: Data, x-price: $0.01 } }\n  \
        /health: { get: { x-free: true } }\n  /odd: { get: { x-price: 3 } }\n";
    std::fs::write(&file, text).unwrap();
    let run = |words: Vec<String>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollhouse"));
        command.arg("import").args(words);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let output = run(vec![file.display().to_string(), "--price".into(), "$5".into()]).await.unwrap();
    let (table, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("hint: \"GET /odd\" is left out") && said.contains("2 routes, 1 operations left out"),
        "{said}"
    );
    let (_, routes) = table.split_once("[routes]\n").unwrap();
    let shop = Shop::open_with(Plan { routes: routes.to_owned(), ..Plan::default() }).await;
    shop.buy().await;
    assert_eq!(shop.call(&Call::get("/health")).await.status, 200);
    assert_eq!(shop.call(&Call::get("/odd")).await.status, 404);
    shop.audit().await;
    std::fs::write(&file, "openapi: 3.1.0\npaths: [\n").unwrap();
    let output = run(vec![file.display().to_string()]).await.unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{said}");
    assert!(said.contains("api.yaml:2:") && said.contains(": YAML: "), "{said}");
}
