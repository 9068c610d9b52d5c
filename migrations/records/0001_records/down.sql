DROP TABLE processes, reconcile_runs, reconcile_findings, held_back, reconciler_state, alerts, repairs, outbox, ops_actions;
