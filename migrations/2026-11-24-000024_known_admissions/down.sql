DROP TABLE known_admissions;
