//! What payers sign, for each family of chains: whatever a scheme reads and finds to match the terms pays what they ask.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tollhouse::chain::{self, Chain, ChainObserver, NoObserver};
use tollhouse::config;
use tollhouse::protocol::PaymentRequirements;
use tollhouse::types::{Clock, SystemClock, UnixMillis};

use crate::fuzz;

const EVM_PAY_TO: &str = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
const EVM_USDC: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";
const NOW: u64 = 1_800_000_000;

/// The only network of a configuration.
fn connect(network: &str) -> Arc<dyn Chain> {
    let text = format!("[upstreams.api]\nservers = [\"127.0.0.1:9\"]\n{network}\n[routes]\n\"/paid\" = \"$0.01\"\n");
    let parsed = config::parse(&text, Path::new("fuzz.toml"), &|_| Some("11".repeat(32)));
    let config = parsed.into_result().unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let observer: Arc<dyn ChainObserver> = Arc::new(NoObserver);
    chain::build(&config, &clock, &observer).unwrap().remove(0)
}

fn terms(fields: Value) -> PaymentRequirements {
    serde_json::from_value(fields).unwrap()
}

/// Whether the scheme takes a payload for the terms; then it must pay them.
fn is_taken(scheme: &dyn Chain, terms: &PaymentRequirements, payload: &Value) -> bool {
    let Ok(payment) = scheme.decode(payload, terms) else { return false };
    if payment.check(terms, UnixMillis::from_secs(NOW)).is_err() {
        return false;
    }
    let facts = payment.facts();
    assert_eq!((&facts.pay_to, &facts.asset, facts.amount), (&terms.pay_to, &terms.asset, terms.amount));
    assert!(facts.valid_until > UnixMillis::from_secs(NOW));
    true
}

#[test]
fn an_eip3009_payload_that_matches_the_terms_pays_them() {
    let scheme = connect(&format!(
        "[networks.base-sepolia]\nrpc_url = \"http://127.0.0.1:9\"\nsigner = {{ env = \"KEY\" }}\npay_to = \"{EVM_PAY_TO}\""
    ));
    let terms = terms(json!({"scheme": "exact", "network": "eip155:84532", "amount": "10000", "asset": EVM_USDC,
        "payTo": EVM_PAY_TO, "maxTimeoutSeconds": 60, "extra": {"name": "USDC", "version": "2"}}));
    let payload = |signature: String| {
        json!({"signature": signature, "authorization": {"from": "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A",
            "to": EVM_PAY_TO, "value": "10000", "validAfter": "0", "validBefore": (NOW + 600).to_string(),
            "nonce": format!("0x{}", "22".repeat(32))}})
        .to_string()
        .into_bytes()
    };
    let good = [payload(format!("0x{}1b", "56".repeat(64))), payload(format!("0x{}", "01".repeat(200)))];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    fuzz(&good, |input| {
        let Ok(payload) = serde_json::from_slice::<Value>(input) else { return false };
        is_taken(scheme.as_ref(), &terms, &payload)
    });
}
