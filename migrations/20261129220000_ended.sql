-- What a search for certificates that ended reads when it asks for their order, profile, issuer or station,
-- too: few of few. Of two indexes over different tables the database would walk one. The next migration lists
-- what ended before; a line that runs waits for neither.

CREATE TABLE ended (
    kind       text NOT NULL,
    intent_id  uuid NOT NULL,
    work_order text,
    profile    text NOT NULL,
    issuer     text NOT NULL,
    principal  text NOT NULL,
    PRIMARY KEY (kind, intent_id)
);
COMMENT ON TABLE  ended            IS 'Certificates that ended, and what they were, for searches. Never changed, never deleted.';
COMMENT ON COLUMN ended.kind       IS 'As in life_event: superseded, revoked or scrapped.';
COMMENT ON COLUMN ended.intent_id  IS 'The certificate.';
COMMENT ON COLUMN ended.work_order IS 'As in intent.';
COMMENT ON COLUMN ended.profile    IS 'As in intent.';
COMMENT ON COLUMN ended.issuer     IS 'As in intent.';
COMMENT ON COLUMN ended.principal  IS 'As in intent: who asked for the certificate.';
CREATE INDEX ended_work_order ON ended (kind, work_order, intent_id) WHERE work_order IS NOT NULL;
CREATE INDEX ended_profile    ON ended (kind, profile, intent_id);
CREATE INDEX ended_issuer     ON ended (kind, issuer, intent_id);
CREATE INDEX ended_principal  ON ended (kind, principal, intent_id);

-- A sub-select for each row: a ledger session may join by walking through a table only.
CREATE FUNCTION ended() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO public.ended (kind, intent_id, work_order, profile, issuer, principal)
        SELECT a.kind, a.intent_id, i.work_order, i.profile, i.issuer, i.principal
        FROM added a CROSS JOIN LATERAL (SELECT t.work_order, t.profile, t.issuer, t.principal
            FROM public.intent t WHERE t.intent_id = a.intent_id LIMIT 1) i
        WHERE a.kind <> 'confirmed';
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION ended() IS 'Lists what ended.';
CREATE TRIGGER ended AFTER INSERT ON life_event
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION ended();

REVOKE ALL ON FUNCTION ended() FROM PUBLIC;
GRANT SELECT ON ended TO certfactory_service;
