-- What a search for a profile and an issuer asks first: at a plant, whether the two ever met.

CREATE FUNCTION have_met(profile text, issuer text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp
AS $$ SELECT true $$;
COMMENT ON FUNCTION have_met(text, text) IS 'True: they may have. Plants list their pairs, and the lists stay there.';
REVOKE ALL ON FUNCTION have_met(text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION have_met(text, text) TO certfactory_headquarters;
