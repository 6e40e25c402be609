#!/usr/bin/env python3
"""Real x402 clients pay through the real gateway on a real node; the last line is 'N passed, N failed'.

    tests/e2e/run.py [FILTER]        only the checks whose name contains FILTER

Wants: `npm ci` done in tests/node-tools and tests/e2e/node, the virtualenvs tests/e2e/python/.venv-1 and .venv-2, and the
gateway built. TOLLHOUSE_BIN names another binary than target/debug/tollhouse. tests/run.sh sees to all of it.
Everything listens on loopback, on free ports, and is stopped by its process id.
"""

import base64
import contextlib
import http.client
import http.server
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
TESTS = HERE.parent
ANVIL_PACKAGES = TESTS / "node-tools/node_modules/@foundry-rs"

CHAIN_ID = 84532
NETWORK_V2 = "eip155:84532"
NETWORK_V1 = "base-sepolia"
# The real address of USDC on Base Sepolia: the clients' spend controls accept no other.
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
# Accounts 0 and 1 of anvil's published development mnemonic.
GATEWAY_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
PAYER_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
PAYER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
PAY_TO = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"
PRICE = 10_000  # $0.01 in atomic units of USDC
OFFER_HEADER_BYTES_MAX = 8192
START_TIMEOUT_SECS = 60
CLIENT_TIMEOUT_SECS = 90

TRANSFER_TOPIC = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
SELECTOR_MINT = "0x40c10f19"
SELECTOR_BALANCE_OF = "0x70a08231"

FORGED = {
    "X-Payment-Payer": "0x00000000000000000000000000000000000f0f0f",
    "X-Payment-Network": "forged",
    "X-Payment-Transaction": "0xf0f0f0",
    "X-Payment-Amount": "999999999",
    "X-Payment-Asset": "forged",
}
PAYMENT_HEADERS = ("payment-signature", "x-payment", "payment-required", "payment-response", "x-payment-response")

CLIENTS = {
    "npm @x402/fetch 2.27.0, v2": ("v2", ["node", "fetch_v2.mjs"], []),
    "npm @x402/fetch 2.27.0, v1": ("v1", ["node", "fetch_v2.mjs"], ["--v1"]),
    "PyPI x402 2.25.0 httpx, v2": ("v2", [".venv-2", "py_v2.py"], []),
    "PyPI x402 2.25.0 httpx, v1": ("v1", [".venv-2", "py_v2.py"], ["--v1"]),
    "PyPI x402 2.25.0 requests, v2": ("v2", [".venv-2", "py_v2.py"], ["--requests"]),
    "PyPI x402 2.25.0 requests, v1": ("v1", [".venv-2", "py_v2.py"], ["--requests", "--v1"]),
    "PyPI x402 1.0.0 httpx, v1": ("v1", [".venv-1", "py_v1.py"], []),
    "PyPI x402 1.0.0 requests, v1": ("v1", [".venv-1", "py_v1.py"], ["--requests"]),
}


class Failure(Exception):
    """A check that didn't hold, in words."""


def expect(holds, message):
    if not holds:
        raise Failure(message)


def expect_equal(what, actual, expected):
    expect(actual == expected, f"{what}: expected {expected!r}, got {actual!r}")


def same_hex(what, actual, expected):
    expect_equal(what, (actual or "").lower(), expected.lower())


# --- processes and sockets ---


def free_port():
    """A port nobody listens on, below the range that outgoing connections are given theirs from."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def child_environment(**extra):
    """This process's environment without proxies: everything here is on loopback."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | extra


class Process:
    """A child whose output goes to a file, so that a failure can show it."""

    def __init__(self, name, command, log_dir, **environment):
        self.name = name
        self.log = log_dir / f"{name}.log"
        with self.log.open("wb") as output:
            self.child = subprocess.Popen(
                [str(part) for part in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=child_environment(**environment),
            )

    def wait_until(self, ready):
        deadline = time.monotonic() + START_TIMEOUT_SECS
        while time.monotonic() < deadline:
            if self.child.poll() is not None:
                raise Failure(f"{self.name} ended with {self.child.returncode} before it was ready")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if ready():
                    return
            time.sleep(0.1)
        raise Failure(f"{self.name} wasn't ready within {START_TIMEOUT_SECS} s")

    def terminate(self, timeout_secs=20):
        """Asks it to end, and returns its exit code; None when it had to be killed."""
        if self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(timeout_secs)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
                return None
        return self.child.returncode

    def text(self):
        return self.log.read_text(errors="replace")


# --- the chain ---


class Chain:
    def __init__(self, port):
        self.port = port

    def rpc(self, method, *params):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            connection.request("POST", "/", json.dumps(request), {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        expect("error" not in answer, f"the node refused {method}: {answer.get('error')}")
        return answer["result"]

    def ready(self):
        return int(self.rpc("eth_chainId"), 16) == CHAIN_ID

    def place_token(self):
        artifact = json.loads((TESTS / "contracts/artifacts/TestUSDC.json").read_text())
        self.rpc("anvil_setCode", USDC, artifact["deployedBytecode"])

    def mint(self, to, value):
        [sender, *_] = self.rpc("eth_accounts")[2:]
        data = SELECTOR_MINT + word(to) + word(hex(value))
        tx = self.rpc("eth_sendTransaction", {"from": sender, "to": USDC, "data": data})
        deadline = time.monotonic() + START_TIMEOUT_SECS
        while (receipt := self.rpc("eth_getTransactionReceipt", tx)) is None:
            expect(time.monotonic() < deadline, "the mint was never mined")
            time.sleep(0.05)
        expect_equal("status of the mint", receipt["status"], "0x1")

    def balance(self, account):
        call = {"to": USDC, "data": SELECTOR_BALANCE_OF + word(account)}
        return int(self.rpc("eth_call", call, "latest"), 16)

    def next_block(self):
        return int(self.rpc("eth_blockNumber"), 16) + 1

    def transfers_since(self, block):
        """Every Transfer of the token from `block` on: (from, to, value, transaction)."""
        logs = self.rpc(
            "eth_getLogs", {"address": USDC, "fromBlock": hex(block), "toBlock": "latest", "topics": [TRANSFER_TOPIC]}
        )
        return [
            ("0x" + log["topics"][1][-40:], "0x" + log["topics"][2][-40:], int(log["data"], 16), log["transactionHash"])
            for log in logs
        ]


def word(value):
    return value.removeprefix("0x").lower().rjust(64, "0")


def anvil_binary():
    found = sorted(ANVIL_PACKAGES.glob("anvil-*/bin/anvil"))
    expect(found, f"no anvil under {ANVIL_PACKAGES}: run npm ci in tests/node-tools")
    return found[0]


# --- the origin ---


class Origin:
    """A server that knows nothing of payments and writes down each request it gets."""

    def __init__(self):
        self.requests = []
        recorded = self.requests

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                headers = {}
                for name, value in self.headers.items():
                    headers.setdefault(name.lower(), []).append(value)
                recorded.append({"method": self.command, "path": self.path, "headers": headers})
                body = json.dumps({"origin": True, "path": self.path}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def hits(self, path):
        return [request for request in self.requests if request["path"].split("?")[0] == path]


# --- the gateway ---


def gateway_binary():
    named = os.environ.get("TOLLHOUSE_BIN")
    if named is None:
        metadata = subprocess.run(
            ["cargo", "metadata", "--format-version", "1", "--no-deps"],
            cwd=TESTS.parent,
            check=True,
            stdout=subprocess.PIPE,
        )
        named = pathlib.Path(json.loads(metadata.stdout)["target_directory"]) / "debug/tollhouse"
    binary = pathlib.Path(named).resolve()
    expect(binary.is_file(), f"no gateway at {binary}: run cargo build, or name one in TOLLHOUSE_BIN")
    return binary


def configuration(gateway_port, admin_port, origin_port, anvil_port):
    return f"""\
[server]
listen = "127.0.0.1:{gateway_port}"

[admin]
listen = "127.0.0.1:{admin_port}"

[ledger]
url = "sqlite:tollhouse.db"

[upstreams.api]
servers = ["127.0.0.1:{origin_port}"]

[networks.base-sepolia]
rpc_url = "http://127.0.0.1:{anvil_port}"
signer  = {{ env = "BASE_SEPOLIA_SIGNER" }}
pay_to  = "{PAY_TO}"

[routes]
"/health"       = "free"
"GET /api/data" = "$0.01"
"""


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()


class Shop:
    """Everything that runs: node, origin, gateway."""

    def __init__(self, directory):
        self.directory = directory
        self.processes = []
        self.gateway_port = free_port()
        self.admin_port = free_port()
        self.url = f"http://127.0.0.1:{self.gateway_port}/api/data"

    def open(self):
        binary = gateway_binary()
        self.chain = Chain(free_port())
        # Mined at once, and every second too: with neither, the node's clock stands still between payments.
        node = self.start(
            "anvil",
            [anvil_binary(), "--chain-id", CHAIN_ID, "--host", "127.0.0.1", "--port", self.chain.port]
            + ["--silent", "--block-time", "1", "--mixed-mining"],
        )
        node.wait_until(self.chain.ready)
        self.chain.place_token()
        self.chain.mint(PAYER, 100 * PRICE)
        self.origin = Origin()
        config = self.directory / "gateway.toml"
        config.write_text(configuration(self.gateway_port, self.admin_port, self.origin.port, self.chain.port))
        self.gateway = self.start(
            "tollhouse", [binary, "run", "--config", config], BASE_SEPOLIA_SIGNER=GATEWAY_KEY
        )
        self.gateway.wait_until(lambda: self.get("/healthz", port=self.admin_port).status == 200)

    def start(self, name, command, **environment):
        process = Process(name, command, self.directory, **environment)
        self.processes.append(process)
        return process

    def close(self):
        for process in reversed(self.processes):
            process.terminate()

    def get(self, path, headers=None, port=None):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.gateway_port, timeout=CLIENT_TIMEOUT_SECS)
        try:
            connection.request("GET", path, headers=headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def run_client(self, program, script_flags):
        runner, script = program
        if runner.startswith(".venv"):
            runner = HERE / "python" / runner / "bin/python"
        forged = [part for name, value in FORGED.items() for part in ("--header", f"{name}: {value}")]
        command = [str(runner), str(HERE / "clients" / script), self.url, *script_flags, *forged]
        try:
            done = subprocess.run(
                command,
                env=child_environment(PAYER_KEY=PAYER_KEY),
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


# --- the checks ---


def check_terms(answer):
    """One 402 that serves v1 and v2 clients: protocol §1.3."""
    expect_equal("status", answer.status, 402)
    expect("no-store" in answer.headers.get("cache-control", ""), "a 402 must say Cache-Control: no-store")
    header = answer.headers.get("payment-required")
    expect(header is not None, "no PAYMENT-REQUIRED header")
    expect(len(header) <= OFFER_HEADER_BYTES_MAX, f"PAYMENT-REQUIRED has {len(header)} bytes")
    terms = json.loads(base64.b64decode(header, validate=True))
    expect_equal("x402Version of the header", terms["x402Version"], 2)
    [offer] = terms["accepts"]
    expect_equal("v2 scheme", offer["scheme"], "exact")
    expect_equal("v2 network", offer["network"], NETWORK_V2)
    expect_equal("v2 amount", offer["amount"], str(PRICE))
    same_hex("v2 asset", offer["asset"], USDC)
    same_hex("v2 payTo", offer["payTo"], PAY_TO)
    expect_equal("v2 domain", (offer["extra"]["name"], offer["extra"]["version"]), ("USDC", "2"))
    expect(isinstance(offer["maxTimeoutSeconds"], int), "v2 maxTimeoutSeconds must be an integer")
    expect(offer["extra"].get("quote"), "the v2 offer carries no extra.quote")

    expect("json" in answer.headers.get("content-type", ""), "the body of a 402 must be JSON")
    body = json.loads(answer.body)
    expect_equal("x402Version of the body", body["x402Version"], 1)
    expect(isinstance(body["error"], str) and body["error"], "v1 error must be a string that says something")
    [offer] = body["accepts"]
    expect_equal("v1 scheme", offer["scheme"], "exact")
    expect_equal("v1 network", offer["network"], NETWORK_V1)
    expect_equal("v1 maxAmountRequired", offer["maxAmountRequired"], str(PRICE))
    same_hex("v1 asset", offer["asset"], USDC)
    same_hex("v1 payTo", offer["payTo"], PAY_TO)
    expect(isinstance(offer["maxTimeoutSeconds"], int), "v1 maxTimeoutSeconds must be an integer")
    expect(urllib.parse.urlsplit(offer["resource"]).netloc, "v1 resource must be an absolute URL")
    expect(isinstance(offer["description"], str), "v1 description must be a string")
    expect(isinstance(offer["mimeType"], str), "v1 mimeType must be a string")
    expect_equal("null fields of the v1 offer", [key for key, value in offer.items() if value is None], [])
    expect_equal("v1 domain", offer["extra"], {"name": "USDC", "version": "2"})


def check_unpaid_requests_get_terms(shop):
    hits = len(shop.origin.requests)
    check_terms(shop.get("/api/data"))
    check_terms(shop.get("/api/data", FORGED))
    for name in ("PAYMENT-SIGNATURE", "X-PAYMENT"):
        check_terms(shop.get("/api/data", {name: "bm90IGEgcGF5bWVudA=="}))
    expect_equal("hits at the origin", len(shop.origin.requests) - hits, 0)


def check_unknown_paths_never_reach_the_origin(shop):
    hits = len(shop.origin.requests)
    expect_equal("status", shop.get("/nowhere").status, 404)
    expect_equal("hits at the origin", len(shop.origin.requests) - hits, 0)


def check_free_requests_pass_without_forged_headers(shop):
    answer = shop.get("/health", FORGED | {"X-Kept": "kept"})
    expect_equal("status", answer.status, 200)
    headers = shop.origin.hits("/health")[-1]["headers"]
    expect_equal("x-kept", headers.get("x-kept"), ["kept"])
    forged = [name for name in headers if name.startswith("x-payment-")]
    expect_equal("payment headers at the origin", forged, [])


def check_receipt(receipt, dialect, transaction):
    expect(receipt is not None, "a paid answer without its receipt header")
    expect_equal("success", receipt["success"], True)
    same_hex("transaction of the receipt", receipt["transaction"], transaction)
    expect_equal("network of the receipt", receipt["network"], NETWORK_V2 if dialect == "v2" else NETWORK_V1)
    same_hex("payer of the receipt", receipt["payer"], PAYER)


def check_origin_request(request, transaction):
    headers = request["headers"]
    for name in PAYMENT_HEADERS:
        expect(name not in headers, f"{name} reached the origin")
    once = {}
    for name in FORGED:
        values = headers.get(name.lower(), [])
        expect(len(values) == 1, f"{name} at the origin: {values}")
        once[name] = values[0]
    same_hex("X-Payment-Payer", once["X-Payment-Payer"], PAYER)
    expect_equal("X-Payment-Network", once["X-Payment-Network"], NETWORK_V2)
    same_hex("X-Payment-Transaction", once["X-Payment-Transaction"], transaction)
    expect_equal("X-Payment-Amount", once["X-Payment-Amount"], str(PRICE))
    same_hex("X-Payment-Asset", once["X-Payment-Asset"], USDC)


def check_client_pays(shop, client):
    """One client: pays once, gets the answer once, and can't get it again with the same header."""
    dialect, program, flags = CLIENTS[client]
    block, balance, hits = shop.chain.next_block(), shop.chain.balance(PAY_TO), len(shop.origin.requests)
    report = shop.run_client(program, flags)
    expect_equal(f"status (body: {report['body'][:500]})", report["status"], 200)
    expect_equal("body", json.loads(report["body"]), {"origin": True, "path": "/api/data"})
    expect_equal("money earned", shop.chain.balance(PAY_TO) - balance, PRICE)
    [*transfers] = shop.chain.transfers_since(block)
    expect_equal("transfers", [transfer[:3] for transfer in transfers], [(PAYER.lower(), PAY_TO.lower(), PRICE)])
    transaction = transfers[0][3]
    check_receipt(report["paymentResponse"], dialect, transaction)
    check_receipt(report["xPaymentResponse"], dialect, transaction)
    expect("private" in report["headers"].get("cache-control", ""), "a paid answer must say Cache-Control: private")
    expect_equal("hits at the origin", len(shop.origin.requests) - hits, 1)
    check_origin_request(shop.origin.requests[-1], transaction)

    payment = report["paymentHeader"]
    expect_equal("payment header", payment["name"], "payment-signature" if dialect == "v2" else "x-payment")
    signature = json.loads(base64.b64decode(payment["value"]))["payload"]["signature"].removeprefix("0x")
    for secret in (payment["value"], signature):
        expect(secret not in shop.gateway.text(), "the payment is in the gateway's log")
    check_terms(shop.get("/api/data", {payment["name"]: payment["value"]}))
    expect_equal("hits at the origin after a replay", len(shop.origin.requests) - hits, 1)
    expect_equal("money earned after a replay", shop.chain.balance(PAY_TO) - balance, PRICE)


def check_gateway_ends_in_peace(shop):
    expect_equal("exit code after SIGTERM", shop.gateway.terminate(), 0)
    expect(GATEWAY_KEY.removeprefix("0x") not in shop.gateway.text().lower(), "the signer's key is in the log")


def checks(shop):
    yield "unpaid requests get terms for v1 and v2", lambda: check_unpaid_requests_get_terms(shop)
    yield "unknown paths never reach the origin", lambda: check_unknown_paths_never_reach_the_origin(shop)
    yield "free requests pass, without forged headers", lambda: check_free_requests_pass_without_forged_headers(shop)
    for client in CLIENTS:
        yield f"{client} pays once", lambda client=client: check_client_pays(shop, client)
    yield "the gateway ends in peace", lambda: check_gateway_ends_in_peace(shop)


def run_check(name, check):
    started = time.monotonic()
    try:
        check()
    except (Failure, OSError, http.client.HTTPException) as failure:
        problem = str(failure) or repr(failure)
    except (KeyError, ValueError, TypeError, IndexError) as malformed:
        # What the gateway or a client answered doesn't have the shape that the check takes apart.
        problem = f"malformed answer: {malformed!r}"
    else:
        print(f"PASS {name} ({time.monotonic() - started:.1f} s)", flush=True)
        return True
    print(f"FAIL {name}\n     {problem}", flush=True)
    return False


def print_logs(shop):
    for process in shop.processes:
        print(f"--- last lines of {process.name} ---")
        print("\n".join(process.text().splitlines()[-80:]), flush=True)


def main():
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="tollhouse-e2e-") as directory:
        shop = Shop(pathlib.Path(directory))
        try:
            if run_check("the shop opens", shop.open):
                for name, check in checks(shop):
                    if wanted in name:
                        passed, failed = (passed + 1, failed) if run_check(name, check) else (passed, failed + 1)
            else:
                failed += 1
            if failed:
                print_logs(shop)
        finally:
            shop.close()
    print(f"{passed} passed, {failed} failed")
    # A filter that fits nothing has checked nothing.
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
