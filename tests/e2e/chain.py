"""The node: anvil as Base Sepolia, with a stand-in for USDC at its real address."""

import http.client
import json
import pathlib
import time

from harness import START_TIMEOUT_SECS, expect, expect_equal, same_hex

TESTS = pathlib.Path(__file__).resolve().parent.parent
ANVIL_PACKAGES = TESTS / "node-tools/node_modules/@foundry-rs"

CHAIN_ID = 84532
NETWORK_V2 = "eip155:84532"
NETWORK_V1 = "base-sepolia"
# The real address of USDC on Base Sepolia: the clients' spend controls accept no other.
USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
# Accounts 0, 1 and 3 of anvil's published development mnemonic; 2 pays for the setup's own transactions.
GATEWAY_KEY = "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"
PAYER_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
PAYER = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8"
SHADOW_GATEWAY_KEY = "0x7c852118294e51e653712a81e05800f419141751be58f605c371e15141b007a6"
# A contract that pays: the payer above owns it.
WALLET = "0x1271000000000000000000000000000000001271"
WALLET_OWNER_SLOT = "0x0"
PAY_TO = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C"

TRANSFER_TOPIC = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"
SELECTOR_MINT = "0x40c10f19"
SELECTOR_BALANCE_OF = "0x70a08231"


class Chain:
    network_v2 = NETWORK_V2
    network_v1 = NETWORK_V1
    asset = USDC
    payer = PAYER
    pay_to = PAY_TO

    def __init__(self, port):
        self.port = port

    def client_environment(self):
        return {"PAYER_KEY": PAYER_KEY}

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

    def place_contracts(self):
        """The token, and a wallet whose owner signs for it."""
        self.rpc("anvil_setCode", USDC, runtime_code("TestUSDC"))
        self.rpc("anvil_setCode", WALLET, runtime_code("Wallet1271"))
        self.rpc("anvil_setStorageAt", WALLET, WALLET_OWNER_SLOT, "0x" + word(PAYER))

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

    def now(self):
        """The next block: `transfers_since` counts from it."""
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

    def same(self, what, actual, expected):
        same_hex(what, actual, expected)

    def check_extra(self, v2, v1):
        expect_equal("v2 domain", (v2["name"], v2["version"]), ("USDC", "2"))
        expect_equal("v1 domain", v1, {"name": "USDC", "version": "2"})

    def network_name(self, dialect):
        """What receipts call the chain."""
        return self.network_v2 if dialect == "v2" else self.network_v1

    def signed(self, payload):
        """The part of a payment's payload that must stay secret."""
        return payload["signature"].removeprefix("0x")


def runtime_code(contract):
    return json.loads((TESTS / f"contracts/artifacts/{contract}.json").read_text())["deployedBytecode"]


def word(value):
    return value.removeprefix("0x").lower().rjust(64, "0")


def anvil_binary():
    found = sorted(ANVIL_PACKAGES.glob("anvil-*/bin/anvil"))
    expect(found, f"no anvil under {ANVIL_PACKAGES}: run npm ci in tests/node-tools")
    return found[0]
