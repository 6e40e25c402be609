-- Only TEXT and BIGINT, and only what PostgreSQL reads alike. Times are milliseconds since the Unix epoch, amounts are
-- decimal text, digests and signed bytes are lower-case hex, flags are 0 or 1.
CREATE TABLE payments (
    record              TEXT   NOT NULL PRIMARY KEY,
    payment_id          TEXT   NOT NULL,
    state               TEXT   NOT NULL CHECK (state IN (
        'claimed', 'signed', 'paid', 'delivering', 'served', 'released', 'failed', 'reorged', 'owed')),
    deliveries          BIGINT NOT NULL,
    claimed_at          BIGINT NOT NULL,
    updated_at          BIGINT NOT NULL,
    paid_at             BIGINT,
    valid_until         BIGINT NOT NULL,
    network             TEXT   NOT NULL,
    asset               TEXT   NOT NULL,
    amount              TEXT   NOT NULL,
    payer               TEXT   NOT NULL,
    pay_to              TEXT   NOT NULL,
    signer              TEXT,
    payload_digest      TEXT   NOT NULL,
    fingerprint         TEXT   NOT NULL,
    holder              TEXT   NOT NULL,
    redeliverable       BIGINT NOT NULL,
    wait_for            TEXT   NOT NULL,
    confirmations       BIGINT NOT NULL,
    pay_to_exclusive    BIGINT NOT NULL,
    settled_transaction TEXT,
    settled_block       BIGINT,
    settled_block_hash  TEXT,
    settled_externally  BIGINT,
    failure             TEXT,
    failed_transaction  TEXT,
    route               TEXT   NOT NULL,
    request             TEXT   NOT NULL,
    terms               TEXT   NOT NULL,
    payload             TEXT   NOT NULL
);

-- The claim: a payment id is taken as long as a row that may still be or was paid holds it (design §2).
CREATE UNIQUE INDEX payments_live ON payments (payment_id) WHERE state NOT IN ('released', 'failed');
CREATE INDEX payments_failed ON payments (payment_id, claimed_at) WHERE state = 'failed';
CREATE INDEX payments_unfinished ON payments (network, claimed_at) WHERE state IN ('claimed', 'signed');
CREATE INDEX payments_usable ON payments (network, valid_until) WHERE state = 'failed';
CREATE INDEX payments_deliverable ON payments (paid_at) WHERE state IN ('paid', 'delivering');
CREATE INDEX payments_finished ON payments (updated_at) WHERE state IN ('served', 'released', 'failed');
CREATE INDEX payments_newest ON payments (claimed_at, record);

-- Every transaction that was signed for a payment; each may be on its way to a block.
CREATE TABLE attempts (
    record        TEXT   NOT NULL REFERENCES payments (record),
    number        BIGINT NOT NULL,
    signer        TEXT,
    account_nonce BIGINT,
    transaction_id TEXT  NOT NULL,
    fee_max       TEXT   NOT NULL,
    signed_at     BIGINT NOT NULL,
    raw           TEXT   NOT NULL,
    PRIMARY KEY (record, number)
);

-- The account nonce that the next claim of a gas payer takes.
CREATE TABLE signers (
    network    TEXT   NOT NULL,
    signer     TEXT   NOT NULL,
    next_nonce BIGINT NOT NULL,
    PRIMARY KEY (network, signer)
);

CREATE TABLE named_values (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- Written to prove that writing works.
CREATE TABLE probes (
    id    BIGINT NOT NULL PRIMARY KEY,
    count BIGINT NOT NULL
);
