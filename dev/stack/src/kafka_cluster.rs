//! Three Kafka nodes in one cluster: each is a broker and a voter of the controller quorum.

use std::sync::Arc;

use anyhow::{Context, Result};

use crate::kafka::{KafkaOptions, KafkaServer};
use crate::kafka_node::KafkaNode;
use crate::ports::ReservedPort;

const BROKERS: usize = 3;

/// A private Kafka with three brokers.
#[derive(Debug)]
pub struct KafkaCluster {
    brokers: [KafkaServer; BROKERS],
}

impl KafkaCluster {
    pub async fn start() -> Result<Self> {
        let ports: Arc<[_]> = (0..BROKERS)
            .map(|_| ReservedPort::find())
            .collect::<Result<Vec<_>>>()?
            .into();
        let start = |id| {
            let node = Some(KafkaNode {
                id,
                ports: Arc::clone(&ports),
            });
            KafkaServer::start(KafkaOptions {
                node,
                ..KafkaOptions::default()
            })
        };
        // Started concurrently, because a single node is no majority of the controllers.
        let (first, second, third) = tokio::try_join!(start(1), start(2), start(3))?;
        Ok(Self {
            brokers: [first, second, third],
        })
    }

    /// Returns all three addresses for `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        self.brokers
            .each_ref()
            .map(KafkaServer::bootstrap)
            .join(",")
    }

    /// Returns the broker with this ID in the metadata, counted from 1.
    pub fn broker(&self, id: i32) -> Result<&KafkaServer> {
        let at = usize::try_from(id - 1)
            .ok()
            .and_then(|at| self.brokers.get(at));
        at.with_context(|| format!("there is no broker {id}"))
    }
}
