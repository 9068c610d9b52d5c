DROP TABLE IF EXISTS failed_claims;
