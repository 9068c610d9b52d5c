ALTER TABLE drops DROP COLUMN people_erased_at;
