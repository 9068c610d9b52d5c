-- One row per process of `serve` or `consume` that runs, or ran within a day: its settings. The
-- reconciler waits for the longest deadline, and refuses to work with another topic, group or key
-- prefix.
CREATE TABLE IF NOT EXISTS processes (
    id                   CHAR(32)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
    role                 VARCHAR(16)  NOT NULL,
    owner                VARCHAR(200) NOT NULL,
    redis_prefix         VARCHAR(64)  NULL,
    topic                VARCHAR(249) NOT NULL,
    consumer_group       VARCHAR(249) NOT NULL,
    publish_deadline_ms  BIGINT       NOT NULL,
    fallback_deadline_ms BIGINT       NOT NULL,
    seen_at              DATETIME(3)  NOT NULL,
    KEY processes_by_time (seen_at)
) DEFAULT CHARACTER SET utf8mb4;
