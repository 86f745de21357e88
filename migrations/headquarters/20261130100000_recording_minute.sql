-- How far the ids of certificates were from their recordings, as a search asks.

CREATE VIEW recording_minute AS
    SELECT o.recorded_at AS minute, 0::bigint AS lead_ms, 0::bigint AS lag_ms FROM outcome o WHERE false;
COMMENT ON VIEW   recording_minute         IS 'How far the ids of certificates were from their recordings: of no minute known here.';
COMMENT ON COLUMN recording_minute.minute  IS 'As at the plant.';
COMMENT ON COLUMN recording_minute.lead_ms IS 'As at the plant.';
COMMENT ON COLUMN recording_minute.lag_ms  IS 'As at the plant.';
GRANT SELECT ON recording_minute TO certfactory_headquarters;
