-- Stations and people: registered by name, given a key by enrolment, with rights of their own.

ALTER TABLE principal
    ADD COLUMN rights     jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(rights) = 'object'),
    ADD COLUMN created_by text;
COMMENT ON COLUMN principal.rights     IS 'What it may do of what its role may: acts, profiles, orders, networks, hours, rate and daily cap; what is not said is not limited.';
COMMENT ON COLUMN principal.created_by IS 'Name of the administrator who registered it; null for one registered by command.';
COMMENT ON TABLE  principal            IS 'Who may use the service. Rights are bound to their keys (principal_key), never to a name inside a certificate.';

------------------------------------------------------------------------------------------------
-- Keys. A key is one principal's, so has one role: an auditor's is never anything else's.

CREATE TABLE principal_key (
    spki_sha256 bytea       PRIMARY KEY CHECK (octet_length(spki_sha256) = 32),
    name        text        NOT NULL REFERENCES principal,
    added_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    dies_at     timestamptz
);
CREATE INDEX principal_key_name ON principal_key (name);
COMMENT ON TABLE  principal_key             IS 'The keys of principals: what is presented in TLS is looked up here.';
COMMENT ON COLUMN principal_key.spki_sha256 IS 'SHA-256 over the SubjectPublicKeyInfo of the client certificate.';
COMMENT ON COLUMN principal_key.name        IS 'Whose it is.';
COMMENT ON COLUMN principal_key.added_at    IS 'Database time at which it was added.';
COMMENT ON COLUMN principal_key.dies_at     IS 'Database time from which it is good for nothing, because another one took its place; null while none has.';

INSERT INTO principal_key (spki_sha256, name, added_at)
    SELECT spki_sha256, name, created_at FROM principal;
ALTER TABLE principal DROP COLUMN spki_sha256;

-- A key that was replaced stays replaced.
CREATE FUNCTION principal_key_dies() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE integrity_constraint_violation USING MESSAGE = 'a key that was replaced does not live longer';
END
$$;
COMMENT ON FUNCTION principal_key_dies() IS 'Refuses to let a replaced key live longer.';
CREATE TRIGGER principal_key_dies BEFORE UPDATE OF dies_at ON principal_key
    FOR EACH ROW WHEN (OLD.dies_at IS NOT NULL AND (NEW.dies_at IS NULL OR NEW.dies_at > OLD.dies_at))
    EXECUTE FUNCTION principal_key_dies();

------------------------------------------------------------------------------------------------
-- Enrolment: a code that is shown once turns one key into a principal's.

CREATE TABLE enrolment (
    code_sha256 bytea       PRIMARY KEY CHECK (octet_length(code_sha256) = 32),
    name        text        NOT NULL REFERENCES principal,
    created_by  text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    expires_at  timestamptz NOT NULL,
    spki_sha256 bytea       CHECK (octet_length(spki_sha256) = 32)
);
CREATE INDEX enrolment_name ON enrolment (name);
COMMENT ON TABLE  enrolment             IS 'Codes by which a principal enrols its first key, or another one after it lost the first.';
COMMENT ON COLUMN enrolment.code_sha256 IS 'SHA-256 over the code; the code itself is nowhere.';
COMMENT ON COLUMN enrolment.name        IS 'Who may enrol.';
COMMENT ON COLUMN enrolment.created_by  IS 'Name of the administrator who had it made.';
COMMENT ON COLUMN enrolment.created_at  IS 'Database time.';
COMMENT ON COLUMN enrolment.expires_at  IS 'Database time from which it is good for nothing.';
COMMENT ON COLUMN enrolment.spki_sha256 IS 'SHA-256 over the key it was used for, which is for ever; null while it was not.';

CREATE FUNCTION enrolment_once() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE integrity_constraint_violation USING MESSAGE = 'an enrolment code is used once';
END
$$;
COMMENT ON FUNCTION enrolment_once() IS 'Refuses to use an enrolment code for a second key.';
CREATE TRIGGER enrolment_once BEFORE UPDATE OF spki_sha256 ON enrolment
    FOR EACH ROW WHEN (OLD.spki_sha256 IS DISTINCT FROM NEW.spki_sha256 AND OLD.spki_sha256 IS NOT NULL)
    EXECUTE FUNCTION enrolment_once();

------------------------------------------------------------------------------------------------
-- Four eyes: what one administrator proposes, another one approves.

CREATE TABLE proposal (
    proposal_id uuid        PRIMARY KEY,
    act         jsonb       NOT NULL CHECK (jsonb_typeof(act) = 'object'),
    proposed_by text        NOT NULL,
    proposed_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    approved_by text,
    approved_at timestamptz,
    CONSTRAINT proposal_four_eyes CHECK (approved_by <> proposed_by),
    CONSTRAINT proposal_approval CHECK ((approved_by IS NULL) = (approved_at IS NULL))
);
COMMENT ON TABLE  proposal             IS 'Acts that widen what somebody may do, where two administrators are needed for them.';
COMMENT ON COLUMN proposal.proposal_id IS 'UUIDv7 made by the service.';
COMMENT ON COLUMN proposal.act         IS 'What is to be done.';
COMMENT ON COLUMN proposal.proposed_by IS 'Name of the administrator who wants it.';
COMMENT ON COLUMN proposal.proposed_at IS 'Database time.';
COMMENT ON COLUMN proposal.approved_by IS 'Name of another administrator, who approved it; null while nobody has.';
COMMENT ON COLUMN proposal.approved_at IS 'Database time of the approval, with which it was done.';

CREATE FUNCTION proposal_once() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE integrity_constraint_violation USING MESSAGE = 'a proposal is approved once';
END
$$;
COMMENT ON FUNCTION proposal_once() IS 'Refuses to approve a proposal again.';
CREATE TRIGGER proposal_once BEFORE UPDATE ON proposal
    FOR EACH ROW WHEN (OLD.approved_by IS NOT NULL) EXECUTE FUNCTION proposal_once();

------------------------------------------------------------------------------------------------
-- The client certificates of stations are leaves of the log like all others.

ALTER TABLE intent DROP CONSTRAINT intent_kind,
    ADD CONSTRAINT intent_kind CHECK (kind IN ('device', 'verification', 'station'));
COMMENT ON COLUMN intent.kind IS 'What the certificate is for: device; verification, which proves to AWS IoT that the CA''s key is ours; or station, with which a principal connects here.';
DROP INDEX intent_verification;
CREATE INDEX intent_no_device ON intent (kind, intent_id) WHERE kind <> 'device';

REVOKE ALL ON FUNCTION principal_key_dies(), enrolment_once(), proposal_once() FROM PUBLIC;
GRANT SELECT ON principal_key, enrolment, proposal TO certfactory_service;
GRANT INSERT (rights, created_by), UPDATE (rights) ON principal TO certfactory_service;
GRANT INSERT (spki_sha256, name), UPDATE (dies_at) ON principal_key TO certfactory_service;
GRANT INSERT (code_sha256, name, created_by, expires_at), UPDATE (expires_at, spki_sha256)
    ON enrolment TO certfactory_service;
GRANT INSERT (proposal_id, act, proposed_by), UPDATE (approved_by, approved_at)
    ON proposal TO certfactory_service;
