ALTER TABLE processes DROP COLUMN reads_messages;
