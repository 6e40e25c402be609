"""The one JSON line that each Python client prints."""

import argparse
import base64
import json


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


def print_report(answer, sent):
    """`answer`: a response of httpx or requests. `sent`: the headers of every request that went out, in order."""
    last = {name.lower(): value for name, value in sent[-1].items()}
    name = next((name for name in ("payment-signature", "x-payment") if name in last), None)
    report = {
        "status": answer.status_code,
        "body": answer.text,
        "headers": {name.lower(): value for name, value in answer.headers.items()},
        "paymentResponse": decode(answer.headers.get("PAYMENT-RESPONSE")),
        "xPaymentResponse": decode(answer.headers.get("X-PAYMENT-RESPONSE")),
        "paymentHeader": None if name is None else {"name": name, "value": last[name]},
    }
    print(json.dumps(report))
