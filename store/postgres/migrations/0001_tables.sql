-- Every table holds a record as JSON in body; the other columns exist only to
-- be looked up. Times are nanoseconds since 1970, 0 for none. Texts are compared
-- by their bytes.

CREATE TABLE definitions (
    id   TEXT COLLATE "C" PRIMARY KEY,
    body TEXT NOT NULL
);

CREATE TABLE groups (
    id          TEXT COLLATE "C" PRIMARY KEY,
    fingerprint TEXT COLLATE "C" NOT NULL,
    state       TEXT COLLATE "C" NOT NULL,
    since       BIGINT NOT NULL,
    created     BIGINT NOT NULL,
    body        TEXT NOT NULL
);
CREATE INDEX groups_warm ON groups (fingerprint, since, id) WHERE state = 'warm';
CREATE INDEX groups_age ON groups (fingerprint, created, id);

-- How many groups are in each state, kept by triggers, so that counting costs
-- the same with ten groups and with a hundred thousand. Only one transaction at a
-- time writes, so that nobody waits for a count. Room is left in every page for
-- the next versions of its rows.
CREATE TABLE group_counts (
    fingerprint TEXT COLLATE "C" NOT NULL,
    state       TEXT COLLATE "C" NOT NULL,
    n           BIGINT NOT NULL,
    PRIMARY KEY (fingerprint, state)
) WITH (fillfactor = 20);

CREATE FUNCTION count_group() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND old.state = new.state AND old.fingerprint = new.fingerprint THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        UPDATE group_counts SET n = n - 1 WHERE fingerprint = old.fingerprint AND state = old.state;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        UPDATE group_counts SET n = n + 1 WHERE fingerprint = new.fingerprint AND state = new.state;
        IF NOT FOUND THEN
            INSERT INTO group_counts VALUES (new.fingerprint, new.state, 1);
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER groups_counted AFTER INSERT OR DELETE OR UPDATE OF fingerprint, state ON groups
    FOR EACH ROW EXECUTE FUNCTION count_group();

CREATE TABLE instances (
    id          TEXT COLLATE "C" PRIMARY KEY,
    fingerprint TEXT COLLATE "C" NOT NULL,
    state       TEXT COLLATE "C" NOT NULL,
    group_id    TEXT COLLATE "C" NOT NULL,
    created     BIGINT NOT NULL,
    service_id  TEXT COLLATE "C" NOT NULL,
    plan_id     TEXT COLLATE "C" NOT NULL,
    org         TEXT COLLATE "C" NOT NULL,
    space       TEXT COLLATE "C" NOT NULL,
    body        TEXT NOT NULL
);
-- Nearly all instances are ready; only the others are looked for.
CREATE INDEX instances_waiting ON instances (fingerprint, created, id) WHERE state = 'creating' AND group_id = '';
CREATE INDEX instances_unready ON instances (state, created, id) WHERE state <> 'ready';

-- What limits count, kept by triggers. Every instance is counted twice: among all
-- (level 0) and in its space (1). So a count over all is the sum of as many rows as
-- there are plans, and one over an organization of at most that many for each of
-- its spaces.
CREATE TABLE instance_counts (
    level      INTEGER NOT NULL,
    org        TEXT COLLATE "C" NOT NULL, -- '' at level 0
    space      TEXT COLLATE "C" NOT NULL, -- '' at level 0
    service_id TEXT COLLATE "C" NOT NULL,
    plan_id    TEXT COLLATE "C" NOT NULL,
    n          BIGINT NOT NULL,
    PRIMARY KEY (level, org, space, service_id, plan_id)
) WITH (fillfactor = 20);

CREATE FUNCTION count_instance() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND old.service_id = new.service_id AND old.plan_id = new.plan_id
            AND old.org = new.org AND old.space = new.space THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        UPDATE instance_counts SET n = n - 1 WHERE level = 0 AND org = '' AND space = ''
            AND service_id = old.service_id AND plan_id = old.plan_id;
        UPDATE instance_counts SET n = n - 1 WHERE level = 1 AND org = old.org AND space = old.space
            AND service_id = old.service_id AND plan_id = old.plan_id;
        DELETE FROM instance_counts WHERE n <= 0 AND level = 1 AND org = old.org AND space = old.space
            AND service_id = old.service_id AND plan_id = old.plan_id;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        UPDATE instance_counts SET n = n + 1 WHERE level = 0 AND org = '' AND space = ''
            AND service_id = new.service_id AND plan_id = new.plan_id;
        IF NOT FOUND THEN
            INSERT INTO instance_counts VALUES (0, '', '', new.service_id, new.plan_id, 1);
        END IF;
        UPDATE instance_counts SET n = n + 1 WHERE level = 1 AND org = new.org AND space = new.space
            AND service_id = new.service_id AND plan_id = new.plan_id;
        IF NOT FOUND THEN
            INSERT INTO instance_counts VALUES (1, new.org, new.space, new.service_id, new.plan_id, 1);
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER instances_counted AFTER INSERT OR DELETE OR UPDATE OF service_id, plan_id, org, space ON instances
    FOR EACH ROW EXECUTE FUNCTION count_instance();

CREATE TABLE bindings (
    id          TEXT COLLATE "C" PRIMARY KEY,
    instance_id TEXT COLLATE "C" NOT NULL,
    state       TEXT COLLATE "C" NOT NULL,
    created     BIGINT NOT NULL,
    expires     BIGINT NOT NULL, -- 0 for never, as with nearly all
    body        TEXT NOT NULL
);
CREATE INDEX bindings_instance ON bindings (instance_id, created, id);
CREATE INDEX bindings_unready ON bindings (state, created, id) WHERE state <> 'ready';
CREATE INDEX bindings_expiring ON bindings (expires, id) WHERE expires > 0 AND state = 'ready';

CREATE TABLE operations (
    seq         BIGINT GENERATED ALWAYS AS IDENTITY, -- order of arrival, decides between equal times
    id          TEXT COLLATE "C" PRIMARY KEY,
    instance_id TEXT COLLATE "C" NOT NULL,
    binding_id  TEXT COLLATE "C" NOT NULL,
    state       TEXT COLLATE "C" NOT NULL,
    started     BIGINT NOT NULL,
    finished    BIGINT NOT NULL,
    body        TEXT NOT NULL
);
CREATE INDEX operations_subject ON operations (instance_id, binding_id, started, seq);
CREATE INDEX operations_running ON operations (started, seq) WHERE state = 'in progress';
CREATE INDEX operations_finished ON operations (finished) WHERE state <> 'in progress';

-- Who changed what. body is the record as JSON without its hash.
CREATE TABLE audit (
    seq         BIGINT PRIMARY KEY,
    instance_id TEXT COLLATE "C" NOT NULL,
    time        BIGINT NOT NULL,
    hash        BYTEA NOT NULL,
    body        TEXT NOT NULL
);
CREATE INDEX audit_instance ON audit (instance_id, seq);

CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit records are never changed';
END $$;
CREATE TRIGGER audit_unchangeable BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION refuse_audit_change();

-- Who locks this table may write all others. It stays empty.
CREATE TABLE writing ();

-- Those who use this store. batch counts what one has committed, so that it can
-- find out whether a commit went through whose answer it did not get, and shows
-- that it lives. One that others took for dead never commits again.
CREATE TABLE members (
    id    TEXT COLLATE "C" PRIMARY KEY,
    name  TEXT NOT NULL,
    batch BIGINT NOT NULL DEFAULT 0,
    dead  BOOLEAN NOT NULL DEFAULT false,
    since TIMESTAMPTZ NOT NULL DEFAULT now()
) WITH (fillfactor = 20);

-- Locks of members; those of dead ones are free. wanted: 1 somebody waits, 2 to
-- interrupt the holder.
CREATE TABLE leases (
    name   TEXT COLLATE "C" PRIMARY KEY,
    member TEXT COLLATE "C" NOT NULL,
    wanted INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX leases_member ON leases (member);

-- What one tells all others that come later, too.
CREATE TABLE notes (
    key  TEXT COLLATE "C" PRIMARY KEY,
    body TEXT NOT NULL
);
