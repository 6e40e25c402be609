//! What the tests of `pay` share.

use serde_json::{Value, json};

use super::saved::SavedPayment;
use crate::protocol::encode_json;
use crate::types::{AccountId, AssetId, AtomicAmount, Network};

/// USDC on Base Sepolia.
pub const ASSET: &str = "0x036CbD53842c5426634e7929541eC2318f3dCF7e";

/// The signature of protocol §3.1's vector.
pub const SIGNATURE: &str = "0x56eca79af8845a206a6b6806f1c1c969d9870ba1632c908c9d6881b61235a0cd6430df18c5a1333451aff539658ba853df8fc3611b7bfb04467eebc0a0573ca11b";

/// A v2 offer of USDC.
pub fn offer(network: &str, amount: &str) -> Value {
    json!({"scheme":"exact","network":network,"amount":amount,"asset":ASSET,
        "payTo":"0x209693Bc6afc0C5328bA36FaF03C514EF312287C","maxTimeoutSeconds":60,
        "extra":{"name":"USDC","version":"2","quote":"sealed-quote"}})
}

/// A mint that nobody knows.
pub const OTHER_MINT: &str = "So11111111111111111111111111111111111111112";

/// A v2 offer of USDC on Solana's devnet.
pub fn solana_offer(amount: &str) -> Value {
    json!({"scheme":"exact","network":"solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1","amount":amount,
        "asset":"4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU",
        "payTo":"2wKupLR9q6wXYppw8Gr2NvWxKBUqm4PPJKkQfoxHDBg4","maxTimeoutSeconds":60,
        "extra":{"feePayer":"EwWqGE4ZFKLofuestmU4LDdK7XM1N4ALgdZccwYugwGd","quote":"sealed-quote"}})
}

/// The `PAYMENT-REQUIRED` header and the v1 body of a 402 with these offers.
pub fn terms_402(offers: &[Value]) -> (String, String) {
    let v1: Vec<Value> = offers
        .iter()
        .map(|offer| {
            let network: Network = offer["network"].as_str().unwrap().parse().unwrap();
            json!({"scheme":offer["scheme"],"network":network.v1_name(),"maxAmountRequired":offer["amount"],
                "resource":"http://h/p","description":"","mimeType":"","asset":offer["asset"],"payTo":offer["payTo"],
                "maxTimeoutSeconds":60,"extra":{"name":"USDC","version":"2"}})
        })
        .collect();
    let v2 = json!({"x402Version":2,"error":"payment_required","resource":{"url":"http://h/p"},"accepts":offers,
        "extensions":{}});
    (encode_json(&v2), json!({"x402Version":1,"error":"payment_required","accepts":v1}).to_string())
}

/// A v2 offer of USDC on Noble's test network.
pub fn cosmos_offer(amount: &str) -> Value {
    let pay_to = super::cosmos::CosmosKey::new(zeroize::Zeroizing::new([8; 32])).address("noble").unwrap();
    json!({"scheme":"exact","network":"cosmos:grand-1","amount":amount,"asset":"uusdc","payTo":pay_to,
        "maxTimeoutSeconds":60,"extra":{"quote":"sealed-quote"}})
}

/// A saved payment.
pub fn saved(id: &str) -> SavedPayment {
    SavedPayment {
        format: 1,
        id: id.to_owned(),
        signed_at_secs: 1,
        valid_before_secs: 61,
        method: "GET".to_owned(),
        url: "http://127.0.0.1:1/p".to_owned(),
        headers: Vec::new(),
        body: None,
        x402_version: 2,
        payment: "e30=".to_owned(),
        network: Network::evm(84532),
        asset: AssetId::new(ASSET).unwrap(),
        amount: AtomicAmount::from(10_000),
        pay_to: AccountId::new("0x209693Bc6afc0C5328bA36FaF03C514EF312287C").unwrap(),
        payer: "0x19E7E376E7C213B7E7e7e46cc70A5dD086DAff2A".to_owned(),
    }
}
