ALTER TABLE reconcile_runs DROP COLUMN asked_by;
