-- What a search for certificates that ended reads when it asks for their order, profile, issuer or station,
-- too: few of few. Of two indexes over different tables the database would walk one.

-- Nothing ends between what is listed here and what the trigger lists.
LOCK TABLE life_event IN SHARE ROW EXCLUSIVE MODE;

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
INSERT INTO ended (kind, intent_id, work_order, profile, issuer, principal)
    SELECT e.kind, e.intent_id, i.work_order, i.profile, i.issuer, i.principal
    FROM life_event e JOIN intent i ON i.intent_id = e.intent_id WHERE e.kind <> 'confirmed';
CREATE INDEX ended_work_order ON ended (kind, work_order, intent_id) WHERE work_order IS NOT NULL;
CREATE INDEX ended_profile    ON ended (kind, profile, intent_id);
CREATE INDEX ended_issuer     ON ended (kind, issuer, intent_id);
CREATE INDEX ended_principal  ON ended (kind, principal, intent_id);
DROP INDEX life_event_kind;

CREATE FUNCTION ended() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO public.ended (kind, intent_id, work_order, profile, issuer, principal)
        SELECT a.kind, a.intent_id, i.work_order, i.profile, i.issuer, i.principal
        FROM added a JOIN public.intent i ON i.intent_id = a.intent_id WHERE a.kind <> 'confirmed';
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION ended() IS 'Lists what ended.';
CREATE TRIGGER ended AFTER INSERT ON life_event
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION ended();

REVOKE ALL ON FUNCTION ended() FROM PUBLIC;
GRANT SELECT ON ended TO certfactory_service;
