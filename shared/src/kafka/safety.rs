//! Settings of the topic under which a message is lost, or never read, that Kafka has acknowledged.

/// Replicas that must have a message before it is acknowledged, where there are so many.
pub(super) const IN_SYNC: usize = 2;

/// What to change in a topic with so many replicas, whose settings `value` gives; `None` where it
/// loses nothing.
pub(super) fn what_loses<'a>(topic: &str, replicas: usize, value: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let change = |setting: &str| {
        format!(
            "set it to {setting}: kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config {setting}"
        )
    };
    let policy = value("cleanup.policy").unwrap_or_default();
    if policy.split(',').any(|one| one.trim() == "compact") {
        return Some(format!(
            "the topic {topic:?} is compacted (cleanup.policy={policy}), which deletes a claim when its slot is given to \
             another person, read or not; {}",
            change("cleanup.policy=delete")
        ));
    }
    let in_sync = value("min.insync.replicas").and_then(|number| number.parse::<usize>().ok());
    if in_sync.is_some_and(|in_sync| in_sync > replicas) {
        return Some(format!(
            "the topic {topic:?} acknowledges nothing: a partition has {replicas} replicas, and min.insync.replicas asks \
             for more; {}",
            change(&format!("min.insync.replicas={}", replicas.min(IN_SYNC)))
        ));
    }
    // Our build of librdkafka has no zstd, and reads the same place again for ever.
    if value("compression.type") == Some("zstd") {
        return Some(format!(
            "the topic {topic:?} is compressed anew by its broker, in a form that is not read here \
             (compression.type=zstd); {}",
            change("compression.type=producer")
        ));
    }
    // With one replica there is nobody to fall back on.
    if replicas < IN_SYNC {
        return None;
    }
    if value("unclean.leader.election.enable") == Some("true") {
        return Some(format!(
            "the topic {topic:?} may get a leader that lacks acknowledged claims (unclean.leader.election.enable=true); {}",
            change("unclean.leader.election.enable=false")
        ));
    }
    let in_sync = in_sync?;
    (in_sync < IN_SYNC).then(|| {
        format!(
            "the topic {topic:?} has {replicas} replicas, but min.insync.replicas={in_sync}: an acknowledged claim may be on \
             one broker alone, and be lost with it; {}",
            change(&format!("min.insync.replicas={IN_SYNC}"))
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_may_lose_an_acknowledged_claim_is_refused_with_what_to_change() {
        let safe = ("delete", "false", "2");
        for (replicas, (policy, unclean, in_sync), advice) in [
            (3, safe, None),
            (2, safe, None),
            (3, ("delete", "false", "3"), None),
            (1, ("delete", "true", "1"), None),
            (1, ("delete", "false", "2"), Some("min.insync.replicas=1")),
            (2, ("delete", "false", "3"), Some("min.insync.replicas=2")),
            (1, ("compact", "false", "1"), Some("cleanup.policy=delete")),
            (3, ("delete,compact", "false", "2"), Some("cleanup.policy=delete")),
            (3, ("delete", "true", "2"), Some("unclean.leader.election.enable=false")),
            (3, ("delete", "false", "1"), Some("min.insync.replicas=2")),
            (2, ("delete", "false", "1"), Some("min.insync.replicas=2")),
        ] {
            let value = |name: &str| match name {
                "cleanup.policy" => Some(policy),
                "unclean.leader.election.enable" => Some(unclean),
                "min.insync.replicas" => Some(in_sync),
                _ => None,
            };
            let said = what_loses("claims", replicas, value);
            let advises =
                |said: &String| advice.is_some_and(|setting| said.ends_with(&format!("--add-config {setting}")));
            assert!(
                said.as_ref().map_or(advice.is_none(), advises),
                "{replicas} {policy} {unclean} {in_sync}: {said:?}"
            );
        }
        let zstd = what_loses("claims", 1, |name| (name == "compression.type").then_some("zstd")).unwrap();
        assert!(zstd.ends_with("--add-config compression.type=producer"), "{zstd}");
        assert_eq!(what_loses("claims", 3, |_| None), None, "what a broker does not tell is not guessed");
    }
}
