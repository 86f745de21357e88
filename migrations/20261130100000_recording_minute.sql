-- Where a search for a time begins and ends. An intent's id is of its replica's clock and of the moment of asking, a
-- recording of the database's and later: what was recorded before a moment may have an id of after it where a clock
-- was ahead, and what was recorded after it one of before. By how much, of each minute: without it a search would
-- look an hour further than its time, through all that a batch made meanwhile. The next migration looks at what was
-- recorded before, for which nobody waits.

CREATE TABLE recording_minute (
    minute  timestamptz PRIMARY KEY,
    lead_ms bigint      NOT NULL CHECK (lead_ms >= 0),
    lag_ms  bigint      NOT NULL CHECK (lag_ms >= 0)
);
COMMENT ON TABLE  recording_minute         IS 'How far the ids of certificates were from their recordings. Complete from its first minute on.';
COMMENT ON COLUMN recording_minute.minute  IS 'Begin of the minute of recording.';
COMMENT ON COLUMN recording_minute.lead_ms IS 'By how many milliseconds an id was of after its recording, at most.';
COMMENT ON COLUMN recording_minute.lag_ms  IS 'By how many it was of before, at most, but for those in late_outcome.';

-- Those that record hold the log's head: nobody else writes meanwhile. An hour is a millisecond longer here: whether
-- something is in late_outcome is decided by a time that is rounded, and in one of both everything must be.
CREATE FUNCTION recording_minute() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    told record;
    held record;
BEGIN
    FOR told IN
        SELECT date_trunc('minute', r.recorded_at, 'UTC') AS minute, greatest(-min(r.behind_ms), 0) AS lead_ms,
               coalesce(greatest(max(r.behind_ms) FILTER (WHERE r.behind_ms <= 3600001), 0), 0) AS lag_ms
        FROM (
            -- A UUIDv7 begins with its time, in milliseconds (RFC 9562, 5.7).
            SELECT a.recorded_at, ceil(extract(epoch FROM a.recorded_at) * 1000)::bigint
                - ('x' || left(replace(a.intent_id::text, '-', ''), 12))::bit(48)::bigint AS behind_ms
            FROM added a WHERE a.der IS NOT NULL
        ) r
        WHERE r.recorded_at >= (SELECT min(k.minute) FROM public.recording_minute k)
        GROUP BY 1
    LOOP
        SELECT k.lead_ms, k.lag_ms INTO held FROM public.recording_minute k WHERE k.minute = told.minute;
        IF NOT FOUND THEN
            INSERT INTO public.recording_minute (minute, lead_ms, lag_ms)
                VALUES (told.minute, told.lead_ms, told.lag_ms);
        ELSIF held.lead_ms < told.lead_ms OR held.lag_ms < told.lag_ms THEN
            UPDATE public.recording_minute k
                SET lead_ms = greatest(held.lead_ms, told.lead_ms), lag_ms = greatest(held.lag_ms, told.lag_ms)
                WHERE k.minute = told.minute;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION recording_minute() IS 'Notes how far ids are from recordings.';
REVOKE ALL ON FUNCTION recording_minute() FROM PUBLIC;
-- Who records waits behind it: rather let it be tried again.
SET LOCAL lock_timeout = '1s';
CREATE TRIGGER recording_minute AFTER INSERT ON outcome
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION recording_minute();
GRANT SELECT ON recording_minute TO certfactory_service;

-- The trigger keeps out who records until this is committed, and times of recording only grow: what is in the minute
-- of the last certificate now is all that is not noted from there on. Of a database without any, everything will be.
DO $$
DECLARE
    last timestamptz := date_trunc('minute', (SELECT o.recorded_at FROM outcome o WHERE o.der IS NOT NULL
                                              ORDER BY o.recorded_at DESC LIMIT 1), 'UTC');
BEGIN
    IF last IS NULL THEN
        INSERT INTO recording_minute (minute, lead_ms, lag_ms) VALUES ('-infinity', 0, 0);
    ELSE
        INSERT INTO recording_minute (minute, lead_ms, lag_ms)
            SELECT last, greatest(-min(r.behind_ms), 0),
                   coalesce(greatest(max(r.behind_ms) FILTER (WHERE r.behind_ms <= 3600001), 0), 0)
            FROM (
                SELECT ceil(extract(epoch FROM o.recorded_at) * 1000)::bigint
                    - ('x' || left(replace(o.intent_id::text, '-', ''), 12))::bit(48)::bigint AS behind_ms
                FROM outcome o WHERE o.der IS NOT NULL AND o.recorded_at >= last
            ) r;
    END IF;
END
$$;
