-- Which issuer has signed for which profile. A search for both walks through the certificates of the rarer one; where
-- the two never met it would walk through all of them, and find nothing. The next migration looks at what was there
-- before, for which nobody waits.

CREATE TABLE profile_issuer (
    profile text NOT NULL,
    issuer  text NOT NULL,
    PRIMARY KEY (profile, issuer)
);
COMMENT ON TABLE  profile_issuer         IS 'Every pair of a profile and an issuer that an intent has, for searches. Never changed, never deleted.';
COMMENT ON COLUMN profile_issuer.profile IS 'As in intent.';
COMMENT ON COLUMN profile_issuer.issuer  IS 'As in intent.';

-- In one order, so that two that find new pairs do not wait for each other.
CREATE FUNCTION profile_issuer() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO public.profile_issuer (profile, issuer)
        SELECT DISTINCT a.profile, a.issuer FROM added a ORDER BY a.profile, a.issuer
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION profile_issuer() IS 'Lists pairs of a profile and an issuer.';
REVOKE ALL ON FUNCTION profile_issuer() FROM PUBLIC;
-- Who issues waits behind it: rather let it be tried again.
SET LOCAL lock_timeout = '1s';
CREATE TRIGGER profile_issuer AFTER INSERT ON intent
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION profile_issuer();
GRANT SELECT ON profile_issuer TO certfactory_service;
