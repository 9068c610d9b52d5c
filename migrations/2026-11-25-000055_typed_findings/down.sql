ALTER TABLE reconcile_findings DROP COLUMN dead_letter, DROP COLUMN trace_id;
