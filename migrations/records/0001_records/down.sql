DROP TABLE processes, reconcile_runs, reconcile_findings, held_back, reconciler_state, levels, told, repairs, outbox, ops_actions;
