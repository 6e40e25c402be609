"""Pays one request with PyPI x402 2.25.0 and prints one JSON line about what happened.

    [PAYER_KEY=0x… [PAYER_WALLET=0x…]] [PAYER_SOLANA_KEY=… SOLANA_RPC_URL=…] \\
        python py_v2.py URL [--requests] [--v1] [--header 'Name: value']…

--requests uses the client for `requests` instead of the one for `httpx`. --v1 also registers the v1 scheme and hides the
PAYMENT-REQUIRED header from the client, which would otherwise win: the client then pays by the v1 terms in the body. The
spend controls stay at their defaults, so the terms must name the network's real default asset.
"""

import asyncio
import os

import httpx
import requests
from requests.adapters import HTTPAdapter
from x402 import x402Client, x402ClientSync
from x402.http.clients.httpx import x402AsyncTransport
from x402.http.clients.requests import x402HTTPAdapter
from x402.mechanisms.evm import EthAccountSigner
from x402.mechanisms.evm.exact.client import ExactEvmScheme
from x402.mechanisms.evm.exact.v1.client import ExactEvmSchemeV1
from x402.mechanisms.svm.exact.client import ExactSvmScheme
from x402.mechanisms.svm.exact.v1.client import ExactSvmSchemeV1
from x402.mechanisms.svm.signers import KeypairSigner

from report import parse_arguments, payer_account, print_report

ARGUMENTS = parse_arguments("--requests", "--v1")
SENT = []
OFFERS = []


def register(client):
    if "PAYER_KEY" in os.environ:
        signer = EthAccountSigner(payer_account())
        client.register("eip155:*", ExactEvmScheme(signer))
        if ARGUMENTS.v1:
            client.register_v1("base-sepolia", ExactEvmSchemeV1(signer))
    if "PAYER_SOLANA_KEY" in os.environ:
        signer, node = KeypairSigner.from_base58(os.environ["PAYER_SOLANA_KEY"]), os.environ["SOLANA_RPC_URL"]
        client.register("solana:*", ExactSvmScheme(signer, node))
        if ARGUMENTS.v1:
            client.register_v1("solana-devnet", ExactSvmSchemeV1(signer, node))
    return client


def record(request, answer):
    SENT.append(dict(request.headers))
    if ARGUMENTS.v1:
        answer.headers.pop("PAYMENT-REQUIRED", None)
    elif "PAYMENT-REQUIRED" in answer.headers:
        OFFERS.append(answer.headers["PAYMENT-REQUIRED"])
    return answer


class RecordingTransport(httpx.AsyncHTTPTransport):
    async def handle_async_request(self, request):
        return record(request, await super().handle_async_request(request))


class RecordingAdapter(HTTPAdapter):
    def send(self, request, **options):
        return record(request, super().send(request, **options))


class PayingAdapter(x402HTTPAdapter, RecordingAdapter):
    """The paying adapter sends through `super()`, which is the recording one."""


async def pay_with_httpx():
    transport = x402AsyncTransport(register(x402Client()), RecordingTransport())
    async with httpx.AsyncClient(transport=transport, timeout=60) as session:
        return await session.get(ARGUMENTS.url, headers=ARGUMENTS.headers)


def pay_with_requests():
    with requests.Session() as session:
        adapter = PayingAdapter(register(x402ClientSync()))
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session.get(ARGUMENTS.url, headers=ARGUMENTS.headers, timeout=60)


answer = pay_with_requests() if ARGUMENTS.requests else asyncio.run(pay_with_httpx())
print_report(answer, SENT, OFFERS[0] if OFFERS else None)
