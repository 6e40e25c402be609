-- What a settlement cost us, in the chain's native unit, and the refund that an operator made for an owed payment.
ALTER TABLE payments ADD COLUMN settled_fee TEXT;
ALTER TABLE payments ADD COLUMN resolved_transaction TEXT;
ALTER TABLE payments ADD COLUMN resolved_note TEXT;
ALTER TABLE payments ADD COLUMN resolved_at BIGINT;
