-- Work orders by ticket, device patterns and device lists; an order counts what was issued under
-- its name before it was created.

------------------------------------------------------------------------------------------------
-- Tickets. The row of a ticket and the order it brought are one transaction; each ticket, and each
-- order, is there once.

CREATE TABLE order_ticket (
    jti        text        PRIMARY KEY CHECK (jti ~ '^[!-~]{1,64}$'),
    work_order text        NOT NULL UNIQUE REFERENCES work_order,
    kid        text        NOT NULL,
    iss        text        NOT NULL,
    issued_at  timestamptz NOT NULL,
    sha256     bytea       NOT NULL,
    ticket     bytea       NOT NULL CHECK (octet_length(ticket) <= 65536),
    CONSTRAINT order_ticket_sha256 CHECK (sha256 = sha256(ticket))
);
COMMENT ON TABLE  order_ticket            IS 'Tickets that brought work orders: signed at head office, each used once. Never changed, never deleted.';
COMMENT ON COLUMN order_ticket.jti        IS 'The ticket''s own number, claim jti.';
COMMENT ON COLUMN order_ticket.work_order IS 'The order it brought.';
COMMENT ON COLUMN order_ticket.kid        IS 'Name of the key that verified it.';
COMMENT ON COLUMN order_ticket.iss        IS 'Who made it, claim iss.';
COMMENT ON COLUMN order_ticket.issued_at  IS 'When it was made, claim iat: the time of who made it.';
COMMENT ON COLUMN order_ticket.sha256     IS 'SHA-256 over the ticket.';
COMMENT ON COLUMN order_ticket.ticket     IS 'The whole ticket as it came: a JWS in compact serialization, ASCII.';

------------------------------------------------------------------------------------------------
-- Which devices: a pattern, and a list. A list is given whole, once, before the first device.

ALTER TABLE work_order
    ADD COLUMN device_pattern     text   CHECK (length(device_pattern) BETWEEN 1 AND 256),
    ADD COLUMN device_count       bigint CHECK (device_count > 0),
    ADD COLUMN device_list_sha256 bytea  CHECK (octet_length(device_list_sha256) = 32),
    ADD CONSTRAINT work_order_device_list CHECK ((device_count IS NULL) = (device_list_sha256 IS NULL));
COMMENT ON COLUMN work_order.device_pattern     IS 'What a device identity looks like, a character each: # digit, @ letter, ? any, \ the next one itself; null: anything.';
COMMENT ON COLUMN work_order.device_count       IS 'Identities on its device list; null while it has none.';
COMMENT ON COLUMN work_order.device_list_sha256 IS 'SHA-256 over the list: its identities in the order of their octets, a line feed after each.';

CREATE TABLE order_device (
    work_order text NOT NULL,
    device     text NOT NULL CHECK (octet_length(device) BETWEEN 1 AND 128),
    PRIMARY KEY (work_order, device)
);
COMMENT ON TABLE  order_device            IS 'Device lists of work orders. In force from the moment that the order has a device_count; never changed.';
COMMENT ON COLUMN order_device.work_order IS 'The order.';
COMMENT ON COLUMN order_device.device     IS 'A device identity that may be certified under it.';

CREATE FUNCTION order_device_admit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM (SELECT DISTINCT work_order FROM added) a
        WHERE (SELECT true FROM public.work_order o
               WHERE o.name = a.work_order AND o.device_count IS NULL AND o.reserved = 0) IS NULL;
    IF FOUND THEN
        RAISE integrity_constraint_violation USING MESSAGE = 'the work order takes no device list any more';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION order_device_admit() IS 'Refuses identities for an order that has its list or its first device.';
CREATE TRIGGER order_device_admit AFTER INSERT ON order_device
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION order_device_admit();

CREATE FUNCTION work_order_list_once() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE integrity_constraint_violation USING MESSAGE = 'a device list is given once, before the first device';
END
$$;
COMMENT ON FUNCTION work_order_list_once() IS 'Refuses a second device list, and one that comes after the first device.';
CREATE TRIGGER work_order_list_once BEFORE UPDATE OF device_count, device_list_sha256 ON work_order
    FOR EACH ROW WHEN (OLD.device_count IS NOT NULL OR OLD.reserved > 0) EXECUTE FUNCTION work_order_list_once();

-- As before, and a device of an order with a list must be on it. An order without one pays nothing.
-- The look-up is a sub-select, which no join method can turn into a scan of the list.
CREATE OR REPLACE FUNCTION work_order_reserve() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named   bigint := (SELECT count(DISTINCT work_order) FROM added);
    counted bigint;
    listed  boolean;
BEGIN
    IF named > 0 THEN
        WITH changed AS (
            UPDATE public.work_order o
            SET reserved = o.reserved + n.firsts, reworked = o.reworked + n.reworks
            FROM (SELECT work_order, count(*) FILTER (WHERE supersedes IS NULL) AS firsts,
                         count(*) FILTER (WHERE supersedes IS NOT NULL) AS reworks
                  FROM added WHERE work_order IS NOT NULL GROUP BY work_order) n
            WHERE o.name = n.work_order
            RETURNING o.device_count IS NOT NULL AS has_list)
        SELECT count(*), coalesce(bool_or(has_list), false) INTO counted, listed FROM changed;
        IF counted <> named THEN
            RAISE foreign_key_violation USING MESSAGE = 'an intent names a work order that does not exist';
        END IF;
        IF listed THEN
            PERFORM FROM added a
                WHERE (SELECT true FROM public.work_order o
                       WHERE o.name = a.work_order AND o.device_count IS NOT NULL)
                  AND (SELECT true FROM public.order_device d
                       WHERE d.work_order = a.work_order AND d.device = a.device) IS NULL;
            IF FOUND THEN
                RAISE integrity_constraint_violation USING MESSAGE = 'a device is not on the list of its work order';
            END IF;
        END IF;
    END IF;
    RETURN NULL;
END
$$;

------------------------------------------------------------------------------------------------
-- Before there were work orders a request could name one all the same. Whoever creates an order of
-- such a name later starts with what was issued under it.

CREATE FUNCTION work_order_begin() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM public.intent i WHERE i.work_order = NEW.name LIMIT 1;
    IF NOT FOUND THEN
        RETURN NEW;
    END IF;
    -- No outcome is stored between the count and the order's own row.
    PERFORM FROM public.log_head FOR UPDATE;
    SELECT count(*) FILTER (WHERE first),
           count(*) FILTER (WHERE first AND abandon_reason IS NOT NULL),
           count(*) FILTER (WHERE NOT first AND abandon_reason IS NULL),
           count(*) FILTER (WHERE confirmed AND ended IS NULL),
           count(*) FILTER (WHERE ended = 'superseded'),
           count(*) FILTER (WHERE ended = 'revoked'),
           count(*) FILTER (WHERE ended = 'scrapped')
        INTO NEW.reserved, NEW.abandoned, NEW.reworked, NEW.confirmed, NEW.superseded, NEW.revoked, NEW.scrapped
        FROM (SELECT i.supersedes IS NULL AS first,
                     (SELECT o.abandon_reason FROM public.outcome o WHERE o.intent_id = i.intent_id LIMIT 1) AS abandon_reason,
                     (SELECT e.kind FROM public.life_event e
                      WHERE e.intent_id = i.intent_id AND e.kind <> 'confirmed'
                      ORDER BY e.kind <> 'scrapped' LIMIT 1) AS ended,
                     (SELECT true FROM public.life_event e
                      WHERE e.intent_id = i.intent_id AND e.kind = 'confirmed' LIMIT 1) AS confirmed
              FROM public.intent i WHERE i.work_order = NEW.name) i;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION work_order_begin() IS 'Counts what was issued under the name of a new work order before it was created.';
CREATE TRIGGER work_order_begin BEFORE INSERT ON work_order
    FOR EACH ROW EXECUTE FUNCTION work_order_begin();

REVOKE ALL ON FUNCTION order_device_admit(), work_order_list_once(), work_order_begin() FROM PUBLIC;
GRANT SELECT ON order_ticket, order_device TO certfactory_service;
GRANT INSERT (jti, work_order, kid, iss, issued_at, sha256, ticket) ON order_ticket TO certfactory_service;
GRANT INSERT (work_order, device) ON order_device TO certfactory_service;
GRANT INSERT (device_pattern) ON work_order TO certfactory_service;
GRANT UPDATE (device_count, device_list_sha256) ON work_order TO certfactory_service;

------------------------------------------------------------------------------------------------
-- The closing report, signed by the site's report key.

CREATE TABLE order_report (
    work_order text        PRIMARY KEY REFERENCES work_order,
    report     text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT statement_timestamp()
);
COMMENT ON TABLE  order_report            IS 'Reports of closed work orders: one each, the same for ever. Never changed, never deleted.';
COMMENT ON COLUMN order_report.work_order IS 'The order.';
COMMENT ON COLUMN order_report.report     IS 'A JWS in compact serialization, by the site''s report key.';
COMMENT ON COLUMN order_report.created_at IS 'Database time at which it was kept.';

CREATE FUNCTION order_report_admit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM public.work_order o WHERE o.name = NEW.work_order AND o.closed_at IS NOT NULL;
    IF NOT FOUND THEN
        RAISE integrity_constraint_violation USING MESSAGE = 'only a closed work order has a report';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION order_report_admit() IS 'Refuses the report of an order that is not closed.';
CREATE TRIGGER order_report_admit BEFORE INSERT ON order_report
    FOR EACH ROW EXECUTE FUNCTION order_report_admit();

REVOKE ALL ON FUNCTION order_report_admit() FROM PUBLIC;
GRANT SELECT, INSERT (work_order, report) ON order_report TO certfactory_service;
