//! Names of the consumer's metrics, and what they mean.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::consume::write::Written;

pub(crate) const LAG: &str = "firstcome_consumer_lag";
pub(crate) const COMMIT_FAILURES: &str = "firstcome_consumer_commit_failures_total";
pub(crate) const REBALANCES: &str = "firstcome_consumer_rebalances_total";
pub(crate) const RETRIES: &str = "firstcome_consumer_retries_total";
const BATCH_ROWS: &str = "firstcome_consumer_batch_rows";
const BATCH_SECONDS: &str = "firstcome_consumer_batch_seconds";
const ISSUED: &str = "firstcome_consumer_issued_total";
const AGAIN: &str = "firstcome_consumer_again_total";
const REFUSED: &str = "firstcome_consumer_refused_total";

/// Describes them all, and shows counters from the start: one that first appears at 1 hides its first increase.
pub(crate) fn describe() {
    describe_gauge!(LAG, "Messages of the partitions this process reads that are not committed yet");
    describe_histogram!(BATCH_ROWS, "Messages in a batch");
    describe_histogram!(BATCH_SECONDS, "Seconds to write a batch");
    for (name, meaning) in [
        (ISSUED, "Rows written"),
        (AGAIN, "Messages whose row was there: read again after a restart or a rebalance"),
        (RETRIES, "Batches tried again because MySQL was away, locked or slow"),
        (REBALANCES, "Times the group gave this process partitions"),
        (COMMIT_FAILURES, "Commits of offsets that Kafka refused"),
    ] {
        describe_counter!(name, meaning);
        counter!(name).absolute(0);
    }
    describe_counter!(REFUSED, "Messages kept in the backup table, by reason");
    gauge!(LAG).set(0.0);
}

/// Counts a batch that is written.
#[expect(clippy::cast_precision_loss, reason = "a batch is small")]
pub(crate) fn batch(size: usize, seconds: f64, written: &Written) {
    histogram!(BATCH_ROWS).record(size as f64);
    histogram!(BATCH_SECONDS).record(seconds);
    counter!(ISSUED).increment(written.issued);
    counter!(AGAIN).increment(written.again);
    for (reason, count) in &written.refused {
        counter!(REFUSED, "reason" => *reason).increment(*count);
    }
}
