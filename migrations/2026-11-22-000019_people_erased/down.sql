ALTER TABLE drops DROP KEY drops_sealed;
ALTER TABLE drops DROP COLUMN people_erased_at;
