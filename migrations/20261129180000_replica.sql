-- Replicas: the instance octet that each running service holds, so that no two share one.
--
-- Who lives holds a session's advisory lock on its octet; the row says who may write under it. The lock saves
-- quarrels, the row decides: intents are stored only while it names their maker.

CREATE TABLE replica (
    instance   smallint    PRIMARY KEY CHECK (instance BETWEEN 1 AND 127),
    holder     uuid        NOT NULL CONSTRAINT replica_holder UNIQUE,
    role       text        NOT NULL CHECK (role IN ('all', 'api', 'jobs')),
    place      text        NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT statement_timestamp()
);
COMMENT ON TABLE  replica            IS 'Who holds which instance octet, or held it last.';
COMMENT ON COLUMN replica.instance   IS 'First octet of the serial numbers that the holder makes.';
COMMENT ON COLUMN replica.holder     IS 'The service process, which names itself anew at each start. An octet changes hands by compare-and-swap of this column.';
COMMENT ON COLUMN replica.role       IS 'What the holder does: api (answers stations), jobs (works on batches, CRLs, checkpoints, what was left open), all.';
COMMENT ON COLUMN replica.place      IS 'Host and process, for people.';
COMMENT ON COLUMN replica.claimed_at IS 'Database time at which the holder took it.';

GRANT SELECT, INSERT (instance, holder, role, place), UPDATE (holder, role, place, claimed_at)
    ON replica TO certfactory_service;
