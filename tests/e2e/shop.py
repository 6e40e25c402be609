"""What runs while the checks do: three nodes, origin, two gateways, a proxy that ends TLS before the second, and somebody
else's resource server whose facilitator is the first."""

import contextlib
import http.client
import http.server
import json
import os
import pathlib
import socket
import ssl
import subprocess
import threading

from chain import CHAIN_ID, GATEWAY_KEY, PAY_TO, PAYER, SHADOW_GATEWAY_KEY, TESTS, WALLET, Chain, anvil_binary
from cosmos_chain import CosmosChain
from harness import Process, expect, free_port
from solana_chain import FEE_PAYER_KEY, SolanaChain, node_binary

PRICE = 10_000  # $0.01 in atomic units of USDC
MINTED = 1_000 * PRICE
PRICED_PATH = "/api/data"
SOLANA_PATH = "/api/solana"
EITHER_PATH = "/api/either"
ANY_PATH = "/api/any"
ANSWER_TIMEOUT_SECS = 90


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


class TlsProxy:
    """Ends TLS on a port of its own and passes the bytes on in the clear; it knows nothing of HTTP."""

    def __init__(self, directory, target_port):
        self.certificate = directory / "localhost.pem"
        key = directory / "localhost.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
            + ["-keyout", key, "-out", self.certificate, "-days", "2", "-subj", "/CN=localhost"]
            + ["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"],
            check=True,
            capture_output=True,
        )
        self.target_port = target_port
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(self.certificate, key)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with contextlib.suppress(OSError):
            inner = socket.create_connection(("127.0.0.1", self.target_port))
            outer = self.context.wrap_socket(connection, server_side=True)
            threading.Thread(target=pump, args=(inner, outer), daemon=True).start()
            pump(outer, inner)


def pump(source, sink):
    """Copies until the source ends, then ends the sink."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


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


def configuration(gateway, origin_port, anvil_port, solana, cosmos):
    public_url = "" if gateway.public_url is None else f'public_url = "{gateway.public_url}"'
    return f"""\
[server]
listen = "127.0.0.1:{gateway.port}"
{public_url}
# Every client gets the bazaar extension with its terms, and must pay all the same.
discovery = true

[admin]
listen = "127.0.0.1:{gateway.admin_port}"

[facilitator]
listen = "127.0.0.1:{gateway.facilitator_port}"

[ledger]
url = "sqlite:{gateway.name}.db"

[upstreams.api]
servers = ["127.0.0.1:{origin_port}"]

[networks.base-sepolia]
rpc_url = "http://127.0.0.1:{anvil_port}"
signer  = {{ env = "BASE_SEPOLIA_SIGNER" }}
pay_to  = "{PAY_TO}"

[networks.solana-devnet]
rpc_url = "{solana.url}"
genesis_hash = "{solana.genesis_hash}"
signer  = {{ file = "fee-payer" }}
pay_to  = "{solana.pay_to}"

[networks.grand-1]
grpc_url = "{cosmos.url}"
pay_to   = "{cosmos.pay_to}"

[routes]
"/health"       = "free"
"GET {PRICED_PATH}" = {{ price = "$0.01", networks = ["base-sepolia"] }}
"GET {SOLANA_PATH}" = {{ price = "$0.01", networks = ["solana-devnet"] }}
"GET {EITHER_PATH}" = {{ price = "$0.01", networks = ["base-sepolia", "solana-devnet"] }}
"GET {ANY_PATH}" = {{ price = "$0.01", networks = ["base-sepolia", "solana-devnet", "grand-1"] }}
"""


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()


class Gateway:
    def __init__(self, name, signer_key):
        self.name = name
        self.signer_key = signer_key
        self.port = free_port()
        self.admin_port = free_port()
        self.facilitator_port = free_port()
        self.public_url = None
        # A file of certificates that clients must trust to reach public_url.
        self.certificate = None

    def url(self, path):
        """A priced URL, as clients ask for it and as the terms must name it."""
        return (self.public_url or f"http://127.0.0.1:{self.port}") + path

    def get(self, path, headers=None, port=None):
        connection = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=ANSWER_TIMEOUT_SECS)
        try:
            connection.request("GET", path, headers=headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def ready(self):
        return self.get("/healthz", port=self.admin_port).status == 200


class ResourceServer:
    """Another's server behind official middleware: clients pay it, and it has that settled by a gateway."""

    def __init__(self, gateway):
        self.port = free_port()
        self.gateway = gateway
        self.url = f"http://127.0.0.1:{self.port}/report"
        self.certificate = None

    def get(self, path, headers=None):
        return self.gateway.get(path, headers, port=self.port)

    def ready(self):
        return self.get("/answered").status == 200

    def answered(self):
        return json.loads(self.get("/answered").body)["answered"]


class Shop:
    def __init__(self, directory):
        self.directory = directory
        self.processes = []

    def open(self):
        self.chain = Chain(free_port())
        # Mined at once, and every second too: with neither, the node's clock stands still between payments.
        node = self.start(
            "anvil",
            [anvil_binary(), "--chain-id", CHAIN_ID, "--host", "127.0.0.1", "--port", self.chain.port]
            + ["--silent", "--block-time", "1", "--mixed-mining"],
        )
        node.wait_until(self.chain.ready)
        self.chain.place_contracts()
        for payer in (PAYER, WALLET):
            self.chain.mint(payer, MINTED)
        # It ends with its standard input.
        self.solana = SolanaChain(self.start("solana-node", [node_binary()], stdin=subprocess.PIPE))
        self.solana.fund(MINTED)
        fee_payer = self.directory / "fee-payer"
        fee_payer.touch(mode=0o600)
        fee_payer.write_text(FEE_PAYER_KEY)
        # As does this one.
        cosmos = [gateway_binary(), "cosmos-chain", "--no-blocks"]
        self.cosmos = CosmosChain(self.start("cosmos-chain", cosmos, stdin=subprocess.PIPE))
        self.cosmos.fund(MINTED)
        self.offered = {
            PRICED_PATH: [self.chain],
            SOLANA_PATH: [self.solana],
            EITHER_PATH: [self.chain, self.solana],
            ANY_PATH: [self.chain, self.solana, self.cosmos],
        }
        self.origin = Origin()

        self.gateway = Gateway("tollhouse", GATEWAY_KEY)
        self.start_gateway(self.gateway)

        self.shadow = Gateway("tollhouse-behind-tls", SHADOW_GATEWAY_KEY)
        tls_proxy = TlsProxy(self.directory, self.shadow.port)
        self.shadow.public_url = f"https://localhost:{tls_proxy.port}"
        self.shadow.certificate = tls_proxy.certificate
        self.start_gateway(self.shadow)

        self.resource_server = ResourceServer(self.gateway)
        server = self.start(
            "resource-server",
            ["node", TESTS / "e2e/clients/express_server.mjs"],
            PORT=str(self.resource_server.port),
            FACILITATOR=f"http://127.0.0.1:{self.gateway.facilitator_port}",
            PAY_TO=PAY_TO,
        )
        server.wait_until(self.resource_server.ready)

    def start_gateway(self, gateway):
        config = self.directory / f"{gateway.name}.toml"
        config.write_text(configuration(gateway, self.origin.port, self.chain.port, self.solana, self.cosmos))
        command = [gateway_binary(), "run", "--config", config]
        gateway.process = self.start(gateway.name, command, BASE_SEPOLIA_SIGNER=gateway.signer_key)
        gateway.process.wait_until(gateway.ready)

    def start(self, name, command, **options):
        process = Process(name, command, self.directory, **options)
        self.processes.append(process)
        return process

    def close(self):
        for process in reversed(self.processes):
            process.terminate()
