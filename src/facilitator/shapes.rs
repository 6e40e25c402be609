//! What the API says, in the official shapes and in vitwit's (protocol §2.3).

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::{Endpoint, Shape};
use crate::payment::{Outcome, Verdict};
use crate::protocol::{EXACT, FacilitatorRequest, PaymentRequirements, Reason};
use crate::types::{AccountId, ChainKind, Network, UnixMillis};

/// What of a network's `extra` payers must know before they sign, besides the asset's own facts.
const FEE_PAYER: &str = "feePayer";

/// `GET /supported`: every network once for v2, and for v1 where it has a name there.
pub(super) fn supported(networks: &[(&Network, &PaymentRequirements)], signers: &[(ChainKind, AccountId)]) -> Value {
    let kinds: Vec<Value> = networks
        .iter()
        .flat_map(|(network, terms)| {
            let kind = |version: u8, name: &str| {
                let mut kind = json!({ "x402Version": version, "scheme": EXACT, "network": name });
                if let (Some(payer), Value::Object(kind)) = (terms.extra.get(FEE_PAYER), &mut kind) {
                    kind.insert("extra".to_owned(), json!({ FEE_PAYER: payer }));
                }
                kind
            };
            [Some(kind(2, network.as_str())), network.v1_name().map(|name| kind(1, name))]
        })
        .flatten()
        .collect();
    let mut by_family: Map<String, Value> = Map::new();
    for (kind, signer) in signers {
        let list = by_family.entry(format!("{}:*", kind.namespace())).or_insert_with(|| json!([]));
        if let Value::Array(list) = list {
            list.push(signer.as_str().into());
        }
    }
    json!({ "kinds": kinds, "extensions": [], "signers": by_family })
}

/// Official `VerifyResponse`.
pub(super) fn verdict(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Valid { payer } => json!({ "isValid": true, "payer": payer.as_str() }),
        Verdict::Invalid { reason, payer: Some(payer) } => {
            json!({ "isValid": false, "invalidReason": reason.as_str(), "payer": payer.as_str() })
        }
        Verdict::Invalid { reason, payer: None } => json!({ "isValid": false, "invalidReason": reason.as_str() }),
        Verdict::Unavailable => {
            json!({ "isValid": false, "invalidReason": Reason::UnexpectedVerifyError.as_str() })
        }
    }
}

/// Official `SettleResponse`.
pub(super) fn settled(settled: &Outcome) -> Value {
    serde_json::to_value(&settled.response).unwrap_or_default()
}

/// vitwit's verification result. Its code spells one key `InvalidReason`, its documents `invalidReason`; both are there.
pub(super) fn vitwit_verdict(verdict: &Verdict, request: &FacilitatorRequest, now: UnixMillis) -> Value {
    let (reason, payer) = match verdict {
        Verdict::Valid { payer } => (None, Some(payer)),
        Verdict::Invalid { reason, payer } => (Some(reason.as_str()), payer.as_ref()),
        Verdict::Unavailable => (Some(Reason::UnexpectedVerifyError.as_str()), None),
    };
    let mut body = movement(request, payer.map(AccountId::as_str), now);
    body.insert("token".to_owned(), request.terms.asset.as_str().into());
    body.insert("isValid".to_owned(), reason.is_none().into());
    for key in ["invalidReason", "InvalidReason"] {
        body.insert(key.to_owned(), reason.unwrap_or_default().into());
    }
    if let Some(reason) = reason {
        body.insert("error".to_owned(), vitwit_code(reason, "VERIFICATION_FAILED").into());
    }
    Value::Object(body)
}

/// vitwit's settlement result. `error` is one of its codes, but for an outcome that isn't known yet, for which it has none.
pub(super) fn vitwit_settled(settled: &Outcome, request: &FacilitatorRequest, now: UnixMillis) -> Value {
    let response = &settled.response;
    let mut body = movement(request, response.payer.as_deref(), now);
    body.insert("asset".to_owned(), request.terms.asset.as_str().into());
    body.insert("success".to_owned(), response.success.into());
    body.insert("txHash".to_owned(), response.transaction.as_str().into());
    body.insert("networkId".to_owned(), response.network.as_str().into());
    if let Some(block) = settled.block {
        body.insert("block".to_owned(), block.into());
    }
    if let Some(reason) = response.error_reason {
        body.insert("error".to_owned(), vitwit_code(reason, "SETTLEMENT_FAILED").into());
        body.insert("extra".to_owned(), json!({ "reason": reason }));
    }
    Value::Object(body)
}

/// The answer to what can't be read.
pub(super) fn malformed(endpoint: Endpoint, reason: Reason, detail: &str) -> Value {
    let reason = reason.as_str();
    match endpoint {
        Endpoint::Verify(Shape::Official) | Endpoint::Supported => {
            json!({ "isValid": false, "invalidReason": reason, "invalidMessage": detail })
        }
        Endpoint::Settle(Shape::Official) => json!({
            "success": false, "errorReason": reason, "errorMessage": detail, "transaction": "", "network": "",
        }),
        Endpoint::Verify(Shape::Vitwit) => json!({
            "isValid": false, "invalidReason": detail, "InvalidReason": detail,
            "error": vitwit_code(reason, "INVALID_PAYLOAD"), "extra": { "reason": reason },
        }),
        Endpoint::Settle(Shape::Vitwit) => json!({
            "success": false, "txHash": "", "networkId": "",
            "error": vitwit_code(reason, "INVALID_PAYLOAD"), "extra": { "reason": reason },
        }),
    }
}

/// What both of vitwit's results say of the money.
fn movement(request: &FacilitatorRequest, payer: Option<&str>, now: UnixMillis) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("amount".to_owned(), request.terms.amount.to_string().into());
    body.insert("recipient".to_owned(), request.terms.pay_to.as_str().into());
    if let Some(now) = UNIX_EPOCH.checked_add(Duration::from_secs(now.as_secs())) {
        body.insert("timestamp".to_owned(), humantime::format_rfc3339_seconds(now).to_string().into());
    }
    for key in ["sender", "payer"] {
        if let Some(payer) = payer {
            body.insert(key.to_owned(), payer.into());
        }
    }
    body
}

/// vitwit's code for a reason. By the reason's words, since each chain family has its own reasons for the same thing.
fn vitwit_code<'a>(reason: &'a str, otherwise: &'a str) -> &'a str {
    let holds = |words: &[&str]| words.iter().any(|word| reason.contains(word));
    match reason {
        // Whoever reads a failure here would let its payer pay again.
        "settlement_pending" => reason,
        "invalid_payload" | "invalid_x402_version" => "INVALID_PAYLOAD",
        "invalid_payment_requirements" | "unsupported_scheme" => "INVALID_REQUIREMENTS",
        "invalid_network" => "UNSUPPORTED_NETWORK",
        "unexpected_verify_error" | "unexpected_settle_error" => "NETWORK_ERROR",
        _ if holds(&["value_mismatch", "amount_mismatch"]) => "INSUFFICIENT_AMOUNT",
        _ if holds(&["expired", "valid_before", "block_height_exceeded", "timeout_height"]) => "EXPIRED_PAYMENT",
        _ => otherwise,
    }
}
