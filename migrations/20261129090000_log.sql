-- The log: every event is an entry, all in one order, from 0 and without gaps.
--
-- An entry is written in the transaction of what it tells, by the database: whatever changes a row
-- below, and by whatever way, tells so here. Its octets are what the Merkle tree is made of
-- (RFC 6962, 2.1), so they are stored as they were first written and never made again.

CREATE TABLE log_entry (
    log_index bigint PRIMARY KEY CHECK (log_index >= 0),
    leaf      bytea  NOT NULL CHECK (octet_length(leaf) BETWEEN 1 AND 65535)
);
COMMENT ON TABLE  log_entry           IS 'The log. Never changed, never deleted.';
COMMENT ON COLUMN log_entry.log_index IS 'Place in the log, from 0 and without gaps.';
COMMENT ON COLUMN log_entry.leaf      IS 'The entry''s octets: one JSON object {index, at, kind, event}; of an issued certificate, then a line feed and its DER.';

ALTER TABLE log_head
    ADD COLUMN at     timestamptz NOT NULL DEFAULT '-infinity',
    ADD COLUMN halted text;
COMMENT ON TABLE  log_head        IS 'Where the log ends, in one row; its lock orders the recording transactions of all replicas, and is the last one that a transaction takes.';
COMMENT ON COLUMN log_head.size   IS 'Entries so far, which is the next log_index.';
COMMENT ON COLUMN log_head.at     IS 'Database time of the last entry: no later one has an earlier time.';
COMMENT ON COLUMN log_head.halted IS 'Why nothing is appended any more, until the owner clears it; null: entries are appended.';
COMMENT ON COLUMN outcome.log_index   IS 'Place in the log of the certificate''s entry.';
COMMENT ON COLUMN outcome.recorded_at IS 'Database time of recording, as in its entry of the log.';

------------------------------------------------------------------------------------------------
-- Appending.

CREATE FUNCTION log_open(OUT next bigint, OUT at timestamptz)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    why  text;
    now_ timestamptz;
BEGIN
    SELECT h.size, h.at, h.halted INTO STRICT next, at, why FROM public.log_head h FOR UPDATE;
    now_ := clock_timestamp();
    IF why IS NOT NULL THEN
        RAISE object_not_in_prerequisite_state USING MESSAGE = 'the log is halted: ' || why;
    END IF;
    IF at > now_ + interval '1 second' THEN
        RAISE object_not_in_prerequisite_state
            USING MESSAGE = format('the database''s clock says %s, before the log''s last entry of %s', now_, at);
    END IF;
    at := greatest(at, now_);
END
$$;
COMMENT ON FUNCTION log_open() IS 'Locks the log''s head. Next place and time of an entry, which is never before that of the last. Refuses when the log is halted or the clock was turned back by more than a second.';

CREATE FUNCTION log_leaf(log_index bigint, at timestamptz, kind text, event text) RETURNS bytea
LANGUAGE sql STABLE
AS $$
    SELECT convert_to('{"index":' || log_index || ',"at":"'
        || to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        || '","kind":"' || kind || '","event":' || event || '}', 'UTF8')
$$;
COMMENT ON FUNCTION log_leaf(bigint, timestamptz, text, text) IS 'The octets of an entry. The event is a JSON object.';

CREATE FUNCTION log_append(kinds text[], events text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head record;
BEGIN
    IF coalesce(cardinality(events), 0) = 0 THEN
        RETURN;
    END IF;
    -- Rows that are put back have their entries already. Only the owner can ask for it.
    IF current_setting('certfactory.restoring', true) = 'on' AND session_user = current_user THEN
        RETURN;
    END IF;
    SELECT * INTO STRICT head FROM public.log_open();
    INSERT INTO public.log_entry (log_index, leaf)
        SELECT head.next + e.ordinal - 1, public.log_leaf(head.next + e.ordinal - 1, head.at, e.kind, e.event)
        FROM unnest(kinds, events) WITH ORDINALITY AS e (kind, event, ordinal);
    UPDATE public.log_head SET size = head.next + cardinality(events), at = head.at;
END
$$;
COMMENT ON FUNCTION log_append(text[], text[]) IS 'Appends events, JSON objects, each of the kind beside it, in their order.';

CREATE FUNCTION log_append(kind text, event json) RETURNS void
LANGUAGE sql
AS $$
    SELECT public.log_append(ARRAY[kind], ARRAY[event::text])
$$;
COMMENT ON FUNCTION log_append(text, json) IS 'Appends one event.';

CREATE FUNCTION log_halt(reason text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE public.log_head SET halted = reason WHERE halted IS NULL
$$;
COMMENT ON FUNCTION log_halt(text) IS 'Refuses every further entry, until the owner sets log_head.halted to null. The first reason stays.';

-- What has no row of its own. The kinds that have one are not the service's to write.
CREATE FUNCTION log_note(kinds text[], events text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF coalesce(cardinality(kinds), 0) = 0 THEN
        PERFORM FROM public.log_head FOR UPDATE;
        RETURN;
    END IF;
    PERFORM FROM unnest(kinds) AS n (kind)
        WHERE n.kind NOT IN ('refused', 'exported', 'delivered', 'started', 'stopped', 'hsm', 'clock', 'acknowledged');
    IF FOUND THEN
        RAISE insufficient_privilege USING MESSAGE = 'entries of this kind are written with their rows';
    END IF;
    PERFORM public.log_append(kinds, events);
END
$$;
COMMENT ON FUNCTION log_note(text[], text[]) IS 'Appends events that have no row of their own: refusals, exports, starts and stops, states of HSM and clock.';

------------------------------------------------------------------------------------------------
-- Certificates. One statement for the service: lock, number, store, close.

CREATE FUNCTION record_certificates(ids uuid[], ders bytea[], fingerprints bytea[], events text[])
RETURNS TABLE (recorded_id uuid, place bigint, recorded timestamptz)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head record;
BEGIN
    IF coalesce(cardinality(ids), 0) = 0 THEN
        -- Whether it could be done, asked again and again: a log that is halted is no fault here.
        PERFORM FROM public.log_head FOR UPDATE;
        RETURN;
    END IF;
    -- A statement of its own: the next one's snapshot is taken under the lock, and sees what the
    -- earlier holder committed.
    SELECT * INTO STRICT head FROM public.log_open();
    RETURN QUERY
    WITH fresh AS (
        SELECT b.intent_id, b.der, b.fingerprint, b.event,
               head.next + row_number() OVER (ORDER BY b.ordinal) - 1 AS log_index
        FROM unnest(ids, ders, fingerprints, events) WITH ORDINALITY
             AS b (intent_id, der, fingerprint, event, ordinal)
        WHERE (SELECT true FROM public.outcome o WHERE o.intent_id = b.intent_id) IS NULL
    ), entry AS (
        INSERT INTO public.log_entry (log_index, leaf)
        SELECT f.log_index,
               public.log_leaf(f.log_index, head.at, 'issued', f.event) || '\x0a'::bytea || f.der
        FROM fresh f
    ), stored AS (
        INSERT INTO public.outcome AS o (intent_id, der, fingerprint, log_index, recorded_at)
        SELECT f.intent_id, f.der, f.fingerprint, f.log_index, head.at FROM fresh f
        RETURNING o.intent_id, o.log_index
    ), closed AS (
        DELETE FROM public.open_intent i WHERE i.intent_id = ANY(ids)
    ), moved AS (
        UPDATE public.log_head SET size = head.next + (SELECT count(*) FROM fresh), at = head.at
        WHERE EXISTS (SELECT FROM fresh)
    )
    SELECT s.intent_id, s.log_index, head.at FROM stored s;
END
$$;
COMMENT ON FUNCTION record_certificates(uuid[], bytea[], bytea[], text[]) IS 'Records the certificates of those intents that have no outcome yet, and appends their entries. Answers with what it recorded.';

-- As before, with an entry. The order's row is locked before the log's head, like everywhere else.
CREATE OR REPLACE FUNCTION abandon_intent(abandoned uuid, reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    head record;
BEGIN
    PERFORM FROM public.work_order o
        WHERE o.name = (SELECT i.work_order FROM public.intent i WHERE i.intent_id = abandon_intent.abandoned)
        FOR NO KEY UPDATE;
    SELECT * INTO STRICT head FROM public.log_open();
    INSERT INTO public.outcome (intent_id, abandon_reason, recorded_at)
        SELECT i.intent_id, reason, head.at FROM public.intent i WHERE i.intent_id = abandon_intent.abandoned
        ON CONFLICT (intent_id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM public.log_append('abandoned', (
        SELECT json_build_object('intent', i.intent_id, 'serial_number', encode(i.serial_number, 'hex'),
            'issuer', i.issuer, 'profile', i.profile, 'device', i.device, 'station', i.principal,
            'order', i.work_order, 'tbs_sha256', encode(sha256(i.tbs), 'hex'), 'reason', reason)
        FROM public.intent i WHERE i.intent_id = abandon_intent.abandoned));
    UPDATE public.work_order o
        SET abandoned = o.abandoned + (i.supersedes IS NULL)::int,
            reworked = o.reworked - (i.supersedes IS NOT NULL)::int
        FROM public.intent i
        WHERE i.intent_id = abandon_intent.abandoned AND o.name = i.work_order;
    UPDATE public.claim SET live = false WHERE intent_id = abandon_intent.abandoned;
    DELETE FROM public.open_intent WHERE intent_id = abandon_intent.abandoned;
    RETURN true;
END
$$;

------------------------------------------------------------------------------------------------
-- Everything else that has rows. A trigger's name begins with z: it fires after those that lock
-- other rows, so that the log's head is locked last and for the shortest time.

CREATE FUNCTION log_actor() RETURNS text
LANGUAGE sql STABLE
AS $$
    SELECT coalesce(nullif(current_setting('certfactory.actor', true), ''), 'command')
$$;
COMMENT ON FUNCTION log_actor() IS 'Who this transaction acts for, where its rows do not say: the service sets it; a command line does not.';

CREATE FUNCTION log_life() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kinds  text[];
    events text[];
BEGIN
    SELECT array_agg(a.kind ORDER BY a.at, a.kind <> 'confirmed'),
           array_agg(json_build_object(
                'serial_number', encode((SELECT c.serial_number FROM public.claim c WHERE c.intent_id = a.intent_id), 'hex'),
                'device', (SELECT c.device FROM public.claim c WHERE c.intent_id = a.intent_id),
                'issuer', a.issuer, 'by', a.principal, 'reason', a.reason, 'reason_code', a.reason_code,
                'crl_shard', a.crl_shard, 'at', a.at)::text ORDER BY a.at, a.kind <> 'confirmed')
        INTO kinds, events FROM added a;
    PERFORM public.log_append(kinds, events);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION log_life() IS 'Entries for what happened to certificates: confirmed, superseded, revoked, scrapped.';
CREATE TRIGGER z_log AFTER INSERT ON life_event
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION log_life();

CREATE FUNCTION log_order() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM public.log_append('order-created', json_build_object(
            'order', NEW.name, 'profile', NEW.profile, 'quantity', NEW.quantity,
            'scrap_allowance', NEW.scrap_allowance, 'reworks_max', NEW.reworks_max,
            'device_first', NEW.device_first, 'device_last', NEW.device_last,
            'device_pattern', NEW.device_pattern, 'stations', NEW.stations,
            'opens_at', NEW.opens_at, 'closes_at', NEW.closes_at, 'by', NEW.created_by));
    ELSIF NEW.closed_at IS DISTINCT FROM OLD.closed_at THEN
        PERFORM public.log_append('order-closed', json_build_object(
            'order', NEW.name, 'by', NEW.closed_by));
    ELSIF NEW.device_count IS DISTINCT FROM OLD.device_count THEN
        PERFORM public.log_append('order-devices', json_build_object(
            'order', NEW.name, 'device_count', NEW.device_count,
            'device_list_sha256', encode(NEW.device_list_sha256, 'hex')));
    ELSIF (NEW.quantity, NEW.scrap_allowance, NEW.reworks_max, NEW.profile, NEW.stations)
          IS DISTINCT FROM (OLD.quantity, OLD.scrap_allowance, OLD.reworks_max, OLD.profile, OLD.stations) THEN
        PERFORM public.log_append('order-changed', json_build_object(
            'order', NEW.name, 'profile', NEW.profile, 'quantity', NEW.quantity,
            'scrap_allowance', NEW.scrap_allowance, 'reworks_max', NEW.reworks_max,
            'stations', NEW.stations, 'by', public.log_actor()));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION log_order() IS 'Entries for work orders: order-created, order-closed, order-devices, and order-changed for what no route does.';
CREATE TRIGGER z_log AFTER INSERT ON work_order FOR EACH ROW EXECUTE FUNCTION log_order();
CREATE TRIGGER z_log_change AFTER UPDATE OF closed_at, device_count, quantity, scrap_allowance, reworks_max, profile, stations
    ON work_order FOR EACH ROW EXECUTE FUNCTION log_order();

CREATE FUNCTION log_order_paper() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_TABLE_NAME = 'order_ticket' THEN
        PERFORM public.log_append('ticket-redeemed', json_build_object(
            'order', NEW.work_order, 'jti', NEW.jti, 'kid', NEW.kid, 'iss', NEW.iss,
            'sha256', encode(NEW.sha256, 'hex')));
    ELSE
        PERFORM public.log_append('order-reported', json_build_object(
            'order', NEW.work_order,
            'report_sha256', encode(sha256(convert_to(NEW.report, 'UTF8')), 'hex')));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION log_order_paper() IS 'Entries for tickets and closing reports: ticket-redeemed, order-reported.';
CREATE TRIGGER z_log AFTER INSERT ON order_ticket FOR EACH ROW EXECUTE FUNCTION log_order_paper();
CREATE TRIGGER z_log AFTER INSERT ON order_report FOR EACH ROW EXECUTE FUNCTION log_order_paper();

CREATE FUNCTION log_principal() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    what text;
BEGIN
    what := CASE
        WHEN TG_OP = 'INSERT' THEN 'principal-added'
        WHEN NEW.disabled AND NOT OLD.disabled THEN 'principal-disabled'
        WHEN OLD.disabled AND NOT NEW.disabled THEN 'principal-enabled'
        WHEN (NEW.rights, NEW.role) IS DISTINCT FROM (OLD.rights, OLD.role) THEN 'principal-rights' END;
    IF what IS NOT NULL THEN
        PERFORM public.log_append(what, json_build_object(
            'principal', NEW.name, 'role', NEW.role, 'rights', NEW.rights, 'disabled', NEW.disabled,
            'by', coalesce(CASE TG_OP WHEN 'INSERT' THEN NEW.created_by END, public.log_actor())));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION log_principal() IS 'Entries for stations and people: principal-added, -rights, -disabled, -enabled.';
CREATE TRIGGER z_log AFTER INSERT OR UPDATE ON principal FOR EACH ROW EXECUTE FUNCTION log_principal();

CREATE FUNCTION log_principal_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM public.log_append(CASE TG_OP WHEN 'INSERT' THEN 'key-added' ELSE 'key-retired' END, json_build_object('principal', NEW.name, 'spki_sha256', encode(NEW.spki_sha256, 'hex'),
            'dies_at', NEW.dies_at, 'by', public.log_actor()));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION log_principal_key() IS 'Entries for the keys of stations and people: key-added, key-retired.';
CREATE TRIGGER z_log AFTER INSERT ON principal_key FOR EACH ROW EXECUTE FUNCTION log_principal_key();
CREATE TRIGGER z_log_change AFTER UPDATE OF dies_at ON principal_key
    FOR EACH ROW WHEN (NEW.dies_at IS DISTINCT FROM OLD.dies_at) EXECUTE FUNCTION log_principal_key();

CREATE FUNCTION log_approval() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_TABLE_NAME = 'enrolment' THEN
        PERFORM public.log_append('enrolment-code', json_build_object(
            'principal', NEW.name, 'by', NEW.created_by, 'expires_at', NEW.expires_at));
    ELSIF TG_OP = 'INSERT' THEN
        PERFORM public.log_append('proposed', json_build_object(
            'proposal', NEW.proposal_id, 'act', NEW.act, 'by', NEW.proposed_by));
    ELSE
        PERFORM public.log_append('approved', json_build_object(
            'proposal', NEW.proposal_id, 'by', NEW.approved_by));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION log_approval() IS 'Entries for enrolment codes and for what needs two people: enrolment-code, proposed, approved.';
CREATE TRIGGER z_log AFTER INSERT ON enrolment FOR EACH ROW EXECUTE FUNCTION log_approval();
CREATE TRIGGER z_log AFTER INSERT ON proposal FOR EACH ROW EXECUTE FUNCTION log_approval();
CREATE TRIGGER z_log_change AFTER UPDATE OF approved_by ON proposal FOR EACH ROW EXECUTE FUNCTION log_approval();

CREATE FUNCTION log_crl() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM public.log_append('crl', json_build_object(
        'issuer', NEW.issuer, 'shard', nullif(NEW.shard, -1), 'crl_number', NEW.crl_number,
        'this_update', NEW.this_update, 'next_update', NEW.next_update, 'entries', NEW.entries,
        'sha256', encode(sha256(NEW.der), 'hex')));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION log_crl() IS 'Entries for CRLs: crl.';
CREATE TRIGGER z_log AFTER INSERT ON crl FOR EACH ROW EXECUTE FUNCTION log_crl();

-- A number that was published once is not given again, also when the CRL itself was lost with a
-- restored database: its entry in the log is not.
CREATE TABLE crl_floor (
    issuer     text     NOT NULL,
    shard      smallint NOT NULL,
    crl_number bigint   NOT NULL,
    PRIMARY KEY (issuer, shard)
);
COMMENT ON TABLE  crl_floor            IS 'Highest numbers of CRLs that were lost with a restored database.';
COMMENT ON COLUMN crl_floor.issuer     IS 'Name of the issuer.';
COMMENT ON COLUMN crl_floor.shard      IS 'As in crl.';
COMMENT ON COLUMN crl_floor.crl_number IS 'The next CRL has the number after it.';

CREATE OR REPLACE FUNCTION crl_succeed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    newest public.crl;
    before bigint;
BEGIN
    SELECT * INTO newest FROM public.crl c
        WHERE c.issuer = NEW.issuer AND c.shard = NEW.shard ORDER BY c.crl_number DESC LIMIT 1;
    before := greatest(coalesce(newest.crl_number, 0), coalesce(
        (SELECT f.crl_number FROM public.crl_floor f WHERE f.issuer = NEW.issuer AND f.shard = NEW.shard), 0));
    IF NEW.crl_number <= before THEN
        RETURN NULL;
    END IF;
    IF NEW.crl_number <> before + 1 THEN
        RAISE integrity_constraint_violation USING MESSAGE = 'a CRL number was left out';
    END IF;
    IF NEW.entries < newest.entries OR NEW.this_update < newest.this_update THEN
        RAISE integrity_constraint_violation USING MESSAGE = 'a CRL is older than the one before it';
    END IF;
    DELETE FROM public.crl c
        WHERE c.issuer = NEW.issuer AND c.shard = NEW.shard AND c.crl_number <= NEW.crl_number - 10;
    RETURN NEW;
END
$$;

CREATE FUNCTION log_batch() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM public.log_append('batch-created', json_build_object(
            'batch', NEW.batch_id, 'by', NEW.created_by,
            'definition_sha256', encode(sha256(convert_to(NEW.definition::text, 'UTF8')), 'hex')));
        RETURN NULL;
    END IF;
    IF NEW.package_sha256 IS DISTINCT FROM OLD.package_sha256 THEN
        PERFORM public.log_append('package-closed', json_build_object(
            'batch', NEW.batch_id, 'length', NEW.package_length,
            'sha256', encode(NEW.package_sha256, 'hex')));
    END IF;
    IF NEW.state IS DISTINCT FROM OLD.state AND NEW.state IN ('done', 'cancelled') THEN
        PERFORM public.log_append('batch-ended', json_build_object(
            'batch', NEW.batch_id, 'state', NEW.state, 'device_count', NEW.device_count,
            'reason', NEW.reason));
    END IF;
    IF NEW.keys_destroyed_at IS DISTINCT FROM OLD.keys_destroyed_at THEN
        PERFORM public.log_append('keys-destroyed', json_build_object(
            'batch', NEW.batch_id, 'by', NEW.keys_destroyed_by));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION log_batch() IS 'Entries for batches: batch-created, package-closed, batch-ended, keys-destroyed.';
CREATE TRIGGER z_log AFTER INSERT ON batch FOR EACH ROW EXECUTE FUNCTION log_batch();
CREATE TRIGGER z_log_change AFTER UPDATE OF state, package_sha256, keys_destroyed_at ON batch
    FOR EACH ROW EXECUTE FUNCTION log_batch();

CREATE FUNCTION log_chunk() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM public.log_append('keys-made', json_build_object(
        'batch', NEW.batch_id, 'chunk', NEW.number, 'first_row', NEW.first_row, 'keys', NEW.row_count,
        'public_keys_sha256', encode(sha256((SELECT string_agg(sha256(k.spki), ''::bytea ORDER BY k.ordinal)
            FROM unnest(NEW.public_keys) WITH ORDINALITY AS k (spki, ordinal))), 'hex')));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION log_chunk() IS 'Entries for device keys made here, a chunk each: keys-made.';
CREATE TRIGGER z_log AFTER UPDATE OF begun_at ON batch_chunk
    FOR EACH ROW WHEN (OLD.begun_at IS NULL AND NEW.envelopes IS NOT NULL) EXECUTE FUNCTION log_chunk();

------------------------------------------------------------------------------------------------
-- The tree over it: tiles (C2SP tlog-tiles) and signed checkpoints (C2SP tlog-checkpoint).

CREATE TABLE log_tile (
    level      smallint NOT NULL CHECK (level BETWEEN 0 AND 7),
    tile_index bigint   NOT NULL CHECK (tile_index >= 0),
    hashes     bytea    NOT NULL CHECK (octet_length(hashes) BETWEEN 32 AND 8192 AND octet_length(hashes) % 32 = 0),
    PRIMARY KEY (level, tile_index)
);
ALTER TABLE log_tile ALTER hashes SET STORAGE EXTERNAL;
COMMENT ON TABLE  log_tile            IS 'Tiles of the Merkle tree. A tile only grows, until it holds 256 hashes.';
COMMENT ON COLUMN log_tile.level      IS 'Level: at 0 hashes of leaves, above it hashes of whole tiles of the level below.';
COMMENT ON COLUMN log_tile.tile_index IS 'Place within the level, from 0.';
COMMENT ON COLUMN log_tile.hashes     IS 'Its hashes, 32 octets each, 1 to 256.';

CREATE FUNCTION log_tile_grows() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF substring(OLD.hashes FOR octet_length(NEW.hashes)) = NEW.hashes THEN
        -- A slower replica's, of an earlier size.
        RETURN NULL;
    END IF;
    IF substring(NEW.hashes FOR octet_length(OLD.hashes)) <> OLD.hashes THEN
        RAISE integrity_constraint_violation USING MESSAGE = 'a tile of the log only grows';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION log_tile_grows() IS 'Refuses to change a hash of a tile, or to take one away.';
CREATE TRIGGER log_tile_grows BEFORE UPDATE ON log_tile FOR EACH ROW EXECUTE FUNCTION log_tile_grows();

CREATE TABLE checkpoint (
    size       bigint      PRIMARY KEY CHECK (size > 0),
    root       bytea       NOT NULL CHECK (octet_length(root) = 32),
    note       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE  checkpoint            IS 'Signed checkpoints of the log: the newest hundred, and the last of each hour before. A size has one root, for ever.';
COMMENT ON COLUMN checkpoint.size       IS 'Entries of the tree.';
COMMENT ON COLUMN checkpoint.root       IS 'Its root hash.';
COMMENT ON COLUMN checkpoint.note       IS 'The signed note (C2SP signed-note): checkpoint and the log''s signature.';
COMMENT ON COLUMN checkpoint.created_at IS 'Database time.';

CREATE TABLE cosignature (
    size     bigint      NOT NULL,
    witness  text        NOT NULL,
    line     text        NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (witness, size)
);
COMMENT ON TABLE  cosignature         IS 'What witnesses outside the building co-signed (C2SP tlog-cosignature): of each its newest hundred.';
COMMENT ON COLUMN cosignature.size    IS 'Size of the checkpoint.';
COMMENT ON COLUMN cosignature.witness IS 'The witness''s name.';
COMMENT ON COLUMN cosignature.line    IS 'Its signature line.';
COMMENT ON COLUMN cosignature.at      IS 'Database time at which it was received.';

CREATE FUNCTION store_checkpoint(new_size bigint, new_root bytea, new_note text,
                                 levels smallint[], indexes bigint[], tiles bytea[]) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    other bytea;
BEGIN
    INSERT INTO public.log_tile AS t (level, tile_index, hashes)
        SELECT n.level, n.tile_index, n.hashes
        FROM unnest(levels, indexes, tiles) AS n (level, tile_index, hashes)
        ORDER BY n.level, n.tile_index
        ON CONFLICT (level, tile_index) DO UPDATE SET hashes = EXCLUDED.hashes;
    IF new_note IS NULL THEN
        RETURN true;
    END IF;
    PERFORM FROM public.log_head h WHERE h.size < new_size;
    IF FOUND THEN
        RAISE integrity_constraint_violation USING MESSAGE = 'a checkpoint of more entries than the log has';
    END IF;
    PERFORM FROM public.checkpoint c WHERE c.size > new_size;
    IF FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO public.checkpoint (size, root, note) VALUES (new_size, new_root, new_note)
        ON CONFLICT (size) DO NOTHING;
    IF NOT FOUND THEN
        SELECT c.root INTO STRICT other FROM public.checkpoint c WHERE c.size = new_size;
        IF other <> new_root THEN
            RAISE integrity_constraint_violation USING MESSAGE = 'another root is known for a log of this size';
        END IF;
        RETURN false;
    END IF;
    -- The last of each hour stays; of the last hundred all.
    DELETE FROM public.checkpoint c
        WHERE c.size = (SELECT p.size FROM public.checkpoint p ORDER BY p.size DESC OFFSET 100 LIMIT 1)
          AND date_trunc('hour', c.created_at) = (
              SELECT date_trunc('hour', n.created_at) FROM public.checkpoint n
              WHERE n.size > c.size ORDER BY n.size LIMIT 1);
    RETURN true;
END
$$;
COMMENT ON FUNCTION store_checkpoint(bigint, bytea, text, smallint[], bigint[], bytea[]) IS 'Stores tiles and, where there is a note, a checkpoint that is larger than all others: the compare-and-swap of whoever signs. False when another was faster. A second root for one size is an error.';

CREATE FUNCTION store_cosignature(of_size bigint, of_witness text, new_line text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO public.cosignature AS c (size, witness, line) VALUES (of_size, of_witness, new_line)
        ON CONFLICT (witness, size) DO UPDATE SET line = EXCLUDED.line, at = EXCLUDED.at;
    DELETE FROM public.cosignature c
        WHERE c.witness = of_witness
          AND c.size <= (SELECT p.size FROM public.cosignature p WHERE p.witness = of_witness
                         ORDER BY p.size DESC OFFSET 100 LIMIT 1);
END
$$;
COMMENT ON FUNCTION store_cosignature(bigint, text, text) IS 'Keeps a witness''s signature line.';

------------------------------------------------------------------------------------------------
-- What was there before the log: certificates at their places, then the rest as it stands.

INSERT INTO log_entry (log_index, leaf)
    SELECT o.log_index, log_leaf(o.log_index, o.recorded_at, 'issued', json_build_object(
            'intent', i.intent_id, 'kind', i.kind, 'serial_number', encode(i.serial_number, 'hex'),
            'issuer', i.issuer, 'profile', i.profile, 'profile_sha256', encode(i.profile_sha256, 'hex'),
            'device', i.device, 'slot', i.slot, 'thing_name', i.thing_name,
            'spki_sha256', encode(i.spki_sha256, 'hex'), 'key_origin', i.key_origin,
            'station', i.principal, 'order', i.work_order,
            'request_sha256', encode(i.request_sha256, 'hex'),
            'idempotency_key_sha256', encode(sha256(convert_to(i.idempotency_key, 'UTF8')), 'hex'),
            'supersedes', encode((SELECT c.serial_number FROM claim c WHERE c.intent_id = i.supersedes), 'hex'),
            'generation', i.generation, 'rework_reason', i.rework_reason)::text) || '\x0a'::bytea || o.der
    FROM outcome o JOIN intent i ON i.intent_id = o.intent_id WHERE o.der IS NOT NULL;
UPDATE log_head SET at = coalesce((SELECT max(recorded_at) FROM outcome), '-infinity');

DO $$
BEGIN
    PERFORM log_append(array_agg('order-created'::text), array_agg(json_build_object(
            'order', w.name, 'profile', w.profile, 'quantity', w.quantity,
            'scrap_allowance', w.scrap_allowance, 'reworks_max', w.reworks_max,
            'device_first', w.device_first, 'device_last', w.device_last,
            'device_pattern', w.device_pattern, 'stations', w.stations,
            'opens_at', w.opens_at, 'closes_at', w.closes_at, 'by', w.created_by)::text ORDER BY w.name))
        FROM work_order w;
    PERFORM log_append(array_agg(e.kind ORDER BY e.at, e.kind <> 'confirmed'), array_agg(json_build_object(
            'serial_number', encode(c.serial_number, 'hex'), 'device', c.device, 'issuer', e.issuer,
            'by', e.principal, 'reason', e.reason, 'reason_code', e.reason_code,
            'crl_shard', e.crl_shard, 'at', e.at)::text ORDER BY e.at, e.kind <> 'confirmed'))
        FROM life_event e JOIN claim c ON c.intent_id = e.intent_id;
END
$$;

------------------------------------------------------------------------------------------------
-- Rights: the service appends by the functions above and by no other way.

REVOKE INSERT ON outcome FROM certfactory_service;
REVOKE INSERT (intent_id, der, fingerprint, log_index) ON outcome FROM certfactory_service;
REVOKE UPDATE (size) ON log_head FROM certfactory_service;
REVOKE ALL ON FUNCTION log_open(), log_leaf(bigint, timestamptz, text, text), log_append(text[], text[]), log_append(text, json),
    log_halt(text), log_note(text[], text[]), record_certificates(uuid[], bytea[], bytea[], text[]),
    log_actor(), log_life(), log_order(), log_order_paper(), log_principal(), log_principal_key(),
    log_approval(), log_crl(), log_batch(), log_chunk(), log_tile_grows(),
    store_checkpoint(bigint, bytea, text, smallint[], bigint[], bytea[]), store_cosignature(bigint, text, text)
    FROM PUBLIC;
GRANT SELECT ON log_entry, log_tile, checkpoint, cosignature, crl_floor TO certfactory_service;
GRANT EXECUTE ON FUNCTION log_halt(text), log_note(text[], text[]),
    record_certificates(uuid[], bytea[], bytea[], text[]),
    store_checkpoint(bigint, bytea, text, smallint[], bigint[], bytea[]), store_cosignature(bigint, text, text)
    TO certfactory_service;
