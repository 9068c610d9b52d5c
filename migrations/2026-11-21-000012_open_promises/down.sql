DROP TABLE IF EXISTS held_back;
ALTER TABLE broken_promises DROP KEY broken_promises_open;
