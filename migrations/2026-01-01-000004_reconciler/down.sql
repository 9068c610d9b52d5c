DROP TABLE IF EXISTS reconciler_state;
DROP TABLE IF EXISTS mail_outbox;
DROP TABLE IF EXISTS alerts;
DROP TABLE IF EXISTS broken_promises;
DROP TABLE IF EXISTS reconcile_findings;
DROP TABLE IF EXISTS reconcile_runs;
