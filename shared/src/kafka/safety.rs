//! Detects unsafe settings of the topic: those that allow Kafka to lose acknowledged messages, and
//! those that allow messages to need more memory than readers have.

use super::LARGEST_BATCH;

/// Minimum number of replicas that must store a message before it is acknowledged, if the topic has
/// that many.
pub(super) const IN_SYNC: usize = 2;

pub(super) const BATCH_SETTING: &str = "max.message.bytes";

/// The setting and value with which messages carry the broker's time. By default they carry the
/// producer's time, and Kafka refuses messages that are more than an hour ahead of the broker's
/// clock.
pub(super) const TIME_SETTING: [&str; 2] = ["message.timestamp.type", "LogAppendTime"];

/// Returns the required change if the topic, with this number of replicas, can lose acknowledged
/// messages, acknowledges none, or allows larger batches than readers can decompress; else `None`.
/// `value` returns a setting of the topic by name.
pub(super) fn what_is_unsafe<'a>(
    topic: &str,
    replicas: usize,
    value: impl Fn(&str) -> Option<&'a str>,
) -> Option<String> {
    let change = |setting: &str| {
        format!(
            "set it to {setting}: kafka-configs.sh --alter --entity-type topics --entity-name \
            {topic} --add-config {setting}"
        )
    };
    let largest = value(BATCH_SETTING).and_then(|number| number.parse::<usize>().ok());
    if let Some(largest) = largest.filter(|largest| *largest > LARGEST_BATCH) {
        return Some(format!(
            "the topic {topic:?} allows batches of {largest} bytes ({BATCH_SETTING}), which may \
            expand to more than a consumer's memory; {}",
            change(&format!("{BATCH_SETTING}={LARGEST_BATCH}"))
        ));
    }
    let policy = value("cleanup.policy").unwrap_or_default();
    if policy.split(',').any(|one| one.trim() == "compact") {
        return Some(format!(
            "the topic {topic:?} is compacted (cleanup.policy={policy}), which deletes a claim \
            when its slot is given to another person, read or not; {}",
            change("cleanup.policy=delete")
        ));
    }
    let in_sync = value("min.insync.replicas").and_then(|number| number.parse::<usize>().ok());
    if in_sync.is_some_and(|in_sync| in_sync > replicas) {
        return Some(format!(
            "the topic {topic:?} acknowledges nothing: a partition has {replicas} replicas, and \
            min.insync.replicas asks for more; {}",
            change(&format!("min.insync.replicas={}", replicas.min(IN_SYNC)))
        ));
    }
    // With only one replica, no other broker can take over.
    if replicas < IN_SYNC {
        return None;
    }
    if value("unclean.leader.election.enable") == Some("true") {
        return Some(format!(
            "the topic {topic:?} may get a leader that lacks acknowledged claims \
            (unclean.leader.election.enable=true); {}",
            change("unclean.leader.election.enable=false")
        ));
    }
    let in_sync = in_sync?;
    (in_sync < IN_SYNC).then(|| {
        format!(
            "the topic {topic:?} has {replicas} replicas, but min.insync.replicas={in_sync}: an \
            acknowledged claim may be on one broker alone, and be lost with it; {}",
            change(&format!("min.insync.replicas={IN_SYNC}"))
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_that_may_lose_acknowledged_claims_is_refused_with_a_remedy() {
        let [delete, both] = ["delete", "delete,compact"];
        let unclean = Some("unclean.leader.election.enable=false");
        let [no_compaction, one, two] = [
            "cleanup.policy=delete",
            "min.insync.replicas=1",
            "min.insync.replicas=2",
        ]
        .map(Some);
        for (replicas, policy, is_unclean, in_sync, advice) in [
            (3, delete, "false", "2", None),
            (2, delete, "false", "2", None),
            (3, delete, "false", "3", None),
            (1, delete, "true", "1", None),
            (1, delete, "false", "2", one),
            (2, delete, "false", "3", two),
            (1, "compact", "false", "1", no_compaction),
            (3, both, "false", "2", no_compaction),
            (3, delete, "true", "2", unclean),
            (3, delete, "false", "1", two),
            (2, delete, "false", "1", two),
        ] {
            let value = |name: &str| match name {
                "cleanup.policy" => Some(policy),
                "unclean.leader.election.enable" => Some(is_unclean),
                "min.insync.replicas" => Some(in_sync),
                _ => None,
            };
            let said = what_is_unsafe("claims", replicas, value);
            let advised = said
                .as_deref()
                .and_then(|said| said.split_once("--add-config "));
            let case = format!("{replicas} {policy} {is_unclean} {in_sync}: {said:?}");
            assert_eq!(said.is_some(), advice.is_some(), "{case}");
            assert_eq!(advised.map(|(_, setting)| setting), advice, "{case}");
        }
        let unknown = what_is_unsafe("claims", 3, |_| None);
        assert_eq!(
            unknown, None,
            "settings that a broker does not report are not guessed"
        );
    }

    #[test]
    fn topic_is_refused_for_its_batch_size_but_not_its_compression() {
        let with = |setting: &'static str, value: &'static str| {
            let value = move |name: &str| (name == setting).then_some(value);
            what_is_unsafe("claims", 1, value)
        };
        let large = with("max.message.bytes", "1048588").unwrap();
        assert!(
            large.contains("1048588") && large.ends_with("--add-config max.message.bytes=65536"),
            "{large}"
        );
        assert_eq!(with("max.message.bytes", "65536"), None);
        for codec in ["producer", "gzip", "snappy", "lz4", "zstd"] {
            assert_eq!(with("compression.type", codec), None, "{codec}");
        }
    }
}
