-- Who changed what. body is the record as JSON without its hash.

CREATE TABLE audit (
    seq         INTEGER PRIMARY KEY NOT NULL,
    instance_id TEXT NOT NULL,
    time        INTEGER NOT NULL,
    hash        BLOB NOT NULL,
    body        BLOB NOT NULL
);
CREATE INDEX audit_instance ON audit (instance_id, seq);

CREATE TRIGGER audit_unchangeable BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'audit records are never changed');
END;
