-- Recording costs the database less, and the follower's readings with it.
--
-- A replica is told what others appended before its own entries, too: each of its certificates waits until
-- all that comes before is in its journal, and it had to ask for that in a transaction of its own.

-- A function in SQL is parsed and planned anew in each transaction that calls it from PL/pgSQL; one in
-- PL/pgSQL once in a session.
CREATE OR REPLACE FUNCTION uuid_floor(at timestamptz) RETURNS uuid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid;
END
$$;

CREATE FUNCTION record_certificates(ids uuid[], ders bytea[], fingerprints bytea[], events text[], unknown_from bigint)
RETURNS TABLE (recorded_id uuid, place bigint, recorded timestamptz, told bytea)
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
    -- Before the statements that write: their snapshots are taken under the lock, and see what the
    -- earlier holder committed.
    head := public.log_open();
    late := public.uuid_floor(head.at - interval '1 hour');
    -- What is told is sent while the head is locked, so it is little: of a follower that is far behind, and of a
    -- large entry, nothing. Those it reads by itself. Planned each time, with the numbers: a plan that is kept
    -- would lock all partitions, those too that are just made or brought back.
    IF unknown_from BETWEEN head.next - 64 AND head.next - 1 THEN
        RETURN QUERY EXECUTE
            'SELECT NULL::uuid, e.log_index, NULL::timestamptz, e.leaf FROM public.log_entry e
                WHERE e.log_index >= $1 AND e.log_index < $2 AND octet_length(e.leaf) <= 2048'
            USING unknown_from, head.next;
    END IF;
    RETURN QUERY
    WITH numbered AS (
        SELECT b.intent_id, b.der, b.fingerprint, b.event,
               head.next + row_number() OVER (ORDER BY b.ordinal) - 1 AS log_index
        FROM unnest(ids, ders, fingerprints, events) WITH ORDINALITY
             AS b (intent_id, der, fingerprint, event, ordinal)
        WHERE (SELECT true FROM public.open_intent o WHERE o.intent_id = b.intent_id)
    ), fresh AS MATERIALIZED (
        SELECT n.intent_id, n.der, n.fingerprint, n.log_index,
               public.log_leaf(n.log_index, head.at, 'issued', n.event) AS told
        FROM numbered n
    ), entry AS (
        INSERT INTO public.log_entry (log_index, leaf)
        SELECT f.log_index, f.told || '\x0a'::bytea || f.der FROM fresh f
    ), stored AS (
        INSERT INTO public.outcome (intent_id, der, fingerprint, log_index, recorded_at)
        SELECT f.intent_id, f.der, f.fingerprint, f.log_index, head.at FROM fresh f
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
    SELECT f.intent_id, f.log_index, head.at, f.told FROM fresh f;
END
$$;
COMMENT ON FUNCTION record_certificates(uuid[], bytea[], bytea[], text[], bigint) IS 'Records the certificates of those intents that have no outcome yet, and appends their entries. Answers with what it recorded, and what each entry says before the line feed and the DER; and, without a recorded_id, with the whole entries from unknown_from on that were there before.';
REVOKE ALL ON FUNCTION record_certificates(uuid[], bytea[], bytea[], text[], bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION record_certificates(uuid[], bytea[], bytea[], text[], bigint) TO certfactory_service;

-- As a program calls it that was there before.
CREATE OR REPLACE FUNCTION record_certificates(ids uuid[], ders bytea[], fingerprints bytea[], events text[])
RETURNS TABLE (recorded_id uuid, place bigint, recorded timestamptz, told bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT r.recorded_id, r.place, r.recorded, r.told
        FROM public.record_certificates(ids, ders, fingerprints, events, NULL) r;
END
$$;
