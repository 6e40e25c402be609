//! What the chain refuses, and in which words; what it makes wait.

use super::*;

#[test]
fn used_nonces_are_refused_and_later_ones_wait_for_their_turn() {
    let node = TestNode::new();
    let send = |nonce| node.send(&sign(&faucet(), plain(nonce, ANYBODY, 1, vec![])));
    let early = send(2).unwrap();
    assert_eq!(words(&send(2).unwrap_err()), "already known");
    assert_eq!(node.receipt(&early), Value::Null);
    assert_eq!(node.get("eth_getTransactionByHash", json!([early]))["blockNumber"], Value::Null);
    assert_eq!(node.get("eth_getTransactionCount", json!([faucet().address(), "pending"])), "0x0");
    send(0).unwrap();
    assert_eq!(node.receipt(&early), Value::Null);
    let middle = send(1).unwrap();
    // Both in one block, in order.
    let block = node.get("eth_getBlockByNumber", json!(["latest", false]));
    assert_eq!(block["transactions"], json!([middle, early]));
    let receipts = [&middle, &early].map(|hash| node.receipt(hash));
    assert_eq!((&receipts[0]["transactionIndex"], &receipts[1]["transactionIndex"]), (&json!("0x0"), &json!("0x1")));
    assert_eq!(receipts[1]["cumulativeGasUsed"], "0xa410");
    let error = send(1).unwrap_err();
    assert_eq!((&error["code"], words(&error)), (&json!(-32000), "nonce too low: next nonce 3, tx nonce 1"));
}

#[test]
fn a_waiting_transaction_is_replaced_by_a_dearer_one_only() {
    let node = TestNode::new();
    let send = |fee: u128, tip: u128| {
        let unsigned =
            TxEip1559 { max_fee_per_gas: fee, max_priority_fee_per_gas: tip, ..plain(1, ANYBODY, 1, vec![]) };
        node.send(&sign(&faucet(), unsigned))
    };
    send(100_000_000, 1_000_000).unwrap();
    for (fee, tip) in [(109_999_999, 1_100_000), (110_000_000, 1_099_999)] {
        assert_eq!(words(&send(fee, tip).unwrap_err()), "replacement transaction underpriced");
    }
    let dearer = send(110_000_000, 1_100_000).unwrap();
    node.send(&sign(&faucet(), plain(0, ANYBODY, 1, vec![]))).unwrap();
    assert_eq!(node.receipt(&dearer)["status"], "0x1");
}

#[test]
fn what_waits_is_bounded() {
    let node = TestNode::new();
    let send = |nonce| node.send(&sign(&faucet(), plain(nonce, ANYBODY, 1, vec![])));
    for nonce in 1..=64 {
        send(nonce).unwrap();
    }
    assert_eq!(words(&send(65).unwrap_err()), "txpool is full");
    // The missing one lets all of them go.
    send(0).unwrap();
    assert_eq!(node.get("eth_getTransactionCount", json!([faucet().address()])), "0x41");
    send(66).unwrap();
}

#[test]
fn a_waiting_transaction_that_cannot_be_paid_any_more_is_dropped() {
    let node = TestNode::new();
    let spender = spender();
    node.send(&sign(&faucet(), plain(0, spender.address(), 1_000_000_000_000_000, vec![]))).unwrap();
    let cheap = |nonce, value| TxEip1559 {
        max_fee_per_gas: 2_000_000,
        gas_limit: 21_000,
        ..plain(nonce, ANYBODY, value, vec![])
    };
    let waiting = node.send(&sign(&spender, cheap(1, 900_000_000_000_000))).unwrap();
    node.send(&sign(&spender, cheap(0, 900_000_000_000_000))).unwrap();
    assert_eq!(node.get("eth_getTransactionByHash", json!([waiting])), Value::Null);
    assert_eq!(node.get("eth_getTransactionCount", json!([spender.address()])), "0x1");
}

#[test]
fn transactions_that_could_never_run_are_refused_in_words_that_clients_know() {
    let node = TestNode::new();
    let base = || plain(0, ANYBODY, 1, vec![]);
    let cases = [
        (sign(&spender(), base()), "insufficient funds for gas * price + value: balance 0, tx cost"),
        (sign(&faucet(), TxEip1559 { chain_id: 1, ..base() }), "invalid chain id for signer: have 1 want 84532"),
        (
            sign(&faucet(), TxEip1559 { max_fee_per_gas: 2_000_000, max_priority_fee_per_gas: 3_000_000, ..base() }),
            "max priority fee per gas higher than max fee per gas",
        ),
        (
            sign(&faucet(), TxEip1559 { max_fee_per_gas: 999_999, max_priority_fee_per_gas: 0, ..base() }),
            "max fee per gas less than block base fee",
        ),
        (sign(&faucet(), TxEip1559 { gas_limit: 60_000_001, ..base() }), "exceeds block gas limit"),
        (
            sign(&faucet(), TxEip1559 { gas_limit: 20_999, ..base() }),
            "intrinsic gas too low: gas 20999, minimum needed 21000",
        ),
        (
            sign(&faucet(), TxLegacy { gas_price: 3_000_000, gas_limit: 21_000, ..TxLegacy::default() }),
            "only replay-protected (EIP-155) transactions allowed over RPC",
        ),
        (Bytes::from_static(&[2, 1]), "rlp: "),
        (Bytes::new(), "rlp: "),
    ];
    for (raw, expected) in cases {
        let error = node.send(&raw).unwrap_err();
        assert_eq!(error["code"], -32000);
        assert!(words(&error).starts_with(expected), "{expected}: {error}");
    }
    assert_eq!(node.number(), 0);
}

#[test]
fn parameters_that_would_be_ignored_are_refused() {
    let node = TestNode::new();
    let call = json!({"to": TOKEN, "data": "0x"});
    for (method, params) in [
        ("eth_call", json!([])),
        ("eth_call", json!([call, "latest", {"0x0000000000000000000000000000000000000001": {"balance": "0x1"}}])),
        ("eth_call", json!([{"to": TOKEN, "data": "0x01", "input": "0x02"}, "latest"])),
        ("eth_call", json!([{"to": TOKEN, "gasPrice": "0x1", "maxFeePerGas": "0x1"}, "latest"])),
        ("eth_getBalance", json!(["0x12", "latest"])),
        ("eth_getBalance", json!({"address": TOKEN})),
        ("eth_getBlockByNumber", json!(["newest", false])),
    ] {
        let error = node.ask(method, params.clone()).unwrap_err();
        assert_eq!(error["code"], -32602, "{method} {params}: {error}");
    }
}

#[test]
fn a_contract_may_be_asked_as_if_by_a_contract() {
    let node = TestNode::new();
    let input = Usdc::balanceOfCall { account: ANYBODY }.abi_encode();
    let request = json!({"from": TOKEN, "to": TOKEN, "input": Bytes::from(input)});
    assert_eq!(node.get("eth_call", json!([request, "latest"])), json!(B256::ZERO));
}

#[test]
fn an_endless_call_ends() {
    let node = TestNode::new();
    // JUMPDEST PUSH1 0 JUMP, as init code.
    let request = json!({"data": "0x5b600056", "gas": "0x186a0"});
    assert_eq!(words(&node.ask("eth_call", json!([request])).unwrap_err()), "out of gas");
    let error = node.ask("eth_estimateGas", json!([request])).unwrap_err();
    assert_eq!(words(&error), "gas required exceeds allowance (100000)");
}
