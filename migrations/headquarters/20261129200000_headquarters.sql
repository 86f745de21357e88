-- Head office: what the plants published, as each first gave it, and what was found of it.
--
-- A table that a plant publishes is here by its name, with one partition a plant, which has the plant's key.
-- Nothing is unique across plants, and no row of a plant can stop its feed: a row that comes again with
-- another content, or is changed at the plant, is not taken over; it is found, and named.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'certfactory_headquarters') THEN
        CREATE ROLE certfactory_headquarters NOLOGIN;
    END IF;
EXCEPTION
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

------------------------------------------------------------------------------------------------
-- The plants.

CREATE TABLE plant (
    site               text        PRIMARY KEY CHECK (site ~ '^[a-z0-9][a-z0-9-]{0,39}$'),
    log_key            text,
    late_after_seconds integer     NOT NULL CHECK (late_after_seconds > 0),
    added_at           timestamptz NOT NULL DEFAULT statement_timestamp()
);
COMMENT ON TABLE  plant                    IS 'The plants that are subscribed to.';
COMMENT ON COLUMN plant.site               IS 'The site''s name, as all its rows bear it.';
COMMENT ON COLUMN plant.log_key            IS 'Public key of its log, a vkey (C2SP signed-note); null: its checkpoints are not witnessed.';
COMMENT ON COLUMN plant.late_after_seconds IS 'Seconds after which its feed is late.';
COMMENT ON COLUMN plant.added_at           IS 'Database time.';

CREATE TABLE plant_progress (
    site                 text    PRIMARY KEY REFERENCES plant ON DELETE CASCADE,
    certificates_arrival bigint  NOT NULL DEFAULT 0,
    certificates         bigint  NOT NULL DEFAULT 0,
    events_arrival       bigint  NOT NULL DEFAULT 0,
    events               bigint  NOT NULL DEFAULT 0,
    tree_size            bigint  NOT NULL DEFAULT 0 CHECK (tree_size >= 0),
    tree_peaks           bytea   NOT NULL DEFAULT '',
    checkpoint_size      bigint  NOT NULL DEFAULT 0,
    checkpoint_at        timestamptz,
    disagrees            boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE  plant_progress                      IS 'How far each plant''s rows were held against its log, and its log against its checkpoints.';
COMMENT ON COLUMN plant_progress.site                 IS 'The plant.';
COMMENT ON COLUMN plant_progress.certificates_arrival IS 'outcome.arrival of the last that was looked at.';
COMMENT ON COLUMN plant_progress.certificates         IS 'Certificates that were looked at.';
COMMENT ON COLUMN plant_progress.events_arrival       IS 'life_event.arrival of the last that was looked at.';
COMMENT ON COLUMN plant_progress.events               IS 'Events of certificates that were looked at.';
COMMENT ON COLUMN plant_progress.tree_size            IS 'Entries of which the tree was made here.';
COMMENT ON COLUMN plant_progress.tree_peaks           IS 'Hashes of its complete subtrees, 32 octets each, the largest first.';
COMMENT ON COLUMN plant_progress.checkpoint_size      IS 'Size of the last checkpoint that the plant''s key signed and that has the root of the tree made here.';
COMMENT ON COLUMN plant_progress.checkpoint_at        IS 'When the plant made it, by its database''s time.';
COMMENT ON COLUMN plant_progress.disagrees            IS 'True from the first checkpoint on that does not agree with the entries.';

CREATE TABLE finding (
    site       text        NOT NULL,
    table_name text        NOT NULL,
    row_key    text        NOT NULL,
    held_to    text        NOT NULL CHECK (held_to IN ('first', 'log')),
    difference text        NOT NULL,
    found_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz,
    PRIMARY KEY (site, table_name, row_key, held_to)
);
CREATE INDEX finding_open ON finding (site, found_at) WHERE ended_at IS NULL;
COMMENT ON TABLE  finding            IS 'Rows of plants that do not agree with what the plant gave before, or with its log.';
COMMENT ON COLUMN finding.site       IS 'The plant.';
COMMENT ON COLUMN finding.table_name IS 'The table.';
COMMENT ON COLUMN finding.row_key    IS 'The row''s key.';
COMMENT ON COLUMN finding.held_to    IS 'What it was held against: first, the row as it first came; log, the plant''s log. What one finds, the other does not end.';
COMMENT ON COLUMN finding.difference IS 'What differs, for people.';
COMMENT ON COLUMN finding.found_at   IS 'Database time.';
COMMENT ON COLUMN finding.ended_at   IS 'When the plant had put it right; null while it has not.';

CREATE FUNCTION find_difference(in_site text, in_table text, in_key text, was jsonb, is_now jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- What is of head office and not of the row.
    own  constant text[] := ARRAY['arrival', 'told', 'about'];
    what text := (SELECT string_agg(format('%s is now %s, and was %s', n.key,
                             coalesce(left(n.value, 80), 'null'), coalesce(left(o.value, 80), 'null')), '; ' ORDER BY n.key)
                  FROM jsonb_each_text(is_now - own) n JOIN jsonb_each_text(was - own) o ON o.key = n.key
                  WHERE n.value IS DISTINCT FROM o.value);
BEGIN
    IF what IS NULL THEN
        UPDATE public.finding f SET ended_at = clock_timestamp()
            WHERE f.site = in_site AND f.table_name = in_table AND f.row_key = in_key AND f.held_to = 'first'
              AND f.ended_at IS NULL;
    ELSE
        INSERT INTO public.finding AS f (site, table_name, row_key, held_to, difference)
            VALUES (in_site, in_table, in_key, 'first', what)
            ON CONFLICT (site, table_name, row_key, held_to) DO UPDATE
            SET difference = EXCLUDED.difference, found_at = EXCLUDED.found_at, ended_at = NULL;
    END IF;
END
$$;
COMMENT ON FUNCTION find_difference(text, text, text, jsonb, jsonb) IS 'Notes what differs between what a plant gave and what it gives now, or that nothing does any more.';

------------------------------------------------------------------------------------------------
-- What plants publish. An arrival counts rows in the order in which a plant's came.

CREATE SEQUENCE arrival CACHE 1;
COMMENT ON SEQUENCE arrival IS 'Numbers rows in the order of their arrival.';

CREATE TABLE intent (
    intent_id uuid NOT NULL, site text NOT NULL, serial_number bytea NOT NULL, kind text NOT NULL, issuer text NOT NULL,
    profile text NOT NULL, profile_sha256 bytea NOT NULL, principal text NOT NULL, request_sha256 bytea NOT NULL,
    work_order text, device text NOT NULL, slot text NOT NULL, subject jsonb NOT NULL, thing_name text,
    spki_sha256 bytea NOT NULL, key_origin text NOT NULL, not_before timestamptz NOT NULL, not_after timestamptz NOT NULL,
    supersedes uuid, generation smallint NOT NULL, rework_reason text, created_at timestamptz NOT NULL
) PARTITION BY LIST (site);
CREATE INDEX intent_serial_number ON intent (serial_number);
CREATE INDEX intent_spki          ON intent (spki_sha256);
CREATE INDEX intent_device        ON intent (device);
CREATE INDEX intent_cn            ON intent ((subject ->> 'CN'));
CREATE INDEX intent_device_serial ON intent ((subject ->> 'serialNumber'));
CREATE INDEX intent_work_order    ON intent (work_order, intent_id) WHERE work_order IS NOT NULL;
CREATE INDEX intent_principal     ON intent (principal, intent_id);
CREATE INDEX intent_supersedes    ON intent (supersedes) WHERE supersedes IS NOT NULL;
COMMENT ON TABLE intent IS 'Certificates that were to be made, without the octets to sign and the idempotency key. Columns as at the plant.';

CREATE TABLE outcome (
    intent_id uuid NOT NULL, site text NOT NULL, der bytea, fingerprint bytea, log_index bigint, abandon_reason text,
    recorded_at timestamptz NOT NULL, arrival bigint NOT NULL DEFAULT nextval('arrival')
) PARTITION BY LIST (site);
ALTER TABLE outcome ALTER der SET STORAGE EXTERNAL;
CREATE INDEX outcome_arrival     ON outcome (arrival);
CREATE INDEX outcome_fingerprint ON outcome (fingerprint);
CREATE INDEX outcome_recorded_at ON outcome (recorded_at);
COMMENT ON TABLE  outcome         IS 'What became of them. Columns as at the plant.';
COMMENT ON COLUMN outcome.arrival IS 'When it came, in numbers.';

CREATE TABLE life_event (
    intent_id uuid NOT NULL, kind text NOT NULL, site text NOT NULL, principal text NOT NULL, reason text, reason_code smallint,
    issuer text NOT NULL, crl_shard smallint, at timestamptz NOT NULL, arrival bigint NOT NULL DEFAULT nextval('arrival')
) PARTITION BY LIST (site);
CREATE INDEX life_event_arrival ON life_event (arrival);
CREATE INDEX life_event_kind    ON life_event (kind, intent_id) WHERE kind <> 'confirmed';
COMMENT ON TABLE  life_event         IS 'What happened to certificates. Columns as at the plant.';
COMMENT ON COLUMN life_event.arrival IS 'When it came, in numbers.';

CREATE TABLE log_entry (
    log_index bigint NOT NULL, site text NOT NULL, leaf bytea NOT NULL, told text, about text
) PARTITION BY LIST (site);
CREATE INDEX log_entry_about ON log_entry (about, told) WHERE about IS NOT NULL;
COMMENT ON TABLE  log_entry       IS 'The plants'' logs. Columns as at the plant.';
COMMENT ON COLUMN log_entry.told  IS 'Kind of the event.';
COMMENT ON COLUMN log_entry.about IS 'Serial number, hexadecimal, of the certificate to which it happened; name of the work order it is about; null for what is about neither, and for that a certificate was issued.';

CREATE TABLE work_order (
    name text NOT NULL, site text NOT NULL, profile text NOT NULL, quantity bigint NOT NULL, device_first text, device_last text,
    device_pattern text, device_count bigint, device_list_sha256 bytea, stations text[] NOT NULL, opens_at timestamptz,
    closes_at timestamptz, created_by text NOT NULL, created_at timestamptz NOT NULL, closed_by text, closed_at timestamptz,
    reserved bigint NOT NULL, abandoned bigint NOT NULL, scrap_allowance bigint NOT NULL, reworks_max bigint,
    reworked bigint NOT NULL, confirmed bigint NOT NULL, superseded bigint NOT NULL, revoked bigint NOT NULL, scrapped bigint NOT NULL
) PARTITION BY LIST (site);
COMMENT ON TABLE work_order IS 'Work orders and their counts, as the plants have them. Columns as at the plant.';

CREATE TABLE order_ticket (
    jti text NOT NULL, site text NOT NULL, work_order text NOT NULL, kid text NOT NULL, iss text NOT NULL,
    issued_at timestamptz NOT NULL, sha256 bytea NOT NULL, ticket bytea NOT NULL
) PARTITION BY LIST (site);
COMMENT ON TABLE order_ticket IS 'Tickets that were used. Columns as at the plant.';

CREATE TABLE order_report (
    work_order text NOT NULL, site text NOT NULL, report text NOT NULL, created_at timestamptz NOT NULL
) PARTITION BY LIST (site);
COMMENT ON TABLE order_report IS 'Reports of closed work orders. Columns as at the plant.';

CREATE TABLE checkpoint (
    size bigint NOT NULL, site text NOT NULL, root bytea NOT NULL, note text NOT NULL, created_at timestamptz NOT NULL
) PARTITION BY LIST (site);
COMMENT ON TABLE checkpoint IS 'Checkpoints of the plants'' logs: the newest, and the last of each hour before. Columns as at the plant.';

CREATE TABLE heartbeat (
    only_row boolean NOT NULL, site text NOT NULL, at timestamptz NOT NULL
) PARTITION BY LIST (site);
COMMENT ON TABLE heartbeat IS 'When each plant''s service last said that it runs, by its database''s time.';

-- What searches ask at a plant.
CREATE VIEW claim AS
    SELECT i.intent_id, i.serial_number, i.spki_sha256, i.slot, i.device, i.supersedes, i.site,
           NOT EXISTS (SELECT FROM outcome o WHERE o.intent_id = i.intent_id AND o.site = i.site AND o.der IS NULL) AS live
    FROM intent i;
COMMENT ON VIEW claim IS 'Keys and devices, for searches.';
CREATE VIEW certificate_id AS SELECT fingerprint, intent_id, site FROM outcome WHERE der IS NOT NULL;
COMMENT ON VIEW certificate_id IS 'Fingerprints, for searches.';
CREATE VIEW unconfirmed AS
    SELECT o.intent_id, o.site FROM outcome o
    WHERE o.der IS NOT NULL
      AND NOT EXISTS (SELECT FROM life_event e WHERE e.intent_id = o.intent_id AND e.site = o.site);
COMMENT ON VIEW unconfirmed IS 'Certificates to which nothing has happened yet, for searches.';
CREATE TABLE late_outcome (
    intent_id   uuid        NOT NULL,
    site        text        NOT NULL,
    recorded_at timestamptz NOT NULL
);
CREATE INDEX late_outcome_recorded_at ON late_outcome (recorded_at);
COMMENT ON TABLE  late_outcome             IS 'Certificates that were recorded more than an hour after they were intended, for searches.';
COMMENT ON COLUMN late_outcome.intent_id   IS 'The certificate.';
COMMENT ON COLUMN late_outcome.site        IS 'The plant.';
COMMENT ON COLUMN late_outcome.recorded_at IS 'As in outcome.';

DO $$
DECLARE
    of_plant record;
BEGIN
    FOR of_plant IN
        SELECT a.attrelid::regclass AS published, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relkind IN ('p', 'v') AND a.attnum > 0 AND NOT a.attisdropped AND col_description(a.attrelid, a.attnum) IS NULL LOOP
        EXECUTE format('COMMENT ON COLUMN %s.%I IS %L', of_plant.published, of_plant.attname, 'As at the plant.');
    END LOOP;
END
$$;

------------------------------------------------------------------------------------------------
-- What comes, and comes again.

CREATE FUNCTION row_arrives() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known jsonb;
    key   text;
    head  bytea;
    event json;
BEGIN
    CASE TG_ARGV[0]
    WHEN 'intent' THEN
        SELECT to_jsonb(t), t.intent_id::text INTO known, key FROM public.intent t
            WHERE t.site = NEW.site AND t.intent_id = NEW.intent_id;
    WHEN 'outcome' THEN
        SELECT to_jsonb(t), t.intent_id::text INTO known, key FROM public.outcome t
            WHERE t.site = NEW.site AND t.intent_id = NEW.intent_id;
        -- A UUIDv7 begins with its time, in milliseconds (RFC 9562, 5.7).
        IF known IS NULL AND NEW.der IS NOT NULL AND
           ('x' || left(replace(NEW.intent_id::text, '-', ''), 12))::bit(48)::bigint
               < extract(epoch FROM NEW.recorded_at) * 1000 - 3600000 THEN
            INSERT INTO public.late_outcome (intent_id, site, recorded_at)
                VALUES (NEW.intent_id, NEW.site, NEW.recorded_at);
        END IF;
    WHEN 'life_event' THEN
        SELECT to_jsonb(t), t.intent_id || ' ' || t.kind INTO known, key FROM public.life_event t
            WHERE t.site = NEW.site AND t.intent_id = NEW.intent_id AND t.kind = NEW.kind;
    WHEN 'log_entry' THEN
        SELECT to_jsonb(t), t.log_index::text INTO known, key FROM public.log_entry t
            WHERE t.site = NEW.site AND t.log_index = NEW.log_index;
        -- Of an issued certificate, its DER is after a line feed. What is no entry is for the job to say.
        BEGIN
            IF position('"kind":"issued"'::bytea IN substring(NEW.leaf FOR 120)) > 0 THEN
                NEW.told := 'issued';
            ELSE
                event := convert_from(NEW.leaf, 'UTF8')::json;
                NEW.told := event ->> 'kind';
                IF NEW.told IN ('confirmed', 'superseded', 'revoked', 'scrapped') THEN
                    NEW.about := event #>> '{event,serial_number}';
                ELSIF NEW.told IN ('order-created', 'order-changed', 'order-closed', 'order-devices', 'order-reported',
                                   'ticket-redeemed') THEN
                    NEW.about := event #>> '{event,order}';
                END IF;
            END IF;
        EXCEPTION WHEN data_exception OR character_not_in_repertoire OR untranslatable_character THEN NULL;
        END;
    WHEN 'checkpoint' THEN
        SELECT to_jsonb(t), t.size::text INTO known, key FROM public.checkpoint t
            WHERE t.site = NEW.site AND t.size = NEW.size;
    WHEN 'order_ticket' THEN
        SELECT to_jsonb(t), t.jti INTO known, key FROM public.order_ticket t
            WHERE t.site = NEW.site AND t.jti = NEW.jti;
    WHEN 'order_report' THEN
        SELECT to_jsonb(t), t.work_order INTO known, key FROM public.order_report t
            WHERE t.site = NEW.site AND t.work_order = NEW.work_order;
    WHEN 'work_order' THEN
        SELECT to_jsonb(t), t.name INTO known, key FROM public.work_order t
            WHERE t.site = NEW.site AND t.name = NEW.name;
    END CASE;
    IF known IS NULL THEN
        RETURN NEW;
    END IF;
    PERFORM public.find_difference(NEW.site, TG_ARGV[0], key, known, to_jsonb(NEW));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION row_arrives() IS 'Leaves out a row that is here, and notes where it is another one than before: no row stops a feed.';

CREATE FUNCTION row_changes() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known constant jsonb := to_jsonb(OLD);
BEGIN
    PERFORM public.find_difference(OLD.site, TG_ARGV[0], (
        SELECT string_agg(known ->> k.name, ' ' ORDER BY k.place)
        FROM unnest(TG_ARGV) WITH ORDINALITY AS k (name, place) WHERE k.place > 1), known, to_jsonb(NEW));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION row_changes() IS 'Keeps a row that is final at the plant as it first came, and notes what the plant changed.';

-- ALWAYS: also for what replication brings.
DO $$
DECLARE
    keys constant jsonb := '{"intent": ["intent_id"], "outcome": ["intent_id"], "life_event": ["intent_id", "kind"],
        "log_entry": ["log_index"], "checkpoint": ["size"], "order_ticket": ["jti"], "order_report": ["work_order"]}';
    final text;
BEGIN
    FOR final IN SELECT jsonb_object_keys(keys) LOOP
        EXECUTE format('CREATE TRIGGER row_arrives BEFORE INSERT ON %I FOR EACH ROW EXECUTE FUNCTION row_arrives(%L)',
            final, final);
        EXECUTE format('CREATE TRIGGER row_changes BEFORE UPDATE ON %I FOR EACH ROW EXECUTE FUNCTION row_changes(%L, %s)',
            final, final, (SELECT string_agg(quote_literal(k), ', ') FROM jsonb_array_elements_text(keys -> final) k));
    END LOOP;
    EXECUTE 'CREATE TRIGGER row_arrives BEFORE INSERT ON work_order FOR EACH ROW EXECUTE FUNCTION row_arrives(''work_order'')';
END
$$;

CREATE FUNCTION make_plant(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    keys constant jsonb := '{"intent": "intent_id", "outcome": "intent_id", "life_event": "intent_id, kind",
        "log_entry": "log_index", "checkpoint": "size", "order_ticket": "jti", "order_report": "work_order",
        "work_order": "name", "heartbeat": "only_row"}';
    published text;
    partition text;
    called    text;
BEGIN
    FOR published IN SELECT jsonb_object_keys(keys) LOOP
        partition := published || '_of_' || replace(name, '-', '_');
        CONTINUE WHEN to_regclass(format('public.%I', partition)) IS NOT NULL;
        EXECUTE format('CREATE TABLE public.%I PARTITION OF public.%I (PRIMARY KEY (%s)) FOR VALUES IN (%L)',
            partition, published, keys ->> published, name);
        EXECUTE format('COMMENT ON TABLE public.%I IS %L', partition, 'Rows of plant ' || name || '.');
        FOR called IN SELECT t.tgname FROM pg_trigger t
                      WHERE t.tgrelid = format('public.%I', partition)::regclass
                        AND t.tgname IN ('row_arrives', 'row_changes') LOOP
            EXECUTE format('ALTER TABLE public.%I ENABLE ALWAYS TRIGGER %I', partition, called);
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION make_plant(text) IS 'Makes a plant''s partitions, each with the plant''s own key: by it replication finds the row that a change is of.';

CREATE FUNCTION drop_plant(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    part regclass;
BEGIN
    FOR part IN SELECT i.inhrelid::regclass FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE obj_description(c.oid, 'pg_class') = 'Rows of plant ' || name || '.' LOOP
        EXECUTE format('DROP TABLE %s', part);
    END LOOP;
    DELETE FROM public.late_outcome l WHERE l.site = name;
    DELETE FROM public.finding f WHERE f.site = name;
    DELETE FROM public.plant p WHERE p.site = name;
END
$$;
COMMENT ON FUNCTION drop_plant(text) IS 'Removes a plant and all its rows.';

------------------------------------------------------------------------------------------------
-- Who may ask here, and what was ordered from here.

CREATE TABLE principal (
    name       text        PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9._-]{1,64}$'),
    role       text        NOT NULL CHECK (role IN ('operator', 'auditor')),
    disabled   boolean     NOT NULL DEFAULT false,
    rights     jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(rights) = 'object'),
    created_at timestamptz NOT NULL DEFAULT statement_timestamp()
);
COMMENT ON TABLE  principal            IS 'Who may ask head office.';
COMMENT ON COLUMN principal.name       IS 'Unique name.';
COMMENT ON COLUMN principal.role       IS 'auditor: reads everything. operator: a planner, who signs tickets, too.';
COMMENT ON COLUMN principal.disabled   IS 'True: may do nothing.';
COMMENT ON COLUMN principal.rights     IS 'As at a plant: networks, hours, rate.';
COMMENT ON COLUMN principal.created_at IS 'Database time.';

CREATE TABLE principal_key (
    spki_sha256 bytea       PRIMARY KEY CHECK (octet_length(spki_sha256) = 32),
    name        text        NOT NULL REFERENCES principal,
    added_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    dies_at     timestamptz
);
COMMENT ON TABLE  principal_key             IS 'Their keys.';
COMMENT ON COLUMN principal_key.spki_sha256 IS 'SHA-256 over the SubjectPublicKeyInfo of the client certificate.';
COMMENT ON COLUMN principal_key.name        IS 'Whose it is.';
COMMENT ON COLUMN principal_key.added_at    IS 'Database time.';
COMMENT ON COLUMN principal_key.dies_at     IS 'Database time from which it is good for nothing; null: none.';

CREATE TABLE signed_ticket (
    jti        text        PRIMARY KEY,
    site       text        NOT NULL,
    work_order text        NOT NULL,
    ticket     text        NOT NULL,
    signed_by  text        NOT NULL,
    signed_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    UNIQUE (site, work_order)
);
COMMENT ON TABLE  signed_ticket            IS 'Tickets that were signed here: of each order and plant one.';
COMMENT ON COLUMN signed_ticket.jti        IS 'The ticket''s number.';
COMMENT ON COLUMN signed_ticket.site       IS 'The plant it is for.';
COMMENT ON COLUMN signed_ticket.work_order IS 'The order it brings.';
COMMENT ON COLUMN signed_ticket.ticket     IS 'The whole ticket, a JWS.';
COMMENT ON COLUMN signed_ticket.signed_by  IS 'Name of the principal who had it signed.';
COMMENT ON COLUMN signed_ticket.signed_at  IS 'Database time.';

REVOKE ALL ON FUNCTION find_difference(text, text, text, jsonb, jsonb), row_arrives(), row_changes(), make_plant(text),
    drop_plant(text) FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO certfactory_headquarters;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO certfactory_headquarters;
GRANT INSERT (site, table_name, row_key, held_to, difference), UPDATE (difference, found_at, ended_at) ON finding
    TO certfactory_headquarters;
GRANT UPDATE (certificates_arrival, certificates, events_arrival, events, tree_size, tree_peaks, checkpoint_size,
              checkpoint_at, disagrees) ON plant_progress
    TO certfactory_headquarters;
GRANT DELETE ON checkpoint TO certfactory_headquarters;
GRANT INSERT (jti, site, work_order, ticket, signed_by) ON signed_ticket TO certfactory_headquarters;
