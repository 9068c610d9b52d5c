//! Static membership of the consumer group: a process with an instance id keeps its partitions
//! during a restart.

use rdkafka::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;

#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) group: String,
    /// The name of a static member.
    pub(crate) instance_id: Option<String>,
}

impl Membership {
    pub(crate) fn apply(&self, config: &mut ClientConfig) {
        if let Some(id) = &self.instance_id {
            config.set("group.instance.id", id);
        }
    }

    /// Returns the setting that makes the group refuse this process, if there is one.
    pub(crate) fn why_not(&self, code: RDKafkaErrorCode) -> Option<String> {
        let group = &self.group;
        match (code, &self.instance_id) {
            (RDKafkaErrorCode::FencedInstanceId, Some(id)) => Some(format!(
                "another process has joined the group {group:?} as {id:?} and has this one's partitions: give each \
                 consumer a different KAFKA_CONFIG_GROUP_INSTANCE_ID"
            )),
            // librdkafka cannot offer both protocols, so a group changes from one to the other only
            // while it is empty.
            (RDKafkaErrorCode::InconsistentGroupProtocol, _) => Some(format!(
                "the group {group:?} has consumers of an earlier version that rebalance eagerly: this one waits until \
                 they have stopped"
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership(instance_id: Option<&str>) -> Membership {
        Membership {
            group: "g".into(),
            instance_id: instance_id.map(str::to_owned),
        }
    }

    #[test]
    fn error_names_the_setting_that_makes_the_group_refuse_this_process() {
        let of = |code, id| membership(id).why_not(code);
        let fenced = of(RDKafkaErrorCode::FencedInstanceId, Some("consumer-1")).unwrap();
        assert!(
            fenced.contains("\"consumer-1\"") && fenced.contains("KAFKA_CONFIG_GROUP_INSTANCE_ID"),
            "{fenced}"
        );
        let mixed = of(RDKafkaErrorCode::InconsistentGroupProtocol, None).unwrap();
        assert!(mixed.contains("consumers of an earlier version"), "{mixed}");
        assert_eq!(
            of(RDKafkaErrorCode::UnknownMemberId, Some("consumer-1")),
            None
        );
    }

    #[test]
    fn client_accepts_static_and_dynamic_membership() {
        for id in [None, Some("consumer-1")] {
            let mut config = ClientConfig::new();
            membership(id).apply(&mut config);
            assert_eq!(config.get("group.instance.id"), id);
            config.create_native_config().unwrap();
        }
    }
}
