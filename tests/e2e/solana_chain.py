"""The other node: a Solana chain in the place of devnet, with test money at the address of devnet's USDC."""

import http.client
import json

from chain import TESTS
from harness import expect, expect_equal

NODE_BINARY = TESTS / "solana-node/target/debug/solana-node"

USDC = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
# Key pairs of seeds that everybody knows: 32 times 0x51 and 0x52.
FEE_PAYER_KEY = "2dJC8huEF77dCmdWWSKxcdgdvzfpo5WZuF7pxSvL2NzJ6p896d8nj7JX5fm5vLEJgQQpXhvsPGB3UJ6wSZ7GgFcm"
FEE_PAYER = "DwiiKAQ7MXWDnCQiZcH81bF1pMyf6mYBLSKNKAxSEWzd"
PAYER_KEY = "2eTiLySfUAmf5kkQRngxavc7bcU8a3RCpsp1aDdoUB61euMMCwBF7jS4LPBVaJ23whmPYak49icXfkZVFL49Aj2E"
PAYER = "3ACfo7M2U8W2aCgHGBMNW1teYyWQer9EZwjvRktUsGLn"
PAY_TO = "HhHRvLFvZid6FD7C96H93F2MkASjYfYAx8Y2P8KMAr6b"
FEE_PAYER_LAMPORTS = 10_000_000_000


class SolanaChain:
    network_v2 = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
    network_v1 = "solana-devnet"
    asset = USDC
    payer = PAYER
    pay_to = PAY_TO

    def __init__(self, process):
        """`process` prints where it listens."""
        process.wait_until(lambda: process.text().endswith("\n"))
        ready = json.loads(process.text())
        self.url = ready["rpc_url"]
        self.genesis_hash = ready["genesis_hash"]

    def rpc(self, method, *params):
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=10)
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            connection.request("POST", "/", json.dumps(request), {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        expect("error" not in answer, f"the node refused {method}: {answer.get('error')}")
        return answer["result"]

    def fund(self, minted):
        """SOL for the fee payer, tokens for the payer, and an empty token account for the shop."""
        self.rpc("surfnet_setAccount", FEE_PAYER, {"lamports": FEE_PAYER_LAMPORTS})
        for owner, amount in ((PAYER, minted), (PAY_TO, 0)):
            self.rpc("surfnet_setTokenAccount", owner, USDC, {"amount": amount})
        held = self.rpc("getTokenAccountsByOwner", PAY_TO, {"mint": USDC}, {"encoding": "jsonParsed"})["value"]
        [self.token_account] = [account["pubkey"] for account in held]

    def client_environment(self):
        return {"PAYER_SOLANA_KEY": PAYER_KEY, "SOLANA_RPC_URL": self.url}

    def balance(self, owner):
        [account] = self.rpc("getTokenAccountsByOwner", owner, {"mint": USDC}, {"encoding": "jsonParsed"})["value"]
        return int(account["account"]["data"]["parsed"]["info"]["tokenAmount"]["amount"])

    def signatures(self):
        """Of everything that touched the shop's token account, newest first."""
        return self.rpc("getSignaturesForAddress", self.token_account, {"commitment": "confirmed", "limit": 1000})

    def now(self):
        return len(self.signatures())

    def transfers_since(self, count):
        """Every transfer to the shop but the first `count`: (from, to, value, transaction)."""
        rows = self.signatures()
        return [self.transfer(row["signature"]) for row in rows[: len(rows) - count] if row["err"] is None]

    def transfer(self, signature):
        options = {"encoding": "json", "commitment": "confirmed", "maxSupportedTransactionVersion": 0}
        meta = self.rpc("getTransaction", signature, options)["meta"]
        moved = {}
        for side, sign in (("preTokenBalances", -1), ("postTokenBalances", 1)):
            for row in meta[side]:
                expect_equal("token that moved", row["mint"], USDC)
                moved[row["owner"]] = moved.get(row["owner"], 0) + sign * int(row["uiTokenAmount"]["amount"])
        [payer] = [owner for owner, change in moved.items() if change < 0]
        return (payer, PAY_TO, moved[PAY_TO], signature)

    def same(self, what, actual, expected):
        expect_equal(what, actual, expected)

    def check_extra(self, v2, v1):
        expect_equal("v2 fee payer", v2["feePayer"], FEE_PAYER)
        expect_equal("v1 fee payer", v1["feePayer"], FEE_PAYER)

    def network_name(self, dialect):
        """What receipts call the chain."""
        return self.network_v2 if dialect == "v2" else self.network_v1

    def signed(self, payload):
        """The part of a payment's payload that must stay secret."""
        return payload["transaction"]


def node_binary():
    expect(NODE_BINARY.is_file(), f"no Solana node at {NODE_BINARY}: tests/run.sh builds it")
    return NODE_BINARY
