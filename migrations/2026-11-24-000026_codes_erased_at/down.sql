ALTER TABLE drops DROP COLUMN codes_erased_at;
