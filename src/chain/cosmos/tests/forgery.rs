//! What is refused without asking anybody: threats B22, B23, B24, C10 and the holes of protocol §5.3.

use cosmrs::proto::cosmos::tx::v1beta1::Tip;

use super::*;

fn draft() -> Draft {
    Draft::new(1, 7, 3)
}

/// The reason for which a payment is refused, for which nobody was asked.
fn offline_refusal(payload: &Value) -> Reason {
    refusal_under(payload, &terms())
}

fn refusal_under(payload: &Value, terms: &PaymentRequirements) -> Reason {
    let shop = Shop::offline();
    let refusal = shop.check(payload, terms).err().expect("taken");
    assert_eq!(shop.calls.count(), 0, "somebody was asked");
    refusal
}

fn refused(change: impl FnOnce(&mut Draft)) -> Reason {
    offline_refusal(&draft().with(change).payload())
}

fn any(url: &str, message: &impl Message) -> Any {
    Any { type_url: url.to_owned(), value: message.encode_to_vec() }
}

/// A field with a varint, as protobuf writes it.
fn field(number: u32, value: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    cosmrs::proto::prost::encoding::encode_varint(u64::from(number) << 3, &mut bytes);
    bytes.push(value);
    bytes
}

#[test]
fn a_good_payment_says_what_it_is_and_asks_nobody() {
    let shop = Shop::offline();
    for mode in [DIRECT, AMINO] {
        let draft = draft().with(|draft| draft.mode = mode);
        let payment = shop.check(&draft.payload(), &terms()).unwrap();
        let facts = payment.facts();
        assert_eq!(facts.id.0, format!("cosmos:grand-1/{}/3", address_of(1)));
        assert_eq!((facts.payer.as_str(), facts.pay_to.as_str()), (&*address_of(1), &*pay_to()));
        assert_eq!((facts.asset.as_str(), facts.amount), ("uusdc", 10_000.into()));
        assert_eq!(facts.payload, draft.payload());
    }
    assert_eq!(shop.calls.count(), 0);
}

#[test]
fn every_dialect_is_read_and_only_its_signed_bytes_count() {
    let shop = Shop::offline();
    let raw = draft().raw();
    let text = STANDARD.encode(&raw);
    let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&raw);
    // Everything beside the transaction lies.
    let lies = json!({"from": address_of(8), "to": address_of(9), "amount": "1", "denom": "worthless", "timeoutAt": 1});
    let vitwit1 = json!({"version": 1, "chainId": "elsewhere", "signature": "", "payment": {"amount": "1",
        "denom": "worthless", "payer": address_of(8), "recipient": address_of(9), "txBase64": text, "sequence": 900}});
    let atom = json!({"signature": text, "authorization": {"type": "cosmos-signed-transaction", "amount": "1"}});
    let expected = shop.check(&canonical(&raw), &terms()).unwrap().facts().clone();
    for payload in [
        json!(text),
        json!(url_safe),
        json!(STANDARD.encode(vitwit1.to_string())),
        vitwit1,
        json!({"signature": "x", "authorization": lies, "signedTx": text}),
        atom,
    ] {
        let facts = shop.check(&payload, &terms()).unwrap().facts().clone();
        assert_eq!((&facts.id, facts.digest, &facts.payload), (&expected.id, expected.digest, &expected.payload));
        assert_eq!((&facts.payer, &facts.amount), (&expected.payer, &expected.amount), "hole 7: payer from the hints");
    }
}

#[test]
fn what_holds_no_transaction_is_refused() {
    let text = STANDARD.encode(draft().raw());
    for payload in [
        json!({}),
        json!(""),
        json!("not base64!"),
        json!({"transaction": 7}),
        json!({"signature": text}),
        json!({"signature": text, "authorization": {"type": "another"}}),
        json!({"transaction": STANDARD.encode([7; 40])}),
        json!({"transaction": STANDARD.encode(vec![0; 16 * 1024 + 1])}),
        json!({"transaction": "A".repeat(100_000)}),
        json!(STANDARD.encode(r#"{"payment":{"txBase64":"AA"},"payment":{}}"#)),
        Value::Null,
    ] {
        assert_eq!(offline_refusal(&payload), Reason::CosmosDecode, "{payload}");
    }
}

#[test]
fn b22_a_worthless_denom_is_refused_even_if_only_its_case_differs() {
    for denom in ["uatom", "UUSDC", "uusdcx"] {
        assert_eq!(refused(|draft| draft.send.amount[0].denom = denom.to_owned()), Reason::CosmosDenomMismatch);
    }
}

#[test]
fn b22_another_amount_than_the_price_is_refused() {
    for amount in ["9999", "10001", "1", "0", "010000", "+10000", "1e4", "-1", "", "10000.0"] {
        let reason = refused(|draft| draft.send.amount[0].amount = amount.to_owned());
        assert_eq!(reason, Reason::CosmosAmountMismatch, "{amount}");
    }
}

#[test]
fn b22_more_or_fewer_messages_coins_or_signers_than_one_are_refused() {
    let send = any("/cosmos.bank.v1beta1.MsgSend", &draft().send);
    let rider = any("/cosmos.bank.v1beta1.MsgSend", &MsgSend { from_address: address_of(2), ..draft().send });
    let reason = refused(|draft| draft.body.messages = vec![send.clone(), rider.clone()]);
    assert_eq!(reason, Reason::CosmosMessageCount, "a rider");
    let parts = TxRaw { body_bytes: TxBody::default().encode_to_vec(), ..draft().parts() };
    assert_eq!(offline_refusal(&canonical(&draft().sign(parts))), Reason::CosmosMessageCount, "none");
    let reason = refused(|draft| draft.send.amount.push(coin("uatom", 1)));
    assert_eq!(reason, Reason::CosmosCoinCount, "two coins");
    assert_eq!(refused(|draft| draft.send.amount.clear()), Reason::CosmosCoinCount, "no coin");
    let two = |draft: &mut Draft| draft.auth.signer_infos.push(draft.auth.signer_infos[0].clone());
    assert_eq!(refused(two), Reason::CosmosSigner, "two signers");
    assert_eq!(refused(|draft| draft.auth.signer_infos.clear()), Reason::CosmosSigner, "no signer");
}

#[test]
fn b22_another_message_than_a_transfer_is_refused() {
    for url in [
        "/cosmos.authz.v1beta1.MsgExec",
        "/cosmwasm.wasm.v1.MsgExecuteContract",
        "/cosmos.bank.v1beta1.MsgMultiSend",
        "/ibc.applications.transfer.v1.MsgTransfer",
        "cosmos.bank.v1beta1.MsgSend",
    ] {
        let message = any(url, &draft().send);
        assert_eq!(refused(|draft| draft.body.messages = vec![message]), Reason::CosmosMessageType, "{url}");
    }
}

#[test]
fn b22_money_for_somebody_else_or_on_another_chain_is_refused() {
    assert_eq!(refused(|draft| draft.send.to_address = address_of(5)), Reason::CosmosRecipientMismatch);
    let osmosis = PublicKey::from(key(99).verifying_key()).account_id("osmo").unwrap().to_string();
    assert_eq!(refused(|draft| draft.send.to_address = osmosis), Reason::CosmosRecipientMismatch);
    assert_eq!(refused(|draft| draft.send.to_address = pay_to().to_uppercase()), Reason::CosmosRecipientMismatch);
}

#[test]
fn b22_money_of_another_than_the_signer_is_refused() {
    assert_eq!(refused(|draft| draft.send.from_address = address_of(2)), Reason::CosmosSigner);
    assert_eq!(refused(|draft| draft.auth.signer_infos[0].public_key = None), Reason::CosmosSigner);
    let ed25519 = |draft: &mut Draft| {
        draft.auth.signer_infos[0].public_key.as_mut().unwrap().type_url = "/cosmos.crypto.ed25519.PubKey".to_owned();
    };
    assert_eq!(refused(ed25519), Reason::CosmosSigner);
    let uncompressed = |draft: &mut Draft| {
        let key = key(1).verifying_key().to_encoded_point(false).as_bytes().to_vec();
        let key = cosmrs::proto::cosmos::crypto::secp256k1::PubKey { key };
        draft.auth.signer_infos[0].public_key = Some(any("/cosmos.crypto.secp256k1.PubKey", &key));
    };
    assert_eq!(refused(uncompressed), Reason::CosmosSigner);
}

#[test]
fn b22_signatures_are_one_of_64_bytes_with_a_low_s_in_a_known_mode() {
    let parts = draft().parts();
    let signed = |signatures: Vec<Vec<u8>>| canonical(&TxRaw { signatures, ..parts.clone() }.encode_to_vec());
    let good = TxRaw::decode(draft().raw().as_slice()).unwrap().signatures.remove(0);
    let signature = Signature::from_slice(&good).unwrap();
    let high = Signature::from_scalars(signature.r(), -signature.s()).unwrap().to_vec();
    assert_eq!(offline_refusal(&signed(vec![])), Reason::CosmosSigner);
    assert_eq!(offline_refusal(&signed(vec![good.clone(), good.clone()])), Reason::CosmosSigner);
    assert_eq!(offline_refusal(&signed(vec![high])), Reason::CosmosSignature, "malleated");
    assert_eq!(offline_refusal(&signed(vec![[good.clone(), vec![0]].concat()])), Reason::CosmosSignature);
    assert_eq!(offline_refusal(&signed(vec![vec![0; 64]])), Reason::CosmosSignature);
    for mode in [0, 2, 3, 191, 5] {
        assert_eq!(refused(|draft| draft.mode = mode), Reason::CosmosSignMode, "{mode}");
    }
}

#[test]
fn b23_one_payment_has_one_encoding_and_one_identity() {
    let shop = Shop::offline();
    let raw = draft().raw();
    let first = shop.check(&canonical(&raw), &terms()).unwrap().facts().clone();
    // The same fields in another order, twice, or with a default spelt out.
    let tx = TxRaw::decode(raw.as_slice()).unwrap();
    let alone = |tx: TxRaw| tx.encode_to_vec();
    let body = alone(TxRaw { body_bytes: tx.body_bytes.clone(), ..TxRaw::default() });
    let auth = alone(TxRaw { auth_info_bytes: tx.auth_info_bytes.clone(), ..TxRaw::default() });
    let signature = alone(TxRaw { signatures: tx.signatures.clone(), ..TxRaw::default() });
    for parts in [
        [&auth[..], &body, &signature].concat(),
        [&body[..], &body, &auth, &signature].concat(),
        [&body[..], &auth, &signature, &field(9, 1)].concat(),
    ] {
        assert_eq!(offline_refusal(&canonical(&parts)), Reason::CosmosUnknownFields);
    }
    let inside = |extra: Vec<u8>, into_body: bool| {
        let mut parts = draft().parts();
        if into_body {
            parts.body_bytes.extend(extra)
        } else {
            parts.auth_info_bytes.extend(extra)
        }
        canonical(&draft().sign(parts))
    };
    assert_eq!(offline_refusal(&inside(field(3, 0), true)), Reason::CosmosUnknownFields, "a default spelt out");
    assert_eq!(offline_refusal(&inside(field(9, 1), false)), Reason::CosmosUnknownFields);
    // Another signature over the same transaction is the same payment.
    let other = shop.check(&draft().with(|draft| draft.seed = 1).payload(), &terms()).unwrap().facts().clone();
    assert_eq!((first.id.clone(), first.digest), (other.id, other.digest));
    let memo = shop.check(&draft().with(|draft| draft.body.memo = "x".to_owned()).payload(), &terms()).unwrap();
    assert_eq!(memo.facts().id, first.id, "same sequence, same key");
    assert_ne!(memo.facts().digest, first.digest, "another payment under it");
}

#[test]
fn b23_unordered_transactions_and_their_timeouts_are_refused() {
    let mut parts = draft().parts();
    parts.body_bytes.extend(field(4, 1));
    assert_eq!(offline_refusal(&canonical(&draft().sign(parts))), Reason::CosmosUnknownFields);
    let mut parts = draft().parts();
    parts.body_bytes.extend([5 << 3 | 2, 2, 8, 1]);
    assert_eq!(offline_refusal(&canonical(&draft().sign(parts))), Reason::CosmosUnknownFields);
}

#[test]
fn b24_unknown_fields_are_found_in_every_nested_message() {
    let spoil = |mut any: Any| {
        any.value.extend(field(9, 1));
        any
    };
    let send = spoil(any("/cosmos.bank.v1beta1.MsgSend", &draft().send));
    assert_eq!(refused(|draft| draft.body.messages = vec![send]), Reason::CosmosUnknownFields);
    let key = |draft: &mut Draft| {
        let signer = &mut draft.auth.signer_infos[0];
        signer.public_key = signer.public_key.take().map(spoil);
    };
    assert_eq!(refused(key), Reason::CosmosUnknownFields);
}

#[test]
fn extension_options_and_tips_are_refused() {
    let option = any("/x.Y", &draft().send);
    let critical = option.clone();
    let reason = refused(|draft| draft.body.extension_options = vec![critical]);
    assert_eq!(reason, Reason::CosmosExtensionOptions);
    let reason = refused(|draft| draft.body.non_critical_extension_options = vec![option]);
    assert_eq!(reason, Reason::CosmosExtensionOptions);
    #[allow(deprecated)]
    let tip = |draft: &mut Draft| draft.auth.tip = Some(Tip { amount: vec![], tipper: address_of(1) });
    assert_eq!(refused(tip), Reason::CosmosExtensionOptions);
}

#[test]
fn c10_nobody_but_the_payer_pays_the_fee() {
    for other in [address_of(2), pay_to(), address_of(1).to_uppercase(), "x".to_owned()] {
        let payer = other.clone();
        assert_eq!(refused(|draft| draft.fee().payer = payer), Reason::CosmosFeePayer, "{other}");
        assert_eq!(refused(|draft| draft.fee().granter = other), Reason::CosmosFeePayer);
    }
    assert_eq!(refused(|draft| draft.fee().granter = address_of(1)), Reason::CosmosFeePayer);
    let shop = Shop::offline();
    let own = draft().with(|draft| draft.fee().payer = address_of(1));
    assert!(shop.check(&own.payload(), &terms()).is_ok());
}

#[test]
fn a_fee_that_no_node_takes_is_refused() {
    assert_eq!(refused(|draft| draft.auth.fee = None), Reason::CosmosFee);
    assert_eq!(refused(|draft| draft.fee().gas_limit = 0), Reason::CosmosFee);
    assert_eq!(refused(|draft| draft.fee().gas_limit = u64::MAX), Reason::CosmosFee);
    for coins in [
        vec![coin("b", 1), coin("a", 1)],
        vec![coin("a", 1), coin("a", 1)],
        vec![coin("a", 0)],
        (0..5).map(|index| coin(&format!("a{index}"), 1)).collect(),
        vec![Coin { denom: "a".to_owned(), amount: "-1".to_owned() }],
    ] {
        assert_eq!(refused(|draft| draft.fee().amount = coins), Reason::CosmosFee);
    }
}

#[test]
fn a_memo_that_is_demanded_must_be_there_to_the_letter() {
    let mut asked = terms();
    asked.extra.insert(MEMO.to_owned(), "order 7".into());
    let with = |memo: &str| draft().with(|draft| draft.body.memo = memo.to_owned()).payload();
    assert!(Shop::offline().check(&with("order 7"), &asked).is_ok());
    for memo in ["", "order 8", "order 7 ", "Order 7"] {
        assert_eq!(refusal_under(&with(memo), &asked), Reason::CosmosMemoMismatch, "{memo}");
    }
    assert!(Shop::offline().check(&with("anything"), &terms()).is_ok(), "none is demanded");
    assert_eq!(offline_refusal(&with(&"x".repeat(257))), Reason::CosmosMemoMismatch);
}

#[test]
fn an_amino_memo_that_nodes_write_differently_is_refused_before_it_can_stay_open_for_ever() {
    for memo in ["a\u{8}b", "\u{c}"] {
        let draft = draft().with(|draft| draft.body.memo = memo.to_owned());
        assert!(Shop::offline().check(&draft.payload(), &terms()).is_ok(), "signed as bytes");
        assert_eq!(offline_refusal(&draft.with(|draft| draft.mode = AMINO).payload()), Reason::CosmosMemoMismatch);
    }
}

const MEMO: &str = crate::protocol::MEMO_KEY;

#[test]
fn terms_of_another_network_match_nothing() {
    let mut other = terms();
    other.network = "cosmos:noble-1".parse().unwrap();
    assert_eq!(refusal_under(&draft().payload(), &other), Reason::InvalidPayload);
}
