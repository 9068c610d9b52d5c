ALTER TABLE code_key DROP COLUMN since;
