DROP TABLE IF EXISTS webhook_drops;
DROP TABLE IF EXISTS webhook_outbox;
