ALTER TABLE broken_promises DROP KEY broken_promises_mended;
ALTER TABLE reconcile_findings DROP KEY reconcile_findings_seen, DROP KEY reconcile_findings_old,
    DROP KEY reconcile_findings_applied, DROP COLUMN seen_from, DROP COLUMN seen_to, DROP COLUMN content;
DELETE f FROM reconcile_findings f LEFT JOIN reconcile_runs r ON r.id = f.run_id WHERE r.id IS NULL;
ALTER TABLE reconcile_findings ADD CONSTRAINT reconcile_findings_run
    FOREIGN KEY (run_id) REFERENCES reconcile_runs (id) ON DELETE CASCADE;
UPDATE reconcile_runs SET heartbeat_at = started_at WHERE heartbeat_at IS NULL;
ALTER TABLE reconcile_runs MODIFY COLUMN heartbeat_at DATETIME(3) NOT NULL, DROP KEY reconcile_runs_number,
    DROP KEY reconcile_runs_drops_run, DROP KEY reconcile_runs_nothing_new, DROP COLUMN number, DROP COLUMN drops_hash,
    DROP COLUMN drops_run, DROP COLUMN nothing_new;
