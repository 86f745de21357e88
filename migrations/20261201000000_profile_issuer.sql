-- Which profile and which issuer have met. A search for both walks through the certificates of one; where the two never
-- met it would walk through all of them, and find nothing. The next migration looks at what was there before, for which
-- nobody waits.

CREATE TABLE profile_issuer (
    profile text NOT NULL,
    issuer  text NOT NULL,
    PRIMARY KEY (profile, issuer)
);
COMMENT ON TABLE  profile_issuer         IS 'Every pair of a profile and an issuer that an intent has, for searches. Never changed, never deleted.';
COMMENT ON COLUMN profile_issuer.profile IS 'As in intent.';
COMMENT ON COLUMN profile_issuer.issuer  IS 'As in intent.';

-- In one order, so that two statements with new pairs do not wait for each other crosswise.
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

CREATE FUNCTION have_met(profile text, issuer text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM public.profile_issuer m WHERE m.profile = have_met.profile AND m.issuer = have_met.issuer)
$$;
COMMENT ON FUNCTION have_met(text, text) IS 'Whether an intent has this profile and this issuer. False is certain.';
REVOKE ALL ON FUNCTION profile_issuer(), have_met(text, text) FROM PUBLIC;
GRANT SELECT ON profile_issuer TO certfactory_service;
GRANT EXECUTE ON FUNCTION have_met(text, text) TO certfactory_service;

-- Who issues waits behind it: rather let it be tried again.
SET LOCAL lock_timeout = '1s';
CREATE TRIGGER profile_issuer AFTER INSERT ON intent
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION profile_issuer();
