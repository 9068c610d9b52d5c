DROP TABLE topic_positions;
