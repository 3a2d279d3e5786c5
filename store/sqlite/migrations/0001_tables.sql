-- Every table holds a record as JSON in body; the other columns exist only to
-- be looked up. Times are nanoseconds since 1970, 0 for none.

CREATE TABLE definitions (
    id   TEXT PRIMARY KEY NOT NULL,
    body BLOB NOT NULL
);

CREATE TABLE groups (
    id          TEXT PRIMARY KEY NOT NULL,
    fingerprint TEXT NOT NULL,
    state       TEXT NOT NULL,
    since       INTEGER NOT NULL,
    created     INTEGER NOT NULL,
    body        BLOB NOT NULL
);
CREATE INDEX groups_warm ON groups (fingerprint, since, id) WHERE state = 'warm';
CREATE INDEX groups_age ON groups (fingerprint, created, id);

-- How many groups are in each state, kept by triggers, so that counting costs
-- the same with ten groups and with a hundred thousand.
CREATE TABLE group_counts (
    fingerprint TEXT NOT NULL,
    state       TEXT NOT NULL,
    n           INTEGER NOT NULL,
    PRIMARY KEY (fingerprint, state)
) WITHOUT ROWID;

CREATE TRIGGER groups_inserted AFTER INSERT ON groups BEGIN
    INSERT INTO group_counts VALUES (new.fingerprint, new.state, 1)
        ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER groups_deleted AFTER DELETE ON groups BEGIN
    UPDATE group_counts SET n = n - 1 WHERE fingerprint = old.fingerprint AND state = old.state;
END;
CREATE TRIGGER groups_updated AFTER UPDATE OF fingerprint, state ON groups
    WHEN old.state <> new.state OR old.fingerprint <> new.fingerprint BEGIN
    UPDATE group_counts SET n = n - 1 WHERE fingerprint = old.fingerprint AND state = old.state;
    INSERT INTO group_counts VALUES (new.fingerprint, new.state, 1)
        ON CONFLICT DO UPDATE SET n = n + 1;
END;

CREATE TABLE instances (
    id          TEXT PRIMARY KEY NOT NULL,
    fingerprint TEXT NOT NULL,
    state       TEXT NOT NULL,
    group_id    TEXT NOT NULL,
    created     INTEGER NOT NULL,
    body        BLOB NOT NULL
);
CREATE INDEX instances_waiting ON instances (fingerprint, created, id)
    WHERE state = 'creating' AND group_id = '';
-- Nearly all instances are ready; only the others are looked for.
CREATE INDEX instances_unready ON instances (state, created, id) WHERE state <> 'ready';

CREATE TABLE bindings (
    id          TEXT PRIMARY KEY NOT NULL,
    instance_id TEXT NOT NULL,
    state       TEXT NOT NULL,
    created     INTEGER NOT NULL,
    body        BLOB NOT NULL
);
CREATE INDEX bindings_instance ON bindings (instance_id, created, id);
CREATE INDEX bindings_unready ON bindings (state, created, id) WHERE state <> 'ready';

CREATE TABLE operations (
    seq         INTEGER PRIMARY KEY, -- order of arrival, decides between equal times
    id          TEXT NOT NULL UNIQUE,
    instance_id TEXT NOT NULL,
    binding_id  TEXT NOT NULL,
    state       TEXT NOT NULL,
    started     INTEGER NOT NULL,
    finished    INTEGER NOT NULL,
    body        BLOB NOT NULL
);
CREATE INDEX operations_subject ON operations (instance_id, binding_id, started);
CREATE INDEX operations_running ON operations (started) WHERE state = 'in progress';
CREATE INDEX operations_finished ON operations (finished) WHERE state <> 'in progress';
