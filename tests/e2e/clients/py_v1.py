"""Pays one request with PyPI x402 1.0.0, the last that knows v1 only, and prints one JSON line about what happened.

    PAYER_KEY=0x… [PAYER_WALLET=0x…] python py_v1.py URL [--requests] [--header 'Name: value']…
"""

import asyncio

from x402.clients.httpx import x402HttpxClient
from x402.clients.requests import x402_requests

from report import parse_arguments, payer_account, print_report

ARGUMENTS = parse_arguments("--requests")
ACCOUNT = payer_account()


async def pay_with_httpx():
    async with x402HttpxClient(account=ACCOUNT, timeout=60) as session:
        return await session.get(ARGUMENTS.url, headers=ARGUMENTS.headers)


def pay_with_requests():
    with x402_requests(ACCOUNT) as session:
        return session.get(ARGUMENTS.url, headers=ARGUMENTS.headers, timeout=60)


answer = pay_with_requests() if ARGUMENTS.requests else asyncio.run(pay_with_httpx())
# This client sends the paid request by changing the first one, and puts the paid answer in the place of the first.
print_report(answer, [answer.request.headers])
