-- The tables of the SQLite ledger, and who works on what. Only TEXT and BIGINT. Times are milliseconds since the Unix epoch,
-- amounts are decimal text, digests and signed bytes are lower-case hex, flags are 0 or 1.

-- Gateways that run, or did until lately. An epoch is one registration and never comes again: it is the fencing token that
-- rows carry. Whoever writes holds its row (FOR KEY SHARE) until it has committed, so that nobody is buried in the middle of
-- a write, and whoever was buried writes nothing more.
CREATE TABLE instances (
    epoch       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    instance    TEXT   NOT NULL,
    started_at  BIGINT NOT NULL,
    heartbeat   BIGINT NOT NULL,
    lease_until BIGINT NOT NULL
);

CREATE TABLE payments (
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
    identifier          TEXT,
    -- The epoch that wrote last. In the states of `payments_owned` nobody else may write while that epoch lives.
    owner               BIGINT NOT NULL
);

-- The claim: a payment id is taken as long as a row that may still be or was paid holds it (design §2).
CREATE UNIQUE INDEX payments_live ON payments (payment_id) WHERE state NOT IN ('released', 'failed');
CREATE INDEX payments_failed ON payments (payment_id, claimed_at) WHERE state = 'failed';
CREATE INDEX payments_unfinished ON payments (network, claimed_at) WHERE state IN ('claimed', 'signed');
CREATE INDEX payments_owned ON payments (owner) WHERE state IN ('claimed', 'forwarded', 'signed', 'delivering');
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

-- Every transaction that was signed for a payment; each may be on its way to a block.
CREATE TABLE attempts (
    record        TEXT   NOT NULL REFERENCES payments (record) ON DELETE CASCADE,
    number        BIGINT NOT NULL,
    signer        TEXT,
    account_nonce BIGINT,
    transaction_id TEXT  NOT NULL,
    fee_max       TEXT   NOT NULL,
    signed_at     BIGINT NOT NULL,
    raw           TEXT   NOT NULL,
    PRIMARY KEY (record, number)
);

-- The account nonce that the next claim of a gas payer takes, and whose claims may take it.
CREATE TABLE signers (
    network    TEXT   NOT NULL,
    signer     TEXT   NOT NULL,
    next_nonce BIGINT NOT NULL,
    owner      BIGINT NOT NULL,
    PRIMARY KEY (network, signer)
);

-- Work that one gateway does for all.
CREATE TABLE duties (
    name  TEXT   NOT NULL PRIMARY KEY,
    owner BIGINT NOT NULL
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

-- The one clock that leases go by.
CREATE FUNCTION tollhouse_now() RETURNS BIGINT LANGUAGE sql VOLATILE AS
    $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::BIGINT $$;

-- The epoch on whose behalf this transaction writes; each sets it for itself.
CREATE FUNCTION tollhouse_epoch() RETURNS BIGINT LANGUAGE sql STABLE AS
    $$ SELECT current_setting('tollhouse.epoch')::BIGINT $$;

CREATE FUNCTION tollhouse_lives(asked BIGINT) RETURNS BOOLEAN LANGUAGE sql VOLATILE AS
    $$ SELECT EXISTS (SELECT 1 FROM instances WHERE epoch = asked) $$;

-- Fencing, where no caller can forget it: a row that another living gateway works on is not written.
CREATE FUNCTION tollhouse_fence_payment() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.state IN ('claimed', 'forwarded', 'signed', 'delivering')
        AND OLD.owner <> tollhouse_epoch() AND tollhouse_lives(OLD.owner) THEN
        RAISE EXCEPTION 'payment % is in the hands of another gateway', OLD.record USING ERRCODE = 'TH001';
    END IF;
    NEW.owner := tollhouse_epoch();
    RETURN NEW;
END $$;
CREATE TRIGGER payments_fence BEFORE INSERT OR UPDATE ON payments
    FOR EACH ROW EXECUTE FUNCTION tollhouse_fence_payment();

-- An account nonce is taken by the signer's holder only; a new holder sets itself as such first.
CREATE FUNCTION tollhouse_fence_signer() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.owner <> tollhouse_epoch() THEN
        RAISE EXCEPTION 'signer % on % is another gateway''s', OLD.signer, OLD.network USING ERRCODE = 'TH001';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER signers_fence BEFORE UPDATE ON signers
    FOR EACH ROW EXECUTE FUNCTION tollhouse_fence_signer();
