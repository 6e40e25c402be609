-- What is noted about a row without a step of its state (its block is final, its settlement was mined again) leaves it with whoever
-- works on it: a delivery that a dead gateway began would else become that of one which knows nothing of it, for as long as that
-- one lives.
CREATE OR REPLACE FUNCTION tollhouse_fence_payment() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.state IN ('claimed', 'forwarded', 'signed', 'delivering')
        AND OLD.owner <> tollhouse_epoch() AND tollhouse_lives(OLD.owner) THEN
        RAISE EXCEPTION 'payment % is in the hands of another gateway', OLD.record USING ERRCODE = 'TH001';
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.state = OLD.state AND NEW.owner IS NOT DISTINCT FROM OLD.owner THEN
        RETURN NEW;
    END IF;
    NEW.owner := tollhouse_epoch();
    RETURN NEW;
END $$;
