DROP TABLE processes, reconcile_runs, reconcile_findings, reconciler_state, levels, told, repairs, outbox, ops_actions;
