-- Backups: when the last one was made, for the alarm that none was.

CREATE TABLE backup (
    made_at timestamptz PRIMARY KEY DEFAULT statement_timestamp(),
    entries bigint      NOT NULL CHECK (entries >= 0),
    octets  bigint      NOT NULL CHECK (octets > 0),
    sha256  bytea       NOT NULL CHECK (octet_length(sha256) = 32)
);
COMMENT ON TABLE  backup         IS 'Backups that were completed. The copy inside a backup does not know of it.';
COMMENT ON COLUMN backup.made_at IS 'Database time of its completion.';
COMMENT ON COLUMN backup.entries IS 'Entries of the log that it holds at least.';
COMMENT ON COLUMN backup.octets  IS 'Length of the dump.';
COMMENT ON COLUMN backup.sha256  IS 'SHA-256 of the dump.';

CREATE FUNCTION log_backup() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM public.log_append('backup', json_build_object(
        'entries', NEW.entries, 'octets', NEW.octets, 'sha256', encode(NEW.sha256, 'hex')));
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION log_backup() IS 'Entries for backups: backup.';
REVOKE ALL ON FUNCTION log_backup() FROM PUBLIC;
CREATE TRIGGER z_log AFTER INSERT ON backup FOR EACH ROW EXECUTE FUNCTION log_backup();
GRANT SELECT ON backup TO certfactory_service;
