-- Which issuer has signed for which profile, as a search asks.

CREATE VIEW profile_issuer AS SELECT i.profile, i.issuer FROM intent i;
COMMENT ON VIEW   profile_issuer         IS 'Pairs of a profile and an issuer that an intent has, each as often as it has it.';
COMMENT ON COLUMN profile_issuer.profile IS 'As at the plant.';
COMMENT ON COLUMN profile_issuer.issuer  IS 'As at the plant.';
GRANT SELECT ON profile_issuer TO certfactory_headquarters;
