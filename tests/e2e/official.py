"""The official x402 clients: what they are, and how one of them pays once."""

import json
import pathlib
import subprocess
from typing import NamedTuple

from harness import Failure, child_environment, expect

HERE = pathlib.Path(__file__).resolve().parent
NODE = ["node"]
PYTHON_1 = [HERE / "python/.venv-1/bin/python"]
PYTHON_2 = [HERE / "python/.venv-2/bin/python"]
REQWEST_PAY = HERE / "rust/target/debug/reqwest_pay"
CLIENT_TIMEOUT_SECS = 90


class Client(NamedTuple):
    dialect: str
    command: list
    # Also pays through the proxy that ends TLS: one of each package.
    tls: bool = False
    # Also pays on Solana, and where both are offered on whichever it has a key for.
    solana: bool = False
    # How it signs on Cosmos.
    mode: str = ""


def script(runner, name, *flags):
    return [*runner, HERE / "clients" / name, *flags]


CLIENTS = {
    "npm x402-fetch 1.2.0, v1": Client("v1", script(NODE, "fetch_v1.mjs"), tls=True, solana=True),
    "npm @x402/fetch 2.27.0, v2": Client("v2", script(NODE, "fetch_v2.mjs"), tls=True, solana=True),
    "npm @x402/fetch 2.27.0, v1": Client("v1", script(NODE, "fetch_v2.mjs", "--v1"), solana=True),
    "npm @x402/axios 2.11.0, v2": Client("v2", script(NODE, "axios_v2.mjs"), tls=True),
    "npm @x402/axios 2.11.0, v1": Client("v1", script(NODE, "axios_v2.mjs", "--v1")),
    "PyPI x402 2.25.0 httpx, v2": Client("v2", script(PYTHON_2, "py_v2.py"), tls=True, solana=True),
    "PyPI x402 2.25.0 httpx, v1": Client("v1", script(PYTHON_2, "py_v2.py", "--v1"), solana=True),
    "PyPI x402 2.25.0 requests, v2": Client("v2", script(PYTHON_2, "py_v2.py", "--requests"), tls=True, solana=True),
    "PyPI x402 2.25.0 requests, v1": Client("v1", script(PYTHON_2, "py_v2.py", "--requests", "--v1"), solana=True),
    "PyPI x402 1.0.0 httpx, v1": Client("v1", script(PYTHON_1, "py_v1.py")),
    "PyPI x402 1.0.0 requests, v1": Client("v1", script(PYTHON_1, "py_v1.py", "--requests"), tls=True),
    "crate x402-reqwest 2.0.2, v2": Client("v2", [REQWEST_PAY], tls=True),
    "crate x402-reqwest 2.0.2, v1": Client("v1", [REQWEST_PAY, "--v1"]),
}

# Not clients of x402, of which Cosmos has none, but the wallet that there is.
COSMJS = {
    "npm @cosmjs/stargate 0.39.0, direct": Client("v2", script(NODE, "cosmjs_pay.mjs"), mode="direct"),
    "npm @cosmjs/stargate 0.39.0, amino": Client("v2", script(NODE, "cosmjs_pay.mjs", "--amino"), mode="amino"),
}

# What official wallets sign, in the forms that no official client writes for the chain.
FORMS = {
    "v1": Client("v1", script(NODE, "dialects.mjs", "--as", "v1")),
    "vitwit": Client("vitwit", script(NODE, "dialects.mjs", "--as", "vitwit")),
}


def run_client(client, gateway, url, keys, headers, wallet=None):
    """What the client reports of one paid request. `keys`: the environment that holds the payer's. `wallet`: the
    contract that pays instead of its owner."""
    environment = dict(keys)
    if wallet is not None:
        environment["PAYER_WALLET"] = wallet
    if gateway.certificate is not None:
        for name in ("NODE_EXTRA_CA_CERTS", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            environment[name] = str(gateway.certificate)
    lines = [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
    try:
        done = subprocess.run(
            [str(part) for part in [*client.command, *lines, url]],
            env=child_environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=CLIENT_TIMEOUT_SECS,
        )
    except subprocess.TimeoutExpired as expired:
        raise Failure(f"the client wasn't done within {CLIENT_TIMEOUT_SECS} s") from expired
    expect(done.returncode == 0, f"the client failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)
