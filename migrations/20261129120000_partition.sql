-- Size: what has a certificate's octets is in partitions, of which old ones can be taken out; what only
-- one intent may hold is beside them in narrow tables that keep every row.
--
-- Intents and outcomes are partitioned by month: an intent's id is a UUIDv7, which begins with its
-- time. Entries of the log are partitioned by their place, 2^20 to a partition. What was there before is
-- the first partition of each, as it is.

------------------------------------------------------------------------------------------------
-- Narrow tables. Whatever refers to an intent refers to its claim, which is never taken out.

CREATE TABLE certificate_id (
    fingerprint bytea PRIMARY KEY CHECK (octet_length(fingerprint) = 32),
    intent_id   uuid  NOT NULL
);
COMMENT ON TABLE  certificate_id             IS 'Which intent a certificate is of, by its fingerprint. Never changed, never deleted.';
COMMENT ON COLUMN certificate_id.fingerprint IS 'SHA-256 over the certificate''s DER: the certificateId of AWS IoT.';
COMMENT ON COLUMN certificate_id.intent_id   IS 'The intent.';
INSERT INTO certificate_id (fingerprint, intent_id) SELECT fingerprint, intent_id FROM outcome WHERE der IS NOT NULL;

-- What a search for few among many would otherwise read the many for.
CREATE TABLE unconfirmed (
    intent_id uuid PRIMARY KEY
) WITH (
    autovacuum_vacuum_scale_factor = 0.05
);
COMMENT ON TABLE  unconfirmed           IS 'Work list of certificates to which nothing has happened yet: neither confirmed nor at an end.';
COMMENT ON COLUMN unconfirmed.intent_id IS 'The certificate.';
INSERT INTO unconfirmed (intent_id)
    SELECT o.intent_id FROM outcome o WHERE o.der IS NOT NULL
        AND NOT EXISTS (SELECT FROM life_event e WHERE e.intent_id = o.intent_id);

CREATE FUNCTION unconfirmed_no_more() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM public.unconfirmed u USING added a WHERE u.intent_id = a.intent_id;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION unconfirmed_no_more() IS 'Takes from the work list what something has happened to.';
CREATE TRIGGER unconfirmed_no_more AFTER INSERT ON life_event
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION unconfirmed_no_more();

-- Intents are in the order of their times, and so are their certificates, but for these: with them a
-- search for a time reads those of that time only.
CREATE TABLE late_outcome (
    intent_id   uuid        PRIMARY KEY,
    recorded_at timestamptz NOT NULL
);
COMMENT ON TABLE  late_outcome             IS 'Certificates that were recorded more than an hour after they were intended, such as after an outage.';
COMMENT ON COLUMN late_outcome.intent_id   IS 'The certificate.';
COMMENT ON COLUMN late_outcome.recorded_at IS 'As in outcome.';

ALTER TABLE challenge DROP CONSTRAINT challenge_intent_id_fkey;
ALTER TABLE challenge ADD CONSTRAINT challenge_claim FOREIGN KEY (intent_id) REFERENCES claim;
ALTER TABLE life_event DROP CONSTRAINT life_event_intent_id_fkey;
ALTER TABLE life_event ADD CONSTRAINT life_event_claim FOREIGN KEY (intent_id) REFERENCES claim;

-- What happens to a certificate happens to one that was issued.
CREATE FUNCTION life_event_of_certificate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM public.outcome o WHERE o.intent_id = NEW.intent_id AND o.der IS NOT NULL;
    IF NOT FOUND THEN
        RAISE foreign_key_violation USING MESSAGE = 'an event of a certificate that was never issued';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION life_event_of_certificate() IS 'Refuses what happens to an intent without a certificate.';
CREATE TRIGGER life_event_of_certificate BEFORE INSERT ON life_event
    FOR EACH ROW EXECUTE FUNCTION life_event_of_certificate();

------------------------------------------------------------------------------------------------
-- Partitions.

CREATE FUNCTION uuid_floor(at timestamptz) RETURNS uuid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;
COMMENT ON FUNCTION uuid_floor(timestamptz) IS 'The least UUID of this millisecond or later: a UUIDv7 begins with its time (RFC 9562, 5.7).';

INSERT INTO late_outcome (intent_id, recorded_at)
    SELECT o.intent_id, o.recorded_at FROM outcome o
    WHERE o.der IS NOT NULL AND o.intent_id < uuid_floor(o.recorded_at - interval '1 hour');

-- Out of the way: what was there becomes the first partition of each, and its indexes parts of the new ones.
ALTER TABLE outcome DROP CONSTRAINT outcome_intent_id_fkey, DROP CONSTRAINT outcome_fingerprint_key,
    DROP CONSTRAINT outcome_log_index_key;
CREATE INDEX outcome_log_index ON outcome (log_index) WHERE der IS NOT NULL;
DROP TRIGGER work_order_reserve ON intent;
DROP INDEX intent_device_serial;
DO $$
DECLARE
    old   text;
    index text;
BEGIN
    FOREACH old IN ARRAY ARRAY['intent', 'outcome', 'log_entry'] LOOP
        FOR index IN SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND tablename = old LOOP
            EXECUTE format('ALTER INDEX public.%I RENAME TO %I', index, 'first_' || index);
        END LOOP;
        -- With a table's rights go those to its columns. A partition is written through its parent only.
        EXECUTE format('REVOKE ALL ON public.%I FROM certfactory_service', old);
        EXECUTE format('ALTER TABLE public.%I RENAME TO %I', old, 'first_' || old);
    END LOOP;
END
$$;

CREATE TABLE intent (
    LIKE first_intent INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS,
    PRIMARY KEY (intent_id)
) PARTITION BY RANGE (intent_id);
CREATE INDEX intent_cn            ON intent ((subject ->> 'CN'));
-- Over all rows, like that of CN: of a part of them the planner does not know how few there are of a value.
CREATE INDEX intent_device_serial ON intent ((subject ->> 'serialNumber'));
CREATE INDEX intent_no_device     ON intent (kind, intent_id) WHERE kind <> 'device';
CREATE INDEX intent_issuer        ON intent (issuer, intent_id);
CREATE INDEX intent_principal     ON intent (principal, intent_id);
CREATE INDEX intent_profile       ON intent (profile, intent_id);
CREATE INDEX intent_supersedes    ON intent (supersedes) WHERE supersedes IS NOT NULL;
CREATE INDEX intent_work_order    ON intent (work_order, intent_id) WHERE work_order IS NOT NULL;
COMMENT ON TABLE intent IS 'A certificate about to be made: everything about it but the signature. Never changed. Partitioned by month.';

CREATE TABLE outcome (
    LIKE first_outcome INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS,
    PRIMARY KEY (intent_id),
    FOREIGN KEY (intent_id) REFERENCES claim
) PARTITION BY RANGE (intent_id);
CREATE INDEX outcome_recorded_at ON outcome (recorded_at);
CREATE INDEX outcome_log_index   ON outcome (log_index) WHERE der IS NOT NULL;
COMMENT ON TABLE outcome IS 'What became of an intent: a certificate, or nothing for ever. Never changed. Partitioned like intent.';

CREATE TABLE log_entry (
    LIKE first_log_entry INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS,
    PRIMARY KEY (log_index)
) PARTITION BY RANGE (log_index);
COMMENT ON TABLE log_entry IS 'The log. Never changed. Partitioned by place, 2^20 entries each.';

CREATE TRIGGER work_order_reserve AFTER INSERT ON intent
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION work_order_reserve();

-- What no partition was made for: nothing is refused because upkeep did not run.
CREATE TABLE intent_default    (LIKE intent    INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS);
CREATE TABLE outcome_default   (LIKE outcome   INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS);
CREATE TABLE log_entry_default (LIKE log_entry INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS);
ALTER TABLE intent    ATTACH PARTITION intent_default    DEFAULT;
ALTER TABLE outcome   ATTACH PARTITION outcome_default   DEFAULT;
ALTER TABLE log_entry ATTACH PARTITION log_entry_default DEFAULT;
COMMENT ON TABLE intent_default    IS 'Default partition of intent.';
COMMENT ON TABLE outcome_default   IS 'Default partition of outcome.';
COMMENT ON TABLE log_entry_default IS 'Default partition of log_entry.';

CREATE FUNCTION make_partition(parent text, partition text, low text, high text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key text := CASE parent WHEN 'log_entry' THEN 'log_index' ELSE 'intent_id' END;
BEGIN
    EXECUTE format('CREATE TABLE public.%I (LIKE public.%I INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING COMMENTS)',
        partition, parent);
    EXECUTE format('WITH moved AS (DELETE FROM public.%1$I WHERE %2$I >= %3$L AND %2$I < %4$L RETURNING *)
                    INSERT INTO public.%5$I SELECT * FROM moved', parent || '_default', key, low, high, partition);
    EXECUTE format('ALTER TABLE public.%I ATTACH PARTITION public.%I FOR VALUES FROM (%L) TO (%L)',
        parent, partition, low, high);
    EXECUTE format('COMMENT ON TABLE public.%I IS %L', partition, 'Partition of ' || parent || '.');
END
$$;
COMMENT ON FUNCTION make_partition(text, text, text, text) IS 'Makes one partition, with what the default partition holds of it.';

CREATE FUNCTION make_partitions() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s'
AS $$
DECLARE
    -- Months from this one on, and partitions of the log beyond its end.
    months constant integer := 4;
    ahead  constant bigint  := 4;
    width  constant bigint  := 1048576;
    month  timestamp;
    parent text;
    name   text;
    number bigint;
    made   integer := 0;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('certfactory.partitions')) THEN
        RETURN 0;
    END IF;
    FOR number IN 0 .. months - 1 LOOP
        month := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') + number * interval '1 month';
        FOREACH parent IN ARRAY ARRAY['intent', 'outcome'] LOOP
            name := parent || to_char(month, '_YYYY_MM');
            CONTINUE WHEN to_regclass('public.' || name) IS NOT NULL;
            PERFORM public.make_partition(parent, name, public.uuid_floor(month AT TIME ZONE 'UTC')::text,
                public.uuid_floor((month + interval '1 month') AT TIME ZONE 'UTC')::text);
            made := made + 1;
        END LOOP;
    END LOOP;
    FOR number IN SELECT generate_series(h.size / width, h.size / width + ahead) FROM public.log_head h LOOP
        name := 'log_entry_' || number;
        CONTINUE WHEN to_regclass('public.' || name) IS NOT NULL;
        PERFORM public.make_partition('log_entry', name, (number * width)::text, ((number + 1) * width)::text);
        made := made + 1;
    END LOOP;
    RETURN made;
END
$$;
COMMENT ON FUNCTION make_partitions() IS 'Makes partitions ahead: this month and the next three, and the next 2^22 entries of the log. How many it made; a second caller makes none.';

------------------------------------------------------------------------------------------------
-- What was there before. A partition has the name of the month, or of the part of the log, that it ends with.

DO $$
DECLARE
    month constant timestamp := date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC');
    high  constant uuid      := uuid_floor((month + interval '1 month') AT TIME ZONE 'UTC');
    part  constant bigint    := (SELECT size / 1048576 FROM log_head);
    old   text;
    name  text;
BEGIN
    FOREACH old IN ARRAY ARRAY['intent', 'outcome'] LOOP
        -- Of a clock that was wrong once.
        EXECUTE format('WITH moved AS (DELETE FROM %I WHERE intent_id >= %L RETURNING *)
                        INSERT INTO %I SELECT * FROM moved', 'first_' || old, high, old || '_default');
        name := old || to_char(month, '_YYYY_MM');
        EXECUTE format('ALTER TABLE %I RENAME TO %I', 'first_' || old, name);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)', old, name, high);
        EXECUTE format('COMMENT ON TABLE %I IS %L', name, 'Partition of ' || old || '.');
    END LOOP;
    name := 'log_entry_' || part;
    EXECUTE format('ALTER TABLE first_log_entry RENAME TO %I', name);
    EXECUTE format('ALTER TABLE log_entry ATTACH PARTITION %I FOR VALUES FROM (MINVALUE) TO (%L)', name, (part + 1) * 1048576);
    EXECUTE format('COMMENT ON TABLE %I IS %L', name, 'Partition of log_entry.');
END
$$;
SELECT make_partitions();

------------------------------------------------------------------------------------------------
-- Parts of the log whose entries were taken out. Their hashes stay: tiles are never taken out.

CREATE TABLE archived_part (
    first_index bigint      PRIMARY KEY CHECK (first_index >= 0),
    next_index  bigint      NOT NULL CHECK (next_index > first_index),
    newest      timestamptz NOT NULL,
    archived_at timestamptz NOT NULL DEFAULT statement_timestamp()
);
COMMENT ON TABLE  archived_part             IS 'Parts of the log whose entries are in an archive and no longer here.';
COMMENT ON COLUMN archived_part.first_index IS 'Place of the first such entry.';
COMMENT ON COLUMN archived_part.next_index  IS 'Place after the last.';
COMMENT ON COLUMN archived_part.newest      IS 'Time of the last.';
COMMENT ON COLUMN archived_part.archived_at IS 'Database time at which they were taken out.';

------------------------------------------------------------------------------------------------
-- As before, and its fingerprint among all of them.

CREATE OR REPLACE FUNCTION record_certificates(ids uuid[], ders bytea[], fingerprints bytea[], events text[])
RETURNS TABLE (recorded_id uuid, place bigint, recorded timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head record;
    late uuid;
BEGIN
    IF coalesce(cardinality(ids), 0) = 0 THEN
        -- Whether it could be done, asked again and again: a log that is halted is no fault here.
        PERFORM FROM public.log_head FOR UPDATE;
        RETURN;
    END IF;
    -- A statement of its own: the next one's snapshot is taken under the lock, and sees what the
    -- earlier holder committed.
    SELECT * INTO STRICT head FROM public.log_open();
    late := public.uuid_floor(head.at - interval '1 hour');
    RETURN QUERY
    WITH fresh AS (
        SELECT b.intent_id, b.der, b.fingerprint, b.event,
               head.next + row_number() OVER (ORDER BY b.ordinal) - 1 AS log_index
        FROM unnest(ids, ders, fingerprints, events) WITH ORDINALITY
             AS b (intent_id, der, fingerprint, event, ordinal)
        WHERE (SELECT true FROM public.open_intent o WHERE o.intent_id = b.intent_id)
    ), entry AS (
        INSERT INTO public.log_entry (log_index, leaf)
        SELECT f.log_index,
               public.log_leaf(f.log_index, head.at, 'issued', f.event) || '\x0a'::bytea || f.der
        FROM fresh f
    ), stored AS (
        INSERT INTO public.outcome AS o (intent_id, der, fingerprint, log_index, recorded_at)
        SELECT f.intent_id, f.der, f.fingerprint, f.log_index, head.at FROM fresh f
        RETURNING o.intent_id, o.log_index
    ), identified AS (
        INSERT INTO public.certificate_id (fingerprint, intent_id)
        SELECT f.fingerprint, f.intent_id FROM fresh f
    ), listed AS (
        INSERT INTO public.unconfirmed (intent_id) SELECT f.intent_id FROM fresh f
    ), noted AS (
        INSERT INTO public.late_outcome (intent_id, recorded_at)
        SELECT f.intent_id, head.at FROM fresh f WHERE f.intent_id < late
    ), closed AS (
        DELETE FROM public.open_intent i WHERE i.intent_id = ANY(ids)
    ), moved AS (
        UPDATE public.log_head SET size = head.next + (SELECT count(*) FROM fresh), at = head.at
        WHERE EXISTS (SELECT FROM fresh)
    )
    SELECT s.intent_id, s.log_index, head.at FROM stored s;
END
$$;
------------------------------------------------------------------------------------------------
-- Rights: as they were.

REVOKE ALL ON FUNCTION life_event_of_certificate(), unconfirmed_no_more(), uuid_floor(timestamptz), make_partitions(),
    make_partition(text, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION make_partitions() TO certfactory_service;
GRANT SELECT ON certificate_id, unconfirmed, late_outcome, intent, outcome, log_entry, archived_part TO certfactory_service;
GRANT INSERT (intent_id, serial_number, issuer, profile, profile_sha256, principal, idempotency_key,
              request_sha256, work_order, device, slot, subject, thing_name, spki_sha256,
              not_before, not_after, tbs, kind, supersedes, generation, rework_reason, key_origin)
    ON intent TO certfactory_service;
ANALYZE intent, outcome, log_entry;
