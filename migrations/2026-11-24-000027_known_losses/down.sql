ALTER TABLE known_admissions DROP COLUMN lost_at;
