ALTER TABLE alerts DROP COLUMN unmailed_repairs;
