-- Certificate revocation lists, stored before they are published.

CREATE TABLE crl (
    issuer      text        NOT NULL,
    shard       smallint    NOT NULL CHECK (shard >= -1),
    crl_number  bigint      NOT NULL CHECK (crl_number >= 1),
    this_update timestamptz NOT NULL,
    next_update timestamptz NOT NULL,
    entries     bigint      NOT NULL CHECK (entries >= 0),
    der         bytea       NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (issuer, shard, crl_number),
    CONSTRAINT crl_updates CHECK (this_update < next_update)
);
-- Serial numbers are random: there is nothing to compress.
ALTER TABLE crl ALTER der SET STORAGE EXTERNAL;

COMMENT ON TABLE  crl             IS 'The newest CRLs of each issuer and shard. The key is the compare-and-swap: one content a number, whoever makes it. What they listed before is in life_event for ever.';
COMMENT ON COLUMN crl.issuer      IS 'Name of the issuer that signed it.';
COMMENT ON COLUMN crl.shard       IS 'The part of the issuer''s certificates that it lists; -1: the complete CRL.';
COMMENT ON COLUMN crl.crl_number  IS 'cRLNumber (RFC 5280 5.2.3): from 1, without gaps, never back.';
COMMENT ON COLUMN crl.this_update IS 'thisUpdate: database time at which the revocations were read.';
COMMENT ON COLUMN crl.next_update IS 'nextUpdate: when it stops being good.';
COMMENT ON COLUMN crl.entries     IS 'Certificates it lists. Revocations are never taken back, so more of them than this means that it is out of date, and as many that it is not.';
COMMENT ON COLUMN crl.der         IS 'The signed CRL, DER.';
COMMENT ON COLUMN crl.created_at  IS 'Database time of storing.';

-- Runs with the owner's rights, because it deletes, which the service's role cannot: CRLs come as
-- often as revocations do, and each may have megabytes.
CREATE FUNCTION crl_succeed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    newest public.crl;
BEGIN
    SELECT * INTO newest FROM public.crl c
        WHERE c.issuer = NEW.issuer AND c.shard = NEW.shard ORDER BY c.crl_number DESC LIMIT 1;
    IF NEW.crl_number <= newest.crl_number THEN
        RETURN NULL;
    END IF;
    IF NEW.crl_number <> coalesce(newest.crl_number, 0) + 1 THEN
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
COMMENT ON FUNCTION crl_succeed() IS 'Leaves out a CRL whose number is taken or past, refuses one that leaves out a number, a revocation or time, and keeps the newest ten.';
CREATE TRIGGER crl_succeed BEFORE INSERT ON crl FOR EACH ROW EXECUTE FUNCTION crl_succeed();

REVOKE ALL ON FUNCTION crl_succeed() FROM PUBLIC;
GRANT SELECT ON crl TO certfactory_service;
GRANT INSERT (issuer, shard, crl_number, this_update, next_update, entries, der)
    ON crl TO certfactory_service;
