-- The ledger: what was intended, what came of it, and who may ask.
--
-- What is final is only ever inserted. The service's role has no right to change or delete it, so
-- that plain GRANTs carry the promise; the one way to change a claim is the function below.

-- The role the service connects with. A deployment makes its own login role a member of it.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'certfactory_service') THEN
        CREATE ROLE certfactory_service NOLOGIN;
    END IF;
EXCEPTION
    -- A migration of another database of this cluster was faster.
    WHEN duplicate_object OR unique_violation THEN NULL;
END
$$;

------------------------------------------------------------------------------------------------
-- What only one intent may hold. Narrow and never partitioned: a unique index over a partitioned
-- table would have to contain the partition key.

CREATE TABLE claim (
    intent_id       uuid    PRIMARY KEY,
    serial_number   bytea   NOT NULL UNIQUE
        CHECK (octet_length(serial_number) = 16 AND get_byte(serial_number, 0) BETWEEN 1 AND 127),
    spki_sha256     bytea   NOT NULL CHECK (octet_length(spki_sha256) = 32),
    slot            text    NOT NULL,
    device          text    NOT NULL CHECK (device <> ''),
    principal       text    NOT NULL,
    idempotency_key text    CHECK (octet_length(idempotency_key) BETWEEN 1 AND 128),
    live            boolean NOT NULL DEFAULT true
);
CREATE UNIQUE INDEX claim_public_key  ON claim (spki_sha256) WHERE live;
CREATE UNIQUE INDEX claim_device      ON claim (device, slot) WHERE live;
CREATE UNIQUE INDEX claim_idempotency ON claim (principal, idempotency_key)
    WHERE live AND idempotency_key IS NOT NULL;

COMMENT ON TABLE  claim                 IS 'What only one intent may hold: serial number, public key, device, idempotency key. One row an intent, admitted whole or not at all.';
COMMENT ON COLUMN claim.intent_id       IS 'The intent that holds these claims; UUIDv7 made by the service.';
COMMENT ON COLUMN claim.serial_number   IS 'Certificate serial number, 16 octets, the first 0x01 to 0x7f. Held for ever, also by an abandoned intent.';
COMMENT ON COLUMN claim.spki_sha256     IS 'SHA-256 over the device''s SubjectPublicKeyInfo.';
COMMENT ON COLUMN claim.slot            IS 'What the certificate is for; a device has at most one live certificate a slot.';
COMMENT ON COLUMN claim.device          IS 'Device identity: the value of the subject attribute that the profile names.';
COMMENT ON COLUMN claim.principal       IS 'Who asked; the scope of the idempotency key.';
COMMENT ON COLUMN claim.idempotency_key IS 'Idempotency-Key of the request, where it had one.';
COMMENT ON COLUMN claim.live            IS 'False once key, device and idempotency key are free again, because the intent was abandoned.';

------------------------------------------------------------------------------------------------
-- A certificate about to be made: everything about it but the signature.

CREATE TABLE intent (
    intent_id       uuid        PRIMARY KEY,
    serial_number   bytea       NOT NULL,
    issuer          text        NOT NULL,
    profile         text        NOT NULL,
    profile_sha256  bytea       NOT NULL CHECK (octet_length(profile_sha256) = 32),
    principal       text        NOT NULL,
    idempotency_key text,
    request_sha256  bytea       NOT NULL CHECK (octet_length(request_sha256) = 32),
    work_order      text,
    device          text        NOT NULL,
    slot            text        NOT NULL,
    subject         jsonb       NOT NULL CHECK (jsonb_typeof(subject) = 'object'),
    thing_name      text,
    spki_sha256     bytea       NOT NULL,
    not_before      timestamptz NOT NULL,
    not_after       timestamptz NOT NULL CHECK (not_after > not_before),
    tbs             bytea       NOT NULL CHECK (octet_length(tbs) > 0),
    created_at      timestamptz NOT NULL DEFAULT statement_timestamp()
);
-- Every index costs on the line's way, so only what people search for alone has one; a serial
-- number or a public key is looked up in claim, a fingerprint in outcome.
CREATE INDEX intent_cn            ON intent ((subject ->> 'CN'));
CREATE INDEX intent_device_serial ON intent ((subject ->> 'serialNumber')) WHERE subject ? 'serialNumber';
CREATE INDEX intent_principal     ON intent (principal, intent_id);
CREATE INDEX intent_work_order    ON intent (work_order, intent_id) WHERE work_order IS NOT NULL;

COMMENT ON TABLE  intent                 IS 'A certificate about to be made: everything about it but the signature. Never changed, never deleted.';
COMMENT ON COLUMN intent.intent_id       IS 'UUIDv7 made by the service, so that storing an intent twice is storing it once.';
COMMENT ON COLUMN intent.serial_number   IS 'Certificate serial number, 16 octets.';
COMMENT ON COLUMN intent.issuer          IS 'Name of the issuer whose key signs.';
COMMENT ON COLUMN intent.profile         IS 'Name of the profile.';
COMMENT ON COLUMN intent.profile_sha256  IS 'SHA-256 over profile and template as they were when the intent was made.';
COMMENT ON COLUMN intent.principal       IS 'Name of the principal who asked.';
COMMENT ON COLUMN intent.idempotency_key IS 'Idempotency-Key of the request, where it had one.';
COMMENT ON COLUMN intent.request_sha256  IS 'SHA-256 over the canonical request: a repeated key with another content is refused.';
COMMENT ON COLUMN intent.work_order      IS 'Work order, where the request named one.';
COMMENT ON COLUMN intent.device          IS 'Device identity.';
COMMENT ON COLUMN intent.slot            IS 'What the certificate is for.';
COMMENT ON COLUMN intent.subject         IS 'The whole subject: attribute short names to values.';
COMMENT ON COLUMN intent.thing_name      IS 'The thing that AWS IoT will make of the device.';
COMMENT ON COLUMN intent.spki_sha256     IS 'SHA-256 over the device''s SubjectPublicKeyInfo.';
COMMENT ON COLUMN intent.not_before      IS 'First valid second.';
COMMENT ON COLUMN intent.not_after       IS 'Last valid second (RFC 5280 4.1.2.5).';
COMMENT ON COLUMN intent.tbs             IS 'DER of the TBSCertificate: the exact bytes to sign, never rebuilt.';
COMMENT ON COLUMN intent.created_at      IS 'Database time at which the intent was stored.';

------------------------------------------------------------------------------------------------
-- Work list: intents without an outcome.

CREATE TABLE open_intent (
    intent_id   uuid        PRIMARY KEY,
    lease_until timestamptz NOT NULL
) WITH (
    -- A row lives for milliseconds: vacuum by number of dead rows, not by share of a small table.
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 20000,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 1000000
);
CREATE INDEX open_intent_lease ON open_intent (lease_until);

COMMENT ON TABLE  open_intent             IS 'Work list of intents without an outcome. A lease saves work; it is not what keeps a certificate single.';
COMMENT ON COLUMN open_intent.intent_id   IS 'The open intent.';
COMMENT ON COLUMN open_intent.lease_until IS 'Database time until which the maker, or whoever took over, is left alone with it.';

------------------------------------------------------------------------------------------------
-- The end of an intent. The primary key is the compare-and-swap: one outcome, and the first wins.

CREATE TABLE outcome (
    intent_id      uuid        PRIMARY KEY REFERENCES intent,
    der            bytea,
    fingerprint    bytea       UNIQUE,
    log_index      bigint      UNIQUE CHECK (log_index >= 0),
    abandon_reason text,
    recorded_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    CONSTRAINT outcome_certificate_or_reason CHECK (
        CASE WHEN abandon_reason IS NULL
             THEN der IS NOT NULL AND fingerprint IS NOT NULL AND log_index IS NOT NULL
             ELSE der IS NULL AND fingerprint IS NULL AND log_index IS NULL END),
    CONSTRAINT outcome_fingerprint_of_der CHECK (fingerprint = sha256(der))
);
CREATE INDEX outcome_recorded_at ON outcome (recorded_at);

COMMENT ON TABLE  outcome                IS 'What became of an intent: a certificate, or nothing for ever. Never changed, never deleted.';
COMMENT ON COLUMN outcome.intent_id      IS 'The intent that ended.';
COMMENT ON COLUMN outcome.der            IS 'The certificate, DER; null when the intent was abandoned.';
COMMENT ON COLUMN outcome.fingerprint    IS 'SHA-256 over der: the certificateId of AWS IoT.';
COMMENT ON COLUMN outcome.log_index      IS 'Position in the log, from 0 and without gaps.';
COMMENT ON COLUMN outcome.abandon_reason IS 'Why there will never be a certificate; null when there is one.';
COMMENT ON COLUMN outcome.recorded_at    IS 'Database time of recording, taken under the lock on log_head.';

------------------------------------------------------------------------------------------------
-- The log's size. Its row lock lets one recording transaction of all replicas number at a time; an
-- identity column would leave gaps.

CREATE TABLE log_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    size     bigint  NOT NULL CHECK (size >= 0)
);
INSERT INTO log_head (size) VALUES (0);

COMMENT ON TABLE  log_head          IS 'The size of the log, in one row; its lock orders the recording transactions of all replicas.';
COMMENT ON COLUMN log_head.only_row IS 'Keeps the table at one row.';
COMMENT ON COLUMN log_head.size     IS 'Certificates recorded so far, which is the next log_index.';

------------------------------------------------------------------------------------------------
-- Who may use the service.

CREATE TABLE principal (
    name        text        PRIMARY KEY CHECK (name ~ '^[A-Za-z0-9._-]{1,64}$'),
    role        text        NOT NULL CHECK (role IN ('station', 'operator', 'auditor', 'administrator')),
    disabled    boolean     NOT NULL DEFAULT false,
    spki_sha256 bytea       NOT NULL UNIQUE CHECK (octet_length(spki_sha256) = 32),
    created_at  timestamptz NOT NULL DEFAULT statement_timestamp()
);

COMMENT ON TABLE  principal             IS 'Who may use the service. Rights are bound to a key, never to a name inside a certificate.';
COMMENT ON COLUMN principal.name        IS 'Unique name.';
COMMENT ON COLUMN principal.role        IS 'What they may do.';
COMMENT ON COLUMN principal.disabled    IS 'True: may do nothing.';
COMMENT ON COLUMN principal.spki_sha256 IS 'SHA-256 over the SubjectPublicKeyInfo of the client certificate.';
COMMENT ON COLUMN principal.created_at  IS 'Database time at which the principal was added.';

------------------------------------------------------------------------------------------------
-- The one way to end an intent without a certificate.

-- Runs with the owner's rights, because it frees claims, which the service's role cannot. The
-- lock on log_head keeps it from meeting a recording of the same intent half-way.
CREATE FUNCTION abandon_intent(abandoned uuid, reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM FROM public.log_head FOR UPDATE;
    INSERT INTO public.outcome (intent_id, abandon_reason)
        SELECT i.intent_id, reason FROM public.intent i WHERE i.intent_id = abandoned
        ON CONFLICT (intent_id) DO NOTHING;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE public.claim SET live = false WHERE intent_id = abandoned;
    DELETE FROM public.open_intent WHERE intent_id = abandoned;
    RETURN true;
END
$$;
COMMENT ON FUNCTION abandon_intent(uuid, text) IS 'Ends an open intent without a certificate: its serial number stays burned, its other claims are free again. False, and nothing done, when it has an outcome.';

------------------------------------------------------------------------------------------------
-- What the service's role may do, column by column: what the database sets, the service cannot.

REVOKE ALL ON FUNCTION abandon_intent(uuid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION abandon_intent(uuid, text) TO certfactory_service;

GRANT USAGE ON SCHEMA public TO certfactory_service;
GRANT SELECT ON claim, intent, open_intent, outcome, log_head, principal, _sqlx_migrations
    TO certfactory_service;
GRANT INSERT (intent_id, serial_number, spki_sha256, slot, device, principal, idempotency_key)
    ON claim TO certfactory_service;
GRANT INSERT (intent_id, serial_number, issuer, profile, profile_sha256, principal, idempotency_key,
              request_sha256, work_order, device, slot, subject, thing_name, spki_sha256,
              not_before, not_after, tbs)
    ON intent TO certfactory_service;
GRANT INSERT, UPDATE (lease_until), DELETE ON open_intent TO certfactory_service;
GRANT INSERT (intent_id, der, fingerprint, log_index) ON outcome TO certfactory_service;
GRANT UPDATE (size) ON log_head TO certfactory_service;
GRANT INSERT (name, role, disabled, spki_sha256), UPDATE (disabled) ON principal TO certfactory_service;
