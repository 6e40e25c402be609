"""What the Python clients share: the command line, who pays, and the one JSON line about what happened."""

import argparse
import base64
import json
import os

from eth_account import Account


class ContractWallet:
    """In the place of an account of eth_account: a contract's address, with its owner signing typed data for it."""

    def __init__(self, address, owner):
        self.address = address
        self.sign_typed_data = owner.sign_typed_data


def payer_account():
    """The account of PAYER_KEY, or the contract at PAYER_WALLET with that account as the owner who signs for it."""
    owner = Account.from_key(os.environ["PAYER_KEY"])
    wallet = os.environ.get("PAYER_WALLET")
    return owner if wallet is None else ContractWallet(wallet, owner)


def parse_arguments(*flags):
    """The URL, the given boolean flags, and extra request headers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--header", action="append", default=[], help="'Name: value'")
    arguments = parser.parse_args()
    arguments.headers = dict(line.split(": ", 1) for line in arguments.header)
    return arguments


def decode(header):
    return None if header is None else json.loads(base64.b64decode(header, validate=True))


def print_report(answer, sent, offer=None):
    """`answer`: a response of httpx or requests. `sent`: the headers of every request that went out, in order.
    `offer`: the PAYMENT-REQUIRED header that the client was shown, if any."""
    last = {name.lower(): value for name, value in sent[-1].items()}
    name = next((name for name in ("payment-signature", "x-payment") if name in last), None)
    report = {
        "status": answer.status_code,
        "body": answer.text,
        "headers": {name.lower(): value for name, value in answer.headers.items()},
        "paymentResponse": decode(answer.headers.get("PAYMENT-RESPONSE")),
        "xPaymentResponse": decode(answer.headers.get("X-PAYMENT-RESPONSE")),
        "paymentHeader": None if name is None else {"name": name, "value": last[name]},
        "offer": decode(offer),
    }
    print(json.dumps(report))
