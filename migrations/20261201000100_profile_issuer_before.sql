-- Pairs of before. Of profiles and of issuers there are few: the next one is looked for from the end of its index, and then
-- whether the two ever met.

WITH RECURSIVE profiles (profile) AS (
    SELECT min(i.profile) FROM intent i
    UNION ALL
    SELECT (SELECT min(i.profile) FROM intent i WHERE i.profile > p.profile) FROM profiles p WHERE p.profile IS NOT NULL
), issuers (issuer) AS (
    SELECT min(i.issuer) FROM intent i
    UNION ALL
    SELECT (SELECT min(i.issuer) FROM intent i WHERE i.issuer > s.issuer) FROM issuers s WHERE s.issuer IS NOT NULL
)
INSERT INTO profile_issuer (profile, issuer)
    SELECT p.profile, s.issuer FROM profiles p CROSS JOIN issuers s
    WHERE EXISTS (SELECT FROM intent i WHERE i.profile = p.profile AND i.issuer = s.issuer)
    ON CONFLICT DO NOTHING;
