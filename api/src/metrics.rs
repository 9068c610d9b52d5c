//! Descriptions of metrics.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram};

/// Describes metrics: on each line the kind, the name, and the meaning. A `counter` begins at zero,
/// because one that first appears at 1 hides its first increase; each series of a `labelled` one
/// begins when it is first used.
pub(crate) fn describe_all(metrics: &'static str) {
    for line in metrics.lines() {
        let mut words = line.splitn(3, ' ');
        let [kind, name, meaning] = std::array::from_fn(|_| words.next().unwrap_or_default());
        match kind {
            "counter" => {
                describe_counter!(name, meaning);
                counter!(name).absolute(0);
            }
            "labelled" => describe_counter!(name, meaning),
            "gauge" => describe_gauge!(name, meaning),
            _ => describe_histogram!(name, meaning),
        }
    }
}
