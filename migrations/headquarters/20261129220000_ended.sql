-- Certificates that ended, as searches ask for them.

CREATE VIEW ended AS
    SELECT e.kind, e.intent_id, e.site, i.work_order, i.profile, i.issuer, i.principal
    FROM life_event e JOIN intent i ON i.intent_id = e.intent_id AND i.site = e.site
    WHERE e.kind <> 'confirmed';
COMMENT ON VIEW   ended            IS 'Certificates that ended, and what they were, for searches.';
COMMENT ON COLUMN ended.kind       IS 'As at the plant.';
COMMENT ON COLUMN ended.intent_id  IS 'As at the plant.';
COMMENT ON COLUMN ended.site       IS 'The plant.';
COMMENT ON COLUMN ended.work_order IS 'As at the plant.';
COMMENT ON COLUMN ended.profile    IS 'As at the plant.';
COMMENT ON COLUMN ended.issuer     IS 'As at the plant.';
COMMENT ON COLUMN ended.principal  IS 'As at the plant.';
GRANT SELECT ON ended TO certfactory_headquarters;
