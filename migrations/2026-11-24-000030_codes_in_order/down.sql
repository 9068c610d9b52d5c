ALTER TABLE code_key DROP COLUMN prefixed_from;
