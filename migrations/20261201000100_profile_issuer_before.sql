-- Pairs of before, by reading every intent once.

INSERT INTO profile_issuer (profile, issuer)
    SELECT DISTINCT i.profile, i.issuer FROM intent i
    ON CONFLICT DO NOTHING;
