-- Not every leaf is a device's: the kind of certificate an intent is for.

-- A constant default: no row is rewritten, and the statement that stores devices need not name it.
ALTER TABLE intent ADD COLUMN kind text NOT NULL DEFAULT 'device'
    CONSTRAINT intent_kind CHECK (kind IN ('device', 'verification'));
COMMENT ON COLUMN intent.kind IS 'What the certificate is for: device, or verification, which proves to AWS IoT that the CA''s key is ours and belongs to no device.';

-- The few among the many, for the auditor who looks for them. A device's row is not in it.
CREATE INDEX intent_verification ON intent (intent_id) WHERE kind = 'verification';

-- Without it the planner takes a new column's value for a rare one, and would plan every device
-- list as if it were short.
ANALYZE intent (kind);

GRANT INSERT (kind) ON intent TO certfactory_service;
