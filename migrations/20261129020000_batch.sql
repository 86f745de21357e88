-- Batches: devices made ahead of a run, in chunks that any replica may take over.
--
-- A chunk's keys are stored, encrypted, before anything is intended with them, and once: from then on
-- the chunk is fixed, and whoever repeats it after a crash asks for the same certificates again.

CREATE TABLE batch (
    batch_id          uuid        PRIMARY KEY,
    definition        jsonb       NOT NULL,
    created_by        text        NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT statement_timestamp(),
    idempotency_key   text,
    key_origin        text        CHECK (key_origin IN ('made', 'csr', 'public-key')),
    device_count      integer     CHECK (device_count BETWEEN 1 AND 1000000),
    state             text        NOT NULL DEFAULT 'awaiting-devices'
                                  CHECK (state IN ('awaiting-devices', 'running', 'paused', 'done', 'cancelled')),
    reason            text,
    hindrance         text,
    last_error        text,
    moved_at          timestamptz NOT NULL DEFAULT statement_timestamp(),
    finished_at       timestamptz,
    package_length    bigint,
    package_sha256    bytea       CHECK (octet_length(package_sha256) = 32),
    package_leased_by smallint,
    package_lease_until timestamptz,
    keys_destroyed_by text,
    keys_destroyed_at timestamptz,
    CONSTRAINT batch_idempotency UNIQUE (created_by, idempotency_key),
    CONSTRAINT batch_devices CHECK ((device_count IS NULL) = (key_origin IS NULL)),
    CONSTRAINT batch_begun CHECK (state IN ('awaiting-devices', 'cancelled') OR device_count IS NOT NULL),
    CONSTRAINT batch_end CHECK ((finished_at IS NOT NULL) = (state IN ('done', 'cancelled'))),
    CONSTRAINT batch_package CHECK ((package_length IS NULL) = (package_sha256 IS NULL)),
    CONSTRAINT batch_keys CHECK ((keys_destroyed_by IS NULL) = (keys_destroyed_at IS NULL))
);
COMMENT ON TABLE  batch                     IS 'Batches: devices whose keys and certificates are made ahead of a run.';
COMMENT ON COLUMN batch.batch_id            IS 'UUIDv7, its name.';
COMMENT ON COLUMN batch.definition          IS 'What was ordered, as it was accepted: profile, work order, devices, keys, forms.';
COMMENT ON COLUMN batch.created_by          IS 'Name of the principal in whose name it issues.';
COMMENT ON COLUMN batch.created_at          IS 'Database time of its creation.';
COMMENT ON COLUMN batch.idempotency_key     IS 'Key under which the same principal gets the same batch again; null: none was given.';
COMMENT ON COLUMN batch.key_origin          IS 'Where its device keys come from: made here, the devices'' own with a certification request, or bare public keys; null until its devices are known.';
COMMENT ON COLUMN batch.device_count        IS 'Devices it is for; null until they are known.';
COMMENT ON COLUMN batch.state               IS 'awaiting-devices, running, paused, done (for ever), cancelled (for ever).';
COMMENT ON COLUMN batch.reason              IS 'Why it is paused or was cancelled, for people.';
COMMENT ON COLUMN batch.hindrance           IS 'What holds it up until it passes by itself, a full disk for instance; null: nothing.';
COMMENT ON COLUMN batch.last_error          IS 'The last fault of a neighbour that it met, for people.';
COMMENT ON COLUMN batch.moved_at            IS 'Database time of its last change of state.';
COMMENT ON COLUMN batch.finished_at         IS 'Database time of its end.';
COMMENT ON COLUMN batch.package_length      IS 'Octets of its package; null until it is closed.';
COMMENT ON COLUMN batch.package_sha256      IS 'SHA-256 over its package, which every replica makes the same.';
COMMENT ON COLUMN batch.package_leased_by   IS 'Instance octet of the replica that makes the package.';
COMMENT ON COLUMN batch.package_lease_until IS 'Database time until which it need not be looked after by another.';
COMMENT ON COLUMN batch.keys_destroyed_by   IS 'Who confirmed the delivery, or retention; null while the envelopes are kept.';
COMMENT ON COLUMN batch.keys_destroyed_at   IS 'Database time at which its envelopes were deleted.';

CREATE TABLE batch_chunk (
    batch_id    uuid        NOT NULL REFERENCES batch,
    number      integer     NOT NULL CHECK (number > 0),
    first_row   integer     NOT NULL CHECK (first_row > 0),
    row_count   integer     NOT NULL CHECK (row_count > 0),
    subjects    jsonb,
    begun_at    timestamptz,
    public_keys bytea[],
    envelopes   bytea[],
    leased_by   smallint,
    lease_until timestamptz,
    intent_ids  uuid[],
    failures    jsonb,
    issued      integer     CHECK (issued BETWEEN 0 AND row_count),
    done_at     timestamptz,
    PRIMARY KEY (batch_id, number),
    CONSTRAINT batch_chunk_begun CHECK (begun_at IS NULL OR array_length(public_keys, 1) = row_count),
    CONSTRAINT batch_chunk_done CHECK (
        (done_at IS NULL) = (intent_ids IS NULL) AND (done_at IS NULL) = (failures IS NULL)
        AND (done_at IS NULL) = (issued IS NULL) AND (done_at IS NULL OR begun_at IS NOT NULL))
);
-- Random octets: compressing them would only cost time.
ALTER TABLE batch_chunk ALTER COLUMN public_keys SET STORAGE EXTERNAL, ALTER COLUMN envelopes SET STORAGE EXTERNAL;
CREATE INDEX batch_chunk_open ON batch_chunk (batch_id, number) WHERE done_at IS NULL;
COMMENT ON TABLE  batch_chunk             IS 'A run of a batch''s rows, worked on by one replica at a time.';
COMMENT ON COLUMN batch_chunk.batch_id    IS 'Its batch.';
COMMENT ON COLUMN batch_chunk.number      IS 'Place among the batch''s chunks, from 1.';
COMMENT ON COLUMN batch_chunk.first_row   IS 'Its first row, counted from 1 through the batch.';
COMMENT ON COLUMN batch_chunk.row_count   IS 'Its rows.';
COMMENT ON COLUMN batch_chunk.subjects    IS 'Subject attributes of each row, as they were listed; null: the batch''s pattern says them.';
COMMENT ON COLUMN batch_chunk.begun_at    IS 'Database time at which its keys were fixed, for ever; null: nothing of it exists.';
COMMENT ON COLUMN batch_chunk.public_keys IS 'SubjectPublicKeyInfo of each row, DER.';
COMMENT ON COLUMN batch_chunk.envelopes   IS 'Private keys made here, encrypted to the recipient: one envelope, or one a row. Null: none made, or destroyed.';
COMMENT ON COLUMN batch_chunk.leased_by   IS 'Instance octet of the replica that works on it.';
COMMENT ON COLUMN batch_chunk.lease_until IS 'Database time until which others leave it alone; saves work, keeps nothing single.';
COMMENT ON COLUMN batch_chunk.intent_ids  IS 'Intent of each row''s certificate; null where the row failed.';
COMMENT ON COLUMN batch_chunk.failures    IS 'Rows that got no certificate: row, device, problem, detail, serial number.';
COMMENT ON COLUMN batch_chunk.issued      IS 'Rows that got one.';
COMMENT ON COLUMN batch_chunk.done_at     IS 'Database time at which the last of its rows had its outcome.';

CREATE FUNCTION batch_stays() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF OLD.state IN ('done', 'cancelled') AND NEW.state <> OLD.state
       OR OLD.device_count IS NOT NULL AND NEW.device_count IS DISTINCT FROM OLD.device_count
       OR OLD.key_origin IS NOT NULL AND NEW.key_origin IS DISTINCT FROM OLD.key_origin
       OR OLD.package_sha256 IS NOT NULL AND NEW.package_sha256 IS DISTINCT FROM OLD.package_sha256
       OR OLD.keys_destroyed_at IS NOT NULL AND NEW.keys_destroyed_at IS DISTINCT FROM OLD.keys_destroyed_at THEN
        RAISE integrity_constraint_violation USING MESSAGE = 'what a batch has come to stays';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION batch_stays() IS 'Keeps a batch''s end, its devices, its package and the destruction of its keys.';
CREATE TRIGGER batch_stays BEFORE UPDATE ON batch FOR EACH ROW EXECUTE FUNCTION batch_stays();

-- The keys of a chunk are given once. Were they given twice, a device could have two.
CREATE FUNCTION batch_chunk_stays() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF OLD.begun_at IS NOT NULL
          AND (NEW.begun_at, NEW.public_keys) IS DISTINCT FROM (OLD.begun_at, OLD.public_keys)
       OR OLD.public_keys IS NOT NULL AND NEW.public_keys IS DISTINCT FROM OLD.public_keys
       OR OLD.begun_at IS NOT NULL AND NEW.envelopes IS NOT NULL AND NEW.envelopes IS DISTINCT FROM OLD.envelopes
       OR OLD.done_at IS NOT NULL
          AND (NEW.done_at, NEW.intent_ids, NEW.failures, NEW.issued)
              IS DISTINCT FROM (OLD.done_at, OLD.intent_ids, OLD.failures, OLD.issued) THEN
        RAISE integrity_constraint_violation USING MESSAGE = 'a chunk''s keys and its outcome stay';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION batch_chunk_stays() IS 'Keeps a chunk''s keys and its outcome; envelopes may only be deleted.';
CREATE TRIGGER batch_chunk_stays BEFORE UPDATE ON batch_chunk FOR EACH ROW EXECUTE FUNCTION batch_chunk_stays();

ALTER TABLE intent ADD COLUMN key_origin text NOT NULL DEFAULT 'csr'
    CHECK (key_origin IN ('csr', 'public-key', 'made'));
COMMENT ON COLUMN intent.key_origin IS 'How the key came: with a certification request that it signed, bare on a list, or made here.';

REVOKE ALL ON FUNCTION batch_stays(), batch_chunk_stays() FROM PUBLIC;
GRANT SELECT ON batch, batch_chunk TO certfactory_service;
GRANT INSERT (batch_id, definition, created_by, idempotency_key) ON batch TO certfactory_service;
GRANT UPDATE (key_origin, device_count, state, reason, hindrance, last_error, moved_at, finished_at, package_length,
              package_sha256, package_leased_by, package_lease_until, keys_destroyed_by, keys_destroyed_at)
    ON batch TO certfactory_service;
GRANT INSERT (batch_id, number, first_row, row_count, subjects, public_keys) ON batch_chunk TO certfactory_service;
GRANT UPDATE (begun_at, public_keys, envelopes, leased_by, lease_until, intent_ids, failures, issued, done_at)
    ON batch_chunk TO certfactory_service;
GRANT INSERT (key_origin) ON intent TO certfactory_service;
