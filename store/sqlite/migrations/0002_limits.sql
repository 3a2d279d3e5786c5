-- What limits count: instances by who has them and what they are.

ALTER TABLE instances ADD COLUMN service_id TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN plan_id TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN org TEXT NOT NULL DEFAULT '';
ALTER TABLE instances ADD COLUMN space TEXT NOT NULL DEFAULT '';
UPDATE instances SET
    service_id = coalesce(json_extract(CAST(body AS TEXT), '$.service_id'), ''),
    plan_id    = coalesce(json_extract(CAST(body AS TEXT), '$.plan_id'), ''),
    org        = coalesce(json_extract(CAST(body AS TEXT), '$.org_guid'), ''),
    space      = coalesce(json_extract(CAST(body AS TEXT), '$.space_guid'), '');

-- Kept by triggers. Every instance is counted twice: among all (level 0) and in
-- its space (1). So a count over all is the sum of as many rows as there are
-- plans, and one over an organization of at most that many for each of its spaces.
CREATE TABLE instance_counts (
    level      INTEGER NOT NULL,
    org        TEXT NOT NULL, -- '' at level 0
    space      TEXT NOT NULL, -- '' at level 0
    service_id TEXT NOT NULL,
    plan_id    TEXT NOT NULL,
    n          INTEGER NOT NULL,
    PRIMARY KEY (level, org, space, service_id, plan_id)
) WITHOUT ROWID;

INSERT INTO instance_counts SELECT 0, '', '', service_id, plan_id, count(*) FROM instances GROUP BY service_id, plan_id;
INSERT INTO instance_counts SELECT 1, org, space, service_id, plan_id, count(*) FROM instances GROUP BY org, space, service_id, plan_id;

CREATE TRIGGER instances_inserted AFTER INSERT ON instances BEGIN
    INSERT INTO instance_counts VALUES (0, '', '', new.service_id, new.plan_id, 1)
        ON CONFLICT DO UPDATE SET n = n + 1;
    INSERT INTO instance_counts VALUES (1, new.org, new.space, new.service_id, new.plan_id, 1)
        ON CONFLICT DO UPDATE SET n = n + 1;
END;
CREATE TRIGGER instances_deleted AFTER DELETE ON instances BEGIN
    INSERT INTO instance_counts VALUES
        (0, '', '', old.service_id, old.plan_id, -1),
        (1, old.org, old.space, old.service_id, old.plan_id, -1)
        ON CONFLICT DO UPDATE SET n = n - 1;
    DELETE FROM instance_counts WHERE n <= 0 AND level = 1 AND org = old.org AND space = old.space
        AND service_id = old.service_id AND plan_id = old.plan_id;
END;
CREATE TRIGGER instances_updated AFTER UPDATE OF service_id, plan_id, org, space ON instances
    WHEN old.service_id <> new.service_id OR old.plan_id <> new.plan_id OR old.org <> new.org OR old.space <> new.space BEGIN
    INSERT INTO instance_counts VALUES
        (0, '', '', old.service_id, old.plan_id, -1),
        (1, old.org, old.space, old.service_id, old.plan_id, -1)
        ON CONFLICT DO UPDATE SET n = n - 1;
    INSERT INTO instance_counts VALUES
        (0, '', '', new.service_id, new.plan_id, 1),
        (1, new.org, new.space, new.service_id, new.plan_id, 1)
        ON CONFLICT DO UPDATE SET n = n + 1;
    DELETE FROM instance_counts WHERE n <= 0 AND level = 1 AND org = old.org AND space = old.space
        AND service_id = old.service_id AND plan_id = old.plan_id;
END;
