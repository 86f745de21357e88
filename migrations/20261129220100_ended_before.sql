-- What ended before the database listed it. The index life_event_kind stays for programs of before.

INSERT INTO ended (kind, intent_id, work_order, profile, issuer, principal)
    SELECT e.kind, e.intent_id, i.work_order, i.profile, i.issuer, i.principal
    FROM life_event e JOIN intent i ON i.intent_id = e.intent_id WHERE e.kind <> 'confirmed'
    ON CONFLICT DO NOTHING;
ANALYZE ended;
