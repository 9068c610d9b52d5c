-- How many users each drop had when a pass last compared it, revoked ones included. After a loss of Redis the pass that rebuilds the
-- drop compares: if fewer are back, it mails so. Without a foreign key: the table must never wait for a locked drop.
CREATE TABLE IF NOT EXISTS known_admissions (
    drop_id BIGINT          NOT NULL PRIMARY KEY,
    users   BIGINT UNSIGNED NOT NULL,
    seen_at DATETIME(3)     NOT NULL,
    KEY known_admissions_seen (seen_at)
) DEFAULT CHARACTER SET utf8mb4;
