DROP TABLE IF EXISTS ops_actions;
ALTER TABLE drops DROP COLUMN closed_early;
