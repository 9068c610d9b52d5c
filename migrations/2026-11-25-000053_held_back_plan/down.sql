ALTER TABLE held_back DROP COLUMN fingerprint;
