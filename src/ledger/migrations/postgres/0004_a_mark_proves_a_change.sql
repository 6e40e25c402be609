-- Where a change leaves its mark, in the same transaction: whoever was not answered whether it was committed asks for the mark. The
-- number of the transaction proves nothing: a server that crashed may give it to another one (it need not be on disk before the
-- COMMIT is). Each change under way has a place of its gateway's to itself, so that the row's lock tells when it has ended. The
-- gateway's name is there because a database that was set back gives its epochs out again.
CREATE TABLE marks (
    epoch     BIGINT NOT NULL,
    place     BIGINT NOT NULL,
    instance  TEXT   NOT NULL,
    mark      TEXT   NOT NULL,
    marked_at BIGINT NOT NULL,
    PRIMARY KEY (epoch, place)
) WITH (fillfactor = 50);
