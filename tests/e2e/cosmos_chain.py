"""The third node: a Cosmos chain in the place of Noble's test network, and what @cosmjs signs for it."""

import contextlib
import json
import subprocess
import threading
import time

from chain import TESTS
from harness import START_TIMEOUT_SECS, Failure, child_environment, expect, expect_equal

SIGN = TESTS / "e2e/clients/cosmjs_sign.mjs"
BLOCK_SECS = 0.3
SIGN_TIMEOUT_SECS = 60

# Keys that everybody knows: 32 times 0x01, and the address of 32 times 0x02.
PAYER_KEY = "01" * 32
PAYER = "noble10xcqpzrky6eff2g52qdye53xkk9jxkvrfr05cd"
PAY_TO = "noble1a0qwuze2h85zw7nqpsj3ga0z9geyrgwpluj6zq"
GAS = "120000"
FEE = "12000"


class CosmosChain:
    network_v2 = "cosmos:grand-1"
    # No v1 client knows it.
    network_v1 = None
    asset = "uusdc"
    payer = PAYER
    pay_to = PAY_TO

    def __init__(self, process):
        """`process` prints where it listens, and then answers each line on its standard input with one of its own."""
        self.process = process
        self.asking = threading.Lock()
        # Held by whoever wants no block to be made.
        self.blocks = threading.Lock()
        self.answers = 0
        process.wait_until(lambda: process.text().endswith("\n"))
        self.url = json.loads(process.text())["grpc_url"]
        threading.Thread(target=self.make_blocks, daemon=True).start()

    def make_blocks(self):
        with contextlib.suppress(OSError, Failure):
            while self.process.child.poll() is None:
                with self.blocks:
                    self.ask("block")
                time.sleep(BLOCK_SECS)

    def ask(self, *words):
        with self.asking:
            self.process.child.stdin.write((" ".join(str(word) for word in words) + "\n").encode())
            self.process.child.stdin.flush()
            self.answers += 1
            deadline = time.monotonic() + START_TIMEOUT_SECS
            while (lines := self.process.text().split("\n"))[self.answers + 1 :] == []:
                expect(time.monotonic() < deadline, f"the Cosmos chain did not answer {words}")
                time.sleep(0.005)
            answer = json.loads(lines[self.answers])
        expect("error" not in answer, f"the Cosmos chain refused {words}: {answer.get('error')}")
        return answer

    def wait_waiting(self):
        """Until a transaction waits for a block."""
        deadline = time.monotonic() + START_TIMEOUT_SECS
        while self.ask("state")["waiting"] == 0:
            expect(time.monotonic() < deadline, "no transaction reached the Cosmos chain")
            time.sleep(0.02)

    def fund(self, minted):
        # Somebody comes first, so that the payer's account number isn't 0.
        self.ask("fund", PAY_TO, 1)
        self.ask("fund", PAYER, minted)

    def wish(self):
        """What a wallet that knows the payer's account is told, but for whom it pays how much."""
        account = self.ask("account", PAYER)
        height = self.ask("state")["height"]
        return {
            "key": PAYER_KEY,
            "prefix": "noble",
            "chainId": "grand-1",
            "accountNumber": account["account_number"],
            "sequence": account["sequence"],
            "feeAmount": FEE,
            "gas": GAS,
            "timeoutHeight": height + 100,
        }

    def client_environment(self):
        return {"PAYER_COSMOS": json.dumps(self.wish())}

    def balance(self, owner):
        return int(self.ask("account", owner)["balance"])

    def now(self):
        return len(self.transfers())

    def transfers(self):
        return [
            (transfer["from"], transfer["to"], int(transfer["amount"]), transfer["hash"])
            for transfer in self.ask("transfers")["transfers"]
        ]

    def transfers_since(self, count):
        """Every transfer but the first `count`: (from, to, value, transaction)."""
        return self.transfers()[count:]

    def same(self, what, actual, expected):
        expect_equal(what, actual, expected)

    def check_extra(self, v2, v1):
        expect_equal("v2 extra beside the quote", [key for key in v2 if key != "quote"], [])
        expect_equal("v1 offer", v1, None)

    def network_name(self, dialect):
        """What receipts call the chain: only vitwit has a name of its own for it."""
        return "grand-1" if dialect == "vitwit" else self.network_v2

    def signed(self, payload):
        """The part of a payment's payload that must stay secret."""
        return payload["transaction"]


def sign(wish):
    """What @cosmjs makes of a wish."""
    done = subprocess.run(
        ["node", str(SIGN), json.dumps(wish)],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=SIGN_TIMEOUT_SECS,
    )
    expect(done.returncode == 0, f"@cosmjs failed:\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def vectors():
    """The vectors of the scheme's document."""
    document = (TESTS.parent / "docs/cosmos-exact.md").read_text()
    return [json.loads(block.split("```")[0]) for block in document.split("```json vector\n")[1:]]
