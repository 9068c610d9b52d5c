-- The number of users that each drop had when a pass last compared it, including revoked ones.
-- After a loss of Redis the pass that rebuilds the drop compares: if fewer are restored, it sends a
-- mail. Without a foreign key: the table must never wait for a locked drop.
CREATE TABLE IF NOT EXISTS known_admissions (
    drop_id BIGINT          NOT NULL PRIMARY KEY,
    users   BIGINT UNSIGNED NOT NULL,
    seen_at DATETIME(3)     NOT NULL,
    KEY known_admissions_seen (seen_at)
) DEFAULT CHARACTER SET utf8mb4;
