//! What this process is in its consumer group: how partitions are shared out, and by which name it
//! keeps its own while it is started again.

use clap::ValueEnum;
use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;

/// What happens to partitions when a member comes or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Rebalance {
    /// Those that change hands stop for a moment
    #[default]
    Cooperative,
    /// All of them stop for a moment
    Eager,
}

#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) group: String,
    pub(crate) rebalance: Rebalance,
    /// Of a static member.
    pub(crate) instance_id: Option<String>,
}

impl Membership {
    pub(crate) fn apply(&self, config: &mut ClientConfig) {
        if self.rebalance == Rebalance::Eager {
            config.set("partition.assignment.strategy", "range");
        }
        if let Some(id) = &self.instance_id {
            config.set("group.instance.id", id);
        }
    }

    /// What to change, where a setting is the reason that the group does not take this process.
    pub(crate) fn why_not(&self, code: RDKafkaErrorCode) -> Option<String> {
        let group = &self.group;
        match (code, &self.instance_id) {
            (RDKafkaErrorCode::FencedInstanceId, Some(id)) => Some(format!(
                "another process has joined the group {group:?} as {id:?} and has this one's partitions: give each \
                 consumer a KAFKA_GROUP_INSTANCE_ID of its own"
            )),
            // librdkafka can't offer both: a group changes from one to the other while it is empty.
            (RDKafkaErrorCode::InconsistentGroupProtocol, _) => {
                let others = match self.rebalance {
                    Rebalance::Cooperative => "CONSUME_REBALANCE=eager, or of an earlier version",
                    Rebalance::Eager => "CONSUME_REBALANCE=cooperative",
                };
                Some(format!(
                    "the group {group:?} has consumers with {others}: this one waits until they have stopped, or give all the same"
                ))
            }
            _ => None,
        }
    }
}

/// What brokers take as the name of a static member. An empty one counts as not set.
pub(crate) fn instance_id(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
    if text.len() <= 249 && text.chars().all(fits) && ![".", ".."].contains(&text) {
        Ok(text.to_owned())
    } else {
        Err("give up to 249 letters, digits, dots, underscores and hyphens".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(rebalance: Rebalance, instance_id: Option<&str>) -> Membership {
        Membership {
            group: "g".into(),
            rebalance,
            instance_id: instance_id.map(str::to_owned),
        }
    }

    #[test]
    fn a_setting_that_keeps_this_process_out_is_named() {
        let of = |code, id| membership(Rebalance::Cooperative, id).why_not(code);
        let fenced = of(RDKafkaErrorCode::FencedInstanceId, Some("consumer-1")).unwrap();
        assert!(
            fenced.contains("\"consumer-1\"") && fenced.contains("KAFKA_GROUP_INSTANCE_ID"),
            "{fenced}"
        );
        let mixed = of(RDKafkaErrorCode::InconsistentGroupProtocol, None).unwrap();
        assert!(
            mixed.contains("consumers with CONSUME_REBALANCE=eager, or of an earlier version"),
            "{mixed}"
        );
        assert_eq!(
            of(RDKafkaErrorCode::UnknownMemberId, Some("consumer-1")),
            None
        );
    }

    #[test]
    fn the_client_takes_every_membership() {
        for rebalance in [Rebalance::Cooperative, Rebalance::Eager] {
            for id in [None, Some("consumer-1")] {
                let mut config = ClientConfig::new();
                membership(rebalance, id).apply(&mut config);
                assert_eq!(config.get("group.instance.id"), id);
                assert_eq!(
                    config.get("partition.assignment.strategy").is_some(),
                    rebalance == Rebalance::Eager
                );
                config.create_native_config().unwrap();
            }
        }
    }

    #[test]
    fn names_that_brokers_refuse_are_refused() {
        for name in ["consumer-1", "a.b_c", ""] {
            assert_eq!(instance_id(name).as_deref(), Ok(name));
        }
        for name in ["a b", "ä", "..", "a/b", &"a".repeat(250)] {
            assert!(instance_id(name).is_err(), "{name}");
        }
    }
}
