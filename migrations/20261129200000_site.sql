-- The site: its name in every row that head office is given, and the publication by which it is given them.
--
-- Head office subscribes by PostgreSQL's logical replication. What is published is final, or counts; never
-- published are envelopes, device lists, idempotency keys, principals and what is only being worked on.

-- The role that head office's subscription reads with. A deployment makes a login role with REPLICATION a
-- member of it.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'certfactory_replication') THEN
        CREATE ROLE certfactory_replication NOLOGIN;
    END IF;
EXCEPTION
    -- A migration of another database of this cluster was faster.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

CREATE TABLE site (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id       text    NOT NULL CHECK (id ~ '^[!-~]{1,64}$')
);
COMMENT ON TABLE  site          IS 'Which site this database is of, for ever; no row while it has no name.';
COMMENT ON COLUMN site.only_row IS 'Keeps the table at one row.';
COMMENT ON COLUMN site.id       IS 'Its name, as in the configuration and in tickets.';

CREATE FUNCTION site_stays() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE integrity_constraint_violation USING MESSAGE = 'a database is of one site, for ever';
END
$$;
COMMENT ON FUNCTION site_stays() IS 'Refuses another name for the site.';
CREATE TRIGGER site_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON site EXECUTE FUNCTION site_stays();

------------------------------------------------------------------------------------------------
-- A row that changes every second, so that head office knows how late its copy is while nothing else happens.

CREATE TABLE heartbeat (
    only_row boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 10);
INSERT INTO heartbeat DEFAULT VALUES;
COMMENT ON TABLE  heartbeat          IS 'When the service last said that it runs, for head office.';
COMMENT ON COLUMN heartbeat.only_row IS 'Keeps the table at one row.';
COMMENT ON COLUMN heartbeat.at       IS 'Database time.';

CREATE FUNCTION heartbeat() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE public.heartbeat SET at = clock_timestamp()
$$;
COMMENT ON FUNCTION heartbeat() IS 'Says that the service runs.';

------------------------------------------------------------------------------------------------
-- The columns. A constant default is in the catalogue: no row is rewritten, and none can lack it.

CREATE FUNCTION published_tables() RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT ARRAY['intent', 'outcome', 'life_event', 'log_entry', 'work_order', 'order_ticket', 'order_report',
                 'checkpoint', 'heartbeat']
$$;
COMMENT ON FUNCTION published_tables() IS 'Tables whose rows bear the site''s name.';

CREATE FUNCTION site_columns(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    published text;
    part      regclass;
BEGIN
    FOREACH published IN ARRAY public.published_tables() LOOP
        EXECUTE format('ALTER TABLE public.%I DROP COLUMN IF EXISTS site, ADD COLUMN site text NOT NULL DEFAULT %L',
            published, name);
        FOR part IN SELECT t.relid FROM pg_partition_tree(format('public.%I', published)::regclass) t
                    UNION SELECT format('public.%I', published)::regclass LOOP
            EXECUTE format('COMMENT ON COLUMN %s.site IS %L', part, 'The site it is of; empty while it has no name.');
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION site_columns(text) IS 'Gives all rows, those to come too, the site''s name.';
SELECT site_columns('');

CREATE FUNCTION name_site(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known text := (SELECT s.id FROM public.site s);
BEGIN
    IF known = name THEN
        RETURN;
    END IF;
    IF known IS NOT NULL THEN
        RAISE integrity_constraint_violation
            USING MESSAGE = format('this database is of site %s, for ever; the configuration names %s', known, name);
    END IF;
    PERFORM public.site_columns(name);
    INSERT INTO public.site (id) VALUES (name);
END
$$;
COMMENT ON FUNCTION name_site(text) IS 'Names the site, once; the same name again does nothing.';

------------------------------------------------------------------------------------------------
-- The publication. Each table's columns are named: one that is added later is not given away by that. What
-- is taken out here (archived partitions, old checkpoints) stays at head office.

CREATE FUNCTION publish_site() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    columns constant jsonb := '{
        "intent": "intent_id, site, serial_number, kind, issuer, profile, profile_sha256, principal, request_sha256, work_order, device, slot, subject, thing_name, spki_sha256, key_origin, not_before, not_after, supersedes, generation, rework_reason, created_at",
        "outcome": "intent_id, site, der, fingerprint, log_index, abandon_reason, recorded_at",
        "life_event": "intent_id, kind, site, principal, reason, reason_code, issuer, crl_shard, at",
        "log_entry": "log_index, site, leaf",
        "work_order": "name, site, profile, quantity, device_first, device_last, device_pattern, device_count, device_list_sha256, stations, opens_at, closes_at, created_by, created_at, closed_by, closed_at, reserved, abandoned, scrap_allowance, reworks_max, reworked, confirmed, superseded, revoked, scrapped",
        "order_ticket": "jti, site, work_order, kid, iss, issued_at, sha256, ticket",
        "order_report": "work_order, site, report, created_at",
        "checkpoint": "size, site, root, note, created_at",
        "heartbeat": "only_row, site, at"}';
    published text;
    listed    text[] := '{}';
BEGIN
    FOREACH published IN ARRAY public.published_tables() LOOP
        EXECUTE format('GRANT SELECT (%s) ON public.%I TO certfactory_replication', columns ->> published, published);
        listed := listed || format('public.%I (%s)', published, columns ->> published);
    END LOOP;
    PERFORM FROM pg_publication p WHERE p.pubname = 'certfactory';
    IF NOT FOUND THEN
        EXECUTE format('CREATE PUBLICATION certfactory FOR TABLE %s WITH (publish = %L, publish_via_partition_root = true)',
            array_to_string(listed, ', '), 'insert, update');
    END IF;
END
$$;
COMMENT ON FUNCTION publish_site() IS 'Makes the publication that head office subscribes to, and lets its role read it.';

REVOKE ALL ON FUNCTION site_stays(), heartbeat(), published_tables(), site_columns(text), name_site(text), publish_site()
    FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO certfactory_replication;
GRANT SELECT ON site TO certfactory_replication;
GRANT SELECT ON site, heartbeat TO certfactory_service;
GRANT SELECT (site) ON intent, outcome, life_event, log_entry, work_order, order_ticket, order_report, checkpoint, heartbeat
    TO certfactory_service;
GRANT EXECUTE ON FUNCTION heartbeat() TO certfactory_service;
