-- Where reading of each partition begins: the offset after the last message whose row or dead letter is in this database. A consumer moves it in
-- the transaction of the rows and starts here on every assignment; passes read unread messages from here. It is part of every backup, so a
-- restored database reads again what it lost. before_print is a checksum of the message before next_offset: another message there means that
-- the topic was recreated. fault* say why reading had to go back, when, and from what offset.
CREATE TABLE IF NOT EXISTS topic_positions (
    topic        VARCHAR(249) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
    partition_id INT          NOT NULL,
    next_offset  BIGINT       NOT NULL,
    before_print BIGINT       NULL,
    fault        VARCHAR(16)  CHARACTER SET ascii COLLATE ascii_bin NULL,
    fault_at     DATETIME(3)  NULL,
    fault_offset BIGINT       NULL,
    PRIMARY KEY (topic, partition_id)
) DEFAULT CHARACTER SET utf8mb4;
