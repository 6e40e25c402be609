-- That a block is final, anybody may note of a row, whoever works on it: it is no step, and takes nothing from anybody. All rows of the
-- block are noted in one statement, which failed as long as another gateway delivered one of them.
CREATE OR REPLACE FUNCTION tollhouse_fence_payment() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    before payments;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.settled_final <> OLD.settled_final THEN
        before := OLD;
        before.settled_final := NEW.settled_final;
        IF before IS NOT DISTINCT FROM NEW THEN
            RETURN NEW;
        END IF;
    END IF;
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
