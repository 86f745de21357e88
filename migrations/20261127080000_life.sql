-- A device's life after its certificate was issued: what happened to it, who did it and why; and
-- rework, the one way to a second certificate.

------------------------------------------------------------------------------------------------
-- Rework. The successor claims the certificate it replaces instead of the device, which the first
-- certificate holds for ever. So the certificates of a device are one chain, and each link of it
-- has at most one live successor.

ALTER TABLE claim ADD COLUMN supersedes uuid;
COMMENT ON COLUMN claim.supersedes IS 'The intent whose certificate this one is to replace; null for the first of a device.';

DROP INDEX claim_device;
CREATE UNIQUE INDEX claim_device    ON claim (device, slot) WHERE live AND supersedes IS NULL;
CREATE UNIQUE INDEX claim_successor ON claim (supersedes)   WHERE live AND supersedes IS NOT NULL;
CREATE INDEX claim_rework ON claim (device) WHERE live AND supersedes IS NOT NULL;

ALTER TABLE intent
    ADD COLUMN supersedes    uuid,
    ADD COLUMN generation    smallint NOT NULL DEFAULT 0 CHECK (generation >= 0),
    ADD COLUMN rework_reason text,
    ADD CONSTRAINT intent_rework CHECK (
        (supersedes IS NULL) = (generation = 0) AND (supersedes IS NULL) = (rework_reason IS NULL));
COMMENT ON COLUMN intent.supersedes    IS 'The intent whose certificate this one is to replace; null for the first of a device.';
COMMENT ON COLUMN intent.generation    IS 'How many certificates of the device came before it.';
COMMENT ON COLUMN intent.rework_reason IS 'Why the device was to have another certificate, in the words of who asked.';
CREATE INDEX intent_supersedes ON intent (supersedes) WHERE supersedes IS NOT NULL;
ANALYZE intent (supersedes, generation);

------------------------------------------------------------------------------------------------
-- Events. A certificate is confirmed at most once, and ends at most once: the keys are the
-- compare-and-swap, and the first event wins. A device may be scrapped all the same.

CREATE TABLE life_event (
    intent_id   uuid        NOT NULL REFERENCES outcome,
    kind        text        NOT NULL CHECK (kind IN ('confirmed', 'superseded', 'revoked', 'scrapped')),
    principal   text        NOT NULL,
    reason      text,
    reason_code smallint    CHECK (reason_code BETWEEN 0 AND 10),
    issuer      text        NOT NULL,
    crl_shard   smallint    CHECK (crl_shard >= 0),
    at          timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (intent_id, kind),
    CONSTRAINT life_event_reason_code CHECK (
        CASE kind WHEN 'confirmed' THEN reason_code IS NULL
                  WHEN 'scrapped' THEN true ELSE reason_code IS NOT NULL END)
);
CREATE UNIQUE INDEX life_event_end ON life_event (intent_id) WHERE reason_code IS NOT NULL;
-- The few ended ones among the many confirmed, for who looks for them.
CREATE INDEX life_event_kind ON life_event (kind, intent_id) WHERE kind <> 'confirmed';
CREATE INDEX life_event_revocation ON life_event (issuer, crl_shard, at) WHERE reason_code IS NOT NULL;

COMMENT ON TABLE  life_event             IS 'What happened to an issued certificate. Never changed, never deleted. What has a reason code ended it, and is on the issuer''s CRL.';
COMMENT ON COLUMN life_event.intent_id   IS 'The certificate.';
COMMENT ON COLUMN life_event.kind        IS 'confirmed: read back from its device. superseded: its successor was confirmed. revoked. scrapped: the device does not exist any more.';
COMMENT ON COLUMN life_event.principal   IS 'Name of the principal who did it.';
COMMENT ON COLUMN life_event.reason      IS 'Why, in the words of who did it.';
COMMENT ON COLUMN life_event.reason_code IS 'CRLReason (RFC 5280 5.3.1) of an end; null for a confirmation, and for the scrapping of a device whose certificate had ended before.';
COMMENT ON COLUMN life_event.issuer      IS 'Name of its issuer, whose CRL lists an end.';
COMMENT ON COLUMN life_event.crl_shard   IS 'Which of the issuer''s CRLs lists it, as the certificate''s CRL distribution point says; null where the issuer has one.';
COMMENT ON COLUMN life_event.at          IS 'Database time.';

-- A device that was scrapped has no successor, and a certificate with a successor is not scrapped,
-- its successor is. Both sides lock the certificate's claim, so that neither overlooks the other.
-- What does not fit is left out, like a row that meets a taken key, and not an error.
CREATE FUNCTION claim_supersedes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM public.claim c WHERE c.intent_id = NEW.supersedes AND c.live
        AND c.device = NEW.device AND c.slot = NEW.slot FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    PERFORM FROM public.life_event e WHERE e.intent_id = NEW.supersedes AND e.kind = 'scrapped';
    IF FOUND THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION claim_supersedes() IS 'Leaves out the successor of another device''s certificate, or of a scrapped one.';
CREATE TRIGGER claim_supersedes BEFORE INSERT ON claim
    FOR EACH ROW WHEN (NEW.supersedes IS NOT NULL) EXECUTE FUNCTION claim_supersedes();

CREATE FUNCTION life_event_admit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    later uuid := NEW.intent_id;
BEGIN
    -- One event of a certificate at a time; what follows sees the ones before.
    PERFORM FROM public.claim c WHERE c.intent_id = NEW.intent_id FOR NO KEY UPDATE;
    NEW.at := clock_timestamp();
    IF NEW.kind = 'confirmed' THEN
        PERFORM FROM public.life_event e WHERE e.intent_id = NEW.intent_id AND e.kind <> 'confirmed';
        IF FOUND THEN
            RETURN NULL;
        END IF;
    ELSIF NEW.kind = 'scrapped' THEN
        PERFORM FROM public.claim c WHERE c.supersedes = NEW.intent_id AND c.live;
        IF FOUND THEN
            RETURN NULL;
        END IF;
        PERFORM FROM public.life_event e WHERE e.intent_id = NEW.intent_id AND e.reason_code IS NOT NULL;
        IF FOUND THEN
            NEW.reason_code := NULL;
        END IF;
    ELSIF NEW.kind = 'superseded' THEN
        LOOP
            SELECT c.intent_id INTO later FROM public.claim c WHERE c.supersedes = later AND c.live;
            IF NOT FOUND THEN
                RETURN NULL;
            END IF;
            PERFORM FROM public.life_event e
                WHERE e.intent_id = later AND e.kind IN ('confirmed', 'scrapped');
            EXIT WHEN FOUND;
        END LOOP;
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION life_event_admit() IS 'Leaves out the confirmation of a certificate that has ended, the scrapping by any but the newest of a device, and the superseding before a later one is confirmed or scrapped. Times are in the order of the events.';
CREATE TRIGGER life_event_admit BEFORE INSERT ON life_event
    FOR EACH ROW EXECUTE FUNCTION life_event_admit();

------------------------------------------------------------------------------------------------
-- A nonce that the device at the end of the line signs.

CREATE TABLE challenge (
    nonce      bytea       PRIMARY KEY CHECK (octet_length(nonce) = 32),
    intent_id  uuid        NOT NULL REFERENCES outcome,
    created_at timestamptz NOT NULL DEFAULT statement_timestamp()
);
CREATE INDEX challenge_created_at ON challenge (created_at);
COMMENT ON TABLE  challenge            IS 'Nonces given out for a device to sign; each is good for one certificate and a short time.';
COMMENT ON COLUMN challenge.nonce      IS '256 random bits.';
COMMENT ON COLUMN challenge.intent_id  IS 'The certificate whose key is to sign it.';
COMMENT ON COLUMN challenge.created_at IS 'Database time.';

------------------------------------------------------------------------------------------------
-- What became of an order's certificates, beside how many there are.

ALTER TABLE work_order
    ADD COLUMN scrap_allowance bigint NOT NULL DEFAULT 0 CHECK (scrap_allowance >= 0),
    ADD COLUMN reworks_max     bigint CHECK (reworks_max >= 0),
    ADD COLUMN reworked        bigint NOT NULL DEFAULT 0 CHECK (reworked >= 0),
    ADD COLUMN confirmed       bigint NOT NULL DEFAULT 0 CHECK (confirmed >= 0),
    ADD COLUMN superseded      bigint NOT NULL DEFAULT 0 CHECK (superseded >= 0),
    ADD COLUMN revoked         bigint NOT NULL DEFAULT 0 CHECK (revoked >= 0),
    ADD COLUMN scrapped        bigint NOT NULL DEFAULT 0 CHECK (scrapped >= 0),
    DROP CONSTRAINT work_order_quantity,
    ADD CONSTRAINT work_order_quantity CHECK (
        reserved - abandoned - least(scrapped, scrap_allowance) <= quantity),
    ADD CONSTRAINT work_order_reworks CHECK (reworked <= reworks_max);
COMMENT ON COLUMN work_order.quantity        IS 'Devices that may be certified under it, beside those that replace scrapped ones.';
COMMENT ON COLUMN work_order.reserved        IS 'Intents stored under it so far, reworks not among them.';
COMMENT ON COLUMN work_order.scrap_allowance IS 'Scrapped devices whose places may be given to others.';
COMMENT ON COLUMN work_order.reworks_max     IS 'Reworks it allows; null: those that the profile allows each device.';
COMMENT ON COLUMN work_order.reworked        IS 'Intents of reworks stored under it, those without a certificate for ever not among them.';
COMMENT ON COLUMN work_order.confirmed       IS 'Its certificates whose status is confirmed.';
COMMENT ON COLUMN work_order.superseded      IS 'Its certificates whose status is superseded.';
COMMENT ON COLUMN work_order.revoked         IS 'Its certificates whose status is revoked.';
COMMENT ON COLUMN work_order.scrapped        IS 'Its certificates whose status is scrapped.';

CREATE OR REPLACE FUNCTION work_order_reserve() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named   bigint := (SELECT count(DISTINCT work_order) FROM added);
    counted bigint;
BEGIN
    IF named > 0 THEN
        UPDATE public.work_order o
        SET reserved = o.reserved + n.firsts, reworked = o.reworked + n.reworks
        FROM (SELECT work_order, count(*) FILTER (WHERE supersedes IS NULL) AS firsts,
                     count(*) FILTER (WHERE supersedes IS NOT NULL) AS reworks
              FROM added WHERE work_order IS NOT NULL GROUP BY work_order) n
        WHERE o.name = n.work_order;
        GET DIAGNOSTICS counted = ROW_COUNT;
        IF counted <> named THEN
            RAISE foreign_key_violation USING MESSAGE = 'an intent names a work order that does not exist';
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- As before; the place that an abandoned rework took is free again, too.
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

-- Counts by status: an event takes the certificate out of the count of the status before it. Look-ups
-- are written as sub-selects, which no join method can turn into a scan of the ledger.
CREATE FUNCTION work_order_life() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE public.work_order o
    SET confirmed  = o.confirmed  + n.confirmed,
        superseded = o.superseded + n.superseded,
        revoked    = o.revoked    + n.revoked,
        scrapped   = o.scrapped   + n.scrapped
    FROM (
        SELECT work_order,
               sum((kind = 'confirmed')::int  - (before = 'confirmed')::int)  AS confirmed,
               sum((kind = 'superseded')::int - (before = 'superseded')::int) AS superseded,
               sum((kind = 'revoked')::int    - (before = 'revoked')::int)    AS revoked,
               sum((kind = 'scrapped')::int)                                  AS scrapped
        FROM (
            SELECT a.kind,
                   (SELECT i.work_order FROM public.intent i WHERE i.intent_id = a.intent_id) AS work_order,
                   coalesce((SELECT e.kind FROM public.life_event e
                             WHERE e.intent_id = a.intent_id AND e.kind <> a.kind AND a.kind <> 'confirmed'
                             ORDER BY e.kind = 'confirmed' LIMIT 1), '') AS before
            FROM added a OFFSET 0) each_one
        WHERE work_order IS NOT NULL GROUP BY work_order) n
    WHERE o.name = n.work_order;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION work_order_life() IS 'Adds the events a statement stored to the counts of their work orders.';
CREATE TRIGGER work_order_life AFTER INSERT ON life_event
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION work_order_life();

REVOKE ALL ON FUNCTION claim_supersedes(), life_event_admit(), work_order_life() FROM PUBLIC;
GRANT SELECT ON life_event, challenge TO certfactory_service;
GRANT INSERT (supersedes) ON claim TO certfactory_service;
GRANT INSERT (supersedes, generation, rework_reason) ON intent TO certfactory_service;
GRANT INSERT (intent_id, kind, principal, reason, reason_code, issuer, crl_shard)
    ON life_event TO certfactory_service;
GRANT INSERT (nonce, intent_id), DELETE ON challenge TO certfactory_service;
GRANT INSERT (scrap_allowance, reworks_max) ON work_order TO certfactory_service;
