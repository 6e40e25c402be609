"""What must hold on the Cosmos chain beside what must hold on every chain."""

import base64
import json
import threading

from cosmos_chain import FEE, PAYER, sign, vectors
from harness import expect, expect_equal

# What is spoilt, and the reason that a payer must be told.
REFUSALS = {
    "sequence too high": ({"sequence": +1}, "invalid_exact_cosmos_sequence_mismatch"),
    "fee under the node's minimum": ({"feeAmount": "11999"}, "invalid_exact_cosmos_fee"),
    "gas under what it takes": ({"gas": "60000", "feeAmount": "12000"}, "invalid_exact_cosmos_fee"),
    "another chain's id": ({"chainId": "noble-1"}, "invalid_exact_cosmos_signature"),
    "another account's number": ({"accountNumber": +1}, "invalid_exact_cosmos_signature"),
    "another coin": ({"denom": "uatom", "feeDenom": "uusdc"}, "invalid_exact_cosmos_denom_mismatch"),
    "one unit less": ({"amount": "9999"}, "invalid_exact_cosmos_amount_mismatch"),
    "another recipient": ({"to": PAYER}, "invalid_exact_cosmos_recipient_mismatch"),
    "a timeout that has passed": ({"timeoutHeight": 1}, "invalid_exact_cosmos_timeout_height"),
    "another sender's key": ({"key": "03" * 32}, "invalid_exact_cosmos_account_not_found"),
}


def check_cosmjs_makes_the_documents_vectors():
    known = vectors()
    expect(len(known) >= 4, "the document has no vectors")
    for vector in known:
        made = sign(vector["sign"])
        for key, value in made.items():
            expect_equal(f"{key} of vector {vector['name']}", value, vector[key])


def offer_of(shop, path):
    answer = shop.gateway.get(path)
    terms = json.loads(base64.b64decode(answer.headers["payment-required"]))
    [offer] = [offer for offer in terms["accepts"] if offer["network"] == shop.cosmos.network_v2]
    return offer


def payment(shop, path, mode, changes=None):
    """A payment header's value: right, but for the changes; a number changes by that much."""
    offer = offer_of(shop, path)
    wish = shop.cosmos.wish()
    wish |= {"mode": mode, "to": offer["payTo"], "denom": offer["asset"], "amount": offer["amount"]}
    for key, change in (changes or {}).items():
        is_step = isinstance(change, int) and key != "timeoutHeight"
        wish[key] = wish[key] + change if is_step else change
    made = {"x402Version": 2, "accepted": offer, "payload": {"transaction": sign(wish)["transaction"]}}
    return base64.b64encode(json.dumps(made).encode()).decode()


def check_refusal(shop, path, mode, changes, reason):
    hits, broadcasts = len(shop.origin.requests), shop.cosmos.ask("state")["broadcasts"]
    answer = shop.gateway.get(path, {"PAYMENT-SIGNATURE": payment(shop, path, mode, changes)})
    terms = json.loads(base64.b64decode(answer.headers["payment-required"]))
    expect_equal("status and reason", (answer.status, terms["error"]), (402, reason))
    expect_equal("broadcasts", shop.cosmos.ask("state")["broadcasts"] - broadcasts, 0)
    expect_equal("hits at the origin", len(shop.origin.requests) - hits, 0)


def check_overspend_in_a_block(shop, path, mode):
    """CheckTx lets it in, since the money went only afterwards: included with code 5, refused, not served."""
    cosmos, hits = shop.cosmos, len(shop.origin.requests)
    header = payment(shop, path, mode)
    earned, held = cosmos.balance(cosmos.pay_to), cosmos.balance(PAYER)
    answers = []
    client = threading.Thread(target=lambda: answers.append(shop.gateway.get(path, {"PAYMENT-SIGNATURE": header})))
    with cosmos.blocks:
        client.start()
        cosmos.wait_waiting()
        cosmos.ask("take", PAYER, held - int(FEE))
    client.join()
    cosmos.ask("fund", PAYER, held)
    [answer] = answers
    receipt = json.loads(base64.b64decode(answer.headers["payment-response"]))
    expect_equal("status", answer.status, 402)
    expect_equal("success", receipt["success"], False)
    expect_equal("reason", receipt["errorReason"], "invalid_exact_cosmos_insufficient_balance")
    expect_equal("code in the block", cosmos.ask("state")["codes"][-1], 5)
    expect_equal("money earned", cosmos.balance(cosmos.pay_to) - earned, 0)
    expect_equal("hits at the origin", len(shop.origin.requests) - hits, 0)
