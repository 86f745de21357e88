-- What was recorded before the database noted how far ids are from recordings.

INSERT INTO recording_minute (minute, lead_ms, lag_ms)
    SELECT date_trunc('minute', r.recorded_at, 'UTC'), greatest(-min(r.behind_ms), 0),
           coalesce(greatest(max(r.behind_ms) FILTER (WHERE r.behind_ms <= 3600001), 0), 0)
    FROM (
        SELECT o.recorded_at, ceil(extract(epoch FROM o.recorded_at) * 1000)::bigint
            - ('x' || left(replace(o.intent_id::text, '-', ''), 12))::bit(48)::bigint AS behind_ms
        FROM outcome o
        WHERE o.der IS NOT NULL AND o.recorded_at < (SELECT min(k.minute) FROM recording_minute k)
    ) r
    GROUP BY 1;
INSERT INTO recording_minute (minute, lead_ms, lag_ms) VALUES ('-infinity', 0, 0) ON CONFLICT DO NOTHING;
ANALYZE recording_minute;
