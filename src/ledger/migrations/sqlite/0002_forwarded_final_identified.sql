-- A state for requests that are forwarded before they are settled, whether a settlement's block is final, and the
-- payment-identifier extension. SQLite changes no CHECK, so that the tables are made anew.
CREATE TABLE new_payments (
    record              TEXT   NOT NULL PRIMARY KEY,
    payment_id          TEXT   NOT NULL,
    state               TEXT   NOT NULL CHECK (state IN (
        'claimed', 'forwarded', 'signed', 'paid', 'delivering', 'served', 'released', 'failed', 'reorged', 'owed')),
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
    payload             TEXT   NOT NULL,
    settled_final       BIGINT NOT NULL DEFAULT 0,
    identifier          TEXT
);


INSERT INTO new_payments (
    record, payment_id, state, deliveries, claimed_at, updated_at, paid_at, valid_until, network, asset, amount,
    payer, pay_to, signer, payload_digest, fingerprint, holder, redeliverable, wait_for, confirmations,
    pay_to_exclusive, settled_transaction, settled_block, settled_block_hash, settled_externally, failure,
    failed_transaction, route, request, terms, payload)
SELECT
    record, payment_id, state, deliveries, claimed_at, updated_at, paid_at, valid_until, network, asset, amount,
    payer, pay_to, signer, payload_digest, fingerprint, holder, redeliverable, wait_for, confirmations,
    pay_to_exclusive, settled_transaction, settled_block, settled_block_hash, settled_externally, failure,
    failed_transaction, route, request, terms, payload
FROM payments;

CREATE TABLE new_attempts (
    record        TEXT   NOT NULL REFERENCES new_payments (record),
    number        BIGINT NOT NULL,
    signer        TEXT,
    account_nonce BIGINT,
    transaction_id TEXT  NOT NULL,
    fee_max       TEXT   NOT NULL,
    signed_at     BIGINT NOT NULL,
    raw           TEXT   NOT NULL,
    PRIMARY KEY (record, number)
);

INSERT INTO new_attempts (record, number, signer, account_nonce, transaction_id, fee_max, signed_at, raw)
SELECT record, number, signer, account_nonce, transaction_id, fee_max, signed_at, raw FROM attempts;

DROP TABLE attempts;
DROP TABLE payments;
ALTER TABLE new_payments RENAME TO payments;
ALTER TABLE new_attempts RENAME TO attempts;

CREATE UNIQUE INDEX payments_live ON payments (payment_id) WHERE state NOT IN ('released', 'failed');
CREATE INDEX payments_failed ON payments (payment_id, claimed_at) WHERE state = 'failed';
CREATE INDEX payments_unfinished ON payments (network, claimed_at) WHERE state IN ('claimed', 'signed');
CREATE INDEX payments_usable ON payments (network, valid_until) WHERE state IN ('failed', 'reorged');
CREATE INDEX payments_deliverable ON payments (paid_at) WHERE state IN ('paid', 'delivering');
CREATE INDEX payments_finished ON payments (updated_at) WHERE state IN ('served', 'released', 'failed');
CREATE INDEX payments_newest ON payments (claimed_at, record);
CREATE INDEX payments_unfinal ON payments (network, settled_block)
    WHERE settled_final = 0 AND state IN ('paid', 'delivering', 'served', 'owed');
-- Attempts at the origin of a payment that was let go each time.
CREATE INDEX payments_released ON payments (payment_id) WHERE state = 'released';
-- A client's own name for a purchase: taken as long as it may still be or was paid.
CREATE UNIQUE INDEX payments_identified ON payments (payer, identifier)
    WHERE identifier IS NOT NULL AND state NOT IN ('released', 'failed', 'reorged');
