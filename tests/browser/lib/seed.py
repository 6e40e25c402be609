#!/usr/bin/env python3
"""Writes into the books of a gateway what would take days to earn.

    seed.py BOOKS many COUNT    payments of the last weeks, in every state that needs nobody's care
    seed.py BOOKS owe COUNT     the newest served payments become owed
    seed.py BOOKS hide|show     takes the payments out of the gateway's sight, and back
"""

import hashlib
import random
import sqlite3
import sys
import time

DAY_MILLIS = 86_400_000
DAYS = 45
EVM_USDC = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
SOLANA_USDC = "4zMMC9srt5Ri5X14GAgXhaHii3GnPAEERYPJgZJDncDU"
# Route, request, price in atomic units, how often it is wanted.
WANTED = [
    ("GET /weather", "GET /weather?city=Riga", 1_000, 50),
    ("GET /stream", "GET /stream", 10_000, 22),
    ("GET /file", "GET /file", 50_000, 12),
    ("GET /flaky", "GET /flaky", 1_000, 12),
    ("POST /reports/{id}", "POST /reports/2026-11", 250_000, 4),
]


def networks():
    solana = "solana:EtWTRABZaYq6iMfeYKouRu166VU2xqa1"
    return [
        ("eip155:84532", EVM_USDC, lambda digits: "0x" + digits[:40], lambda digits: "0x" + digits, 60),
        (solana, SOLANA_USDC, lambda digits: "So" + digits[:40].replace("0", "1"), lambda digits: digits + digits[:20], 25),
        ("cosmos:grand-1", "uusdc", lambda digits: "noble1" + digits[:38], lambda digits: digits.upper(), 15),
    ]


def row(chance, index, now):
    digits = hashlib.sha256(f"payment {index}".encode()).hexdigest()
    route, request, price, _ = chance.choices(WANTED, [wanted[3] for wanted in WANTED])[0]
    network, asset, account, transaction, _ = chance.choices(networks(), [known[4] for known in networks()])[0]
    # More of late, and a week has its quiet days.
    while True:
        ago = int(chance.triangular(0, DAYS, 0) * DAY_MILLIS)
        claimed_at = now - ago - 60_000
        if (claimed_at // DAY_MILLIS) % 7 not in (2, 3) or chance.random() < 0.55:
            break
    state = chance.choices(["served", "failed", "released"], [970, 18, 12])[0]
    # The newest few are still on their way.
    if index < 6:
        state, claimed_at = ["signed", "delivering", "signed", "served", "paid", "served"][index], now - 1_500 * (index + 1)
    is_paid = state in ("served", "paid", "delivering")
    payer = account(hashlib.sha256(f"payer {chance.randrange(400)}".encode()).hexdigest())
    return {
        "record": "pay_" + digits[:32],
        "payment_id": f"{network}/{asset}/{payer}/0x{digits}",
        "state": state,
        "deliveries": 1 if is_paid else 0,
        "claimed_at": claimed_at,
        "updated_at": claimed_at + 900,
        "paid_at": claimed_at + 700 if is_paid else None,
        "valid_until": claimed_at + 60_000 if state != "signed" else now + 60_000,
        "network": network,
        "asset": asset,
        "amount": str(price),
        "payer": payer,
        "pay_to": account(hashlib.sha256(b"seller").hexdigest()),
        "signer": None,
        "payload_digest": digits,
        "fingerprint": digits,
        "holder": "quote:" + digits,
        "redeliverable": 1,
        "wait_for": "confirmed",
        "confirmations": 1,
        "pay_to_exclusive": 0,
        "settled_transaction": transaction(digits) if is_paid else None,
        "settled_block": 1_000_000 + index if is_paid else None,
        "settled_block_hash": "0x" + digits if is_paid else None,
        "settled_externally": 0 if is_paid else None,
        "failure": "invalid_transaction_state" if state == "failed" else None,
        "failed_transaction": None,
        "route": route,
        "request": request,
        "terms": "{}",
        "payload": "{}",
        # No chain knows these blocks.
        "settled_final": 1,
        "identifier": None,
    }


def many(books, count):
    chance, now = random.Random(402), int(time.time() * 1000)
    rows = [row(chance, index, now) for index in range(count)]
    names = list(rows[0])
    marks = ", ".join(f":{name}" for name in names)
    books.executemany(f"INSERT INTO payments ({', '.join(names)}) VALUES ({marks})", rows)


def main():
    path, what, *rest = sys.argv[1:]
    books = sqlite3.connect(path, timeout=20)
    with books:
        if what == "many":
            many(books, int(rest[0]))
        elif what == "owe":
            books.execute(
                "UPDATE payments SET state = 'owed', deliveries = 2 WHERE record IN (SELECT record FROM payments "
                "WHERE state = 'served' ORDER BY claimed_at DESC LIMIT ?)",
                (int(rest[0]),),
            )
        elif what == "hide":
            books.execute("ALTER TABLE payments RENAME TO hidden_payments")
        elif what == "show":
            books.execute("ALTER TABLE hidden_payments RENAME TO payments")
        else:
            sys.exit(f"no such thing: {what}")
    books.close()


if __name__ == "__main__":
    main()
