-- Work orders: how many devices may be certified, of which profile, by whom and until when.
--
-- The count is kept by the database beside the intents it counts, in their transaction, so it equals
-- the rows whatever wrote them; a CHECK keeps it within the quantity, whatever was asked.

CREATE TABLE work_order (
    name         text        PRIMARY KEY CHECK (name ~ '^[!-~]{1,64}$'),
    profile      text        NOT NULL,
    quantity     bigint      NOT NULL CHECK (quantity > 0),
    device_first text,
    device_last  text,
    stations     text[]      NOT NULL DEFAULT '{}',
    opens_at     timestamptz,
    closes_at    timestamptz,
    created_by   text        NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT statement_timestamp(),
    closed_by    text,
    closed_at    timestamptz,
    reserved     bigint      NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    abandoned    bigint      NOT NULL DEFAULT 0 CHECK (abandoned BETWEEN 0 AND reserved),
    CONSTRAINT work_order_quantity CHECK (reserved - abandoned <= quantity),
    CONSTRAINT work_order_range CHECK (
        (device_first IS NULL) = (device_last IS NULL)
        AND (device_first IS NULL OR (length(device_first) = length(device_last)
             AND device_first COLLATE "C" <= device_last COLLATE "C"))),
    CONSTRAINT work_order_opening CHECK (opens_at < closes_at),
    CONSTRAINT work_order_closing CHECK ((closed_by IS NULL) = (closed_at IS NULL))
)
-- Each batch of an order changes its row: keep the new versions on the same page, outside the index.
WITH (fillfactor = 20);

COMMENT ON TABLE  work_order              IS 'Work orders: how many devices may be certified, of which profile, by whom and until when.';
COMMENT ON COLUMN work_order.name         IS 'Unique name, 1 to 64 printable ASCII characters.';
COMMENT ON COLUMN work_order.profile      IS 'The one profile it is for, and with it the issuer.';
COMMENT ON COLUMN work_order.quantity     IS 'Certificates that may ever be live or on their way under it.';
COMMENT ON COLUMN work_order.device_first IS 'First device identity of its range, compared octet by octet; null: any device.';
COMMENT ON COLUMN work_order.device_last  IS 'Last device identity of its range, of the same length.';
COMMENT ON COLUMN work_order.stations     IS 'Names of the principals who may book on it; empty: every one who may issue.';
COMMENT ON COLUMN work_order.opens_at     IS 'Database time from which it may be booked on; null: at once.';
COMMENT ON COLUMN work_order.closes_at    IS 'Database time from which it may no longer; null: until it is closed.';
COMMENT ON COLUMN work_order.created_by   IS 'Name of the principal who created it.';
COMMENT ON COLUMN work_order.created_at   IS 'Database time of its creation.';
COMMENT ON COLUMN work_order.closed_by    IS 'Name of the principal who closed it; null while it is open.';
COMMENT ON COLUMN work_order.closed_at    IS 'Database time of its closing, which is for ever.';
COMMENT ON COLUMN work_order.reserved     IS 'Intents stored under it so far.';
COMMENT ON COLUMN work_order.abandoned    IS 'Those of them that ended without a certificate and gave their place back.';

-- Counts what a statement stored, as the owner: the service's role cannot set a count.
CREATE FUNCTION work_order_reserve() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named   bigint := (SELECT count(DISTINCT work_order) FROM added);
    counted bigint;
BEGIN
    IF named > 0 THEN
        UPDATE public.work_order o SET reserved = o.reserved + n.rows
        FROM (SELECT work_order, count(*) AS rows FROM added
              WHERE work_order IS NOT NULL GROUP BY work_order) n
        WHERE o.name = n.work_order;
        GET DIAGNOSTICS counted = ROW_COUNT;
        IF counted <> named THEN
            RAISE foreign_key_violation USING MESSAGE = 'an intent names a work order that does not exist';
        END IF;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION work_order_reserve() IS 'Adds the intents a statement stored to the counts of their work orders.';
CREATE TRIGGER work_order_reserve AFTER INSERT ON intent
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION work_order_reserve();

CREATE FUNCTION work_order_stays_closed() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE integrity_constraint_violation USING MESSAGE = 'a closed work order stays closed';
END
$$;
COMMENT ON FUNCTION work_order_stays_closed() IS 'Refuses to reopen a work order or to rewrite who closed it.';
CREATE TRIGGER work_order_stays_closed BEFORE UPDATE OF closed_at, closed_by ON work_order
    FOR EACH ROW WHEN (OLD.closed_at IS NOT NULL) EXECUTE FUNCTION work_order_stays_closed();

-- As before, and the place under the work order is free again. The order's row is locked before the
-- claim's: a reservation locks them in this sequence, too.
CREATE OR REPLACE FUNCTION abandon_intent(abandoned uuid, reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM public.log_head FOR UPDATE;
    INSERT INTO public.outcome (intent_id, abandon_reason)
        SELECT i.intent_id, reason FROM public.intent i WHERE i.intent_id = abandon_intent.abandoned
        ON CONFLICT (intent_id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE public.work_order o SET abandoned = o.abandoned + 1
        FROM public.intent i
        WHERE i.intent_id = abandon_intent.abandoned AND o.name = i.work_order;
    UPDATE public.claim SET live = false WHERE intent_id = abandon_intent.abandoned;
    DELETE FROM public.open_intent WHERE intent_id = abandon_intent.abandoned;
    RETURN true;
END
$$;

REVOKE ALL ON FUNCTION work_order_reserve(), work_order_stays_closed() FROM PUBLIC;
GRANT SELECT ON work_order TO certfactory_service;
GRANT INSERT (name, profile, quantity, device_first, device_last, stations, opens_at, closes_at, created_by)
    ON work_order TO certfactory_service;
GRANT UPDATE (closed_by, closed_at) ON work_order TO certfactory_service;
