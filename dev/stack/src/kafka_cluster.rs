//! Three Kafkas that are one cluster: each is a broker and a voter of the controllers' quorum.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::kafka::{KafkaOptions, KafkaServer};
use crate::ports::ReservedPort;

const BROKERS: usize = 3;

/// One of several brokers. They know each other before the first is started.
#[derive(Debug, Clone)]
pub struct KafkaNode {
    id: usize,
    /// Of the controllers, by the ids of their nodes.
    ports: Arc<[ReservedPort]>,
}

impl KafkaNode {
    /// Three fit where one is usual.
    pub(crate) const HEAP: &'static str = "-Xmx160m";

    /// Offsets of groups outlive a broker too. Each cleaner takes 128 MB of the heap by default.
    pub(crate) const PROPERTIES: &'static str = "\
        offsets.topic.replication.factor=3\n\
        log.cleaner.dedupe.buffer.size=2097152\n\
        num.network.threads=1\n\
        num.io.threads=2\n";

    /// From 1 on.
    pub(crate) fn id(&self) -> usize {
        self.id
    }

    pub(crate) fn controllers(&self) -> Vec<u16> {
        self.ports.iter().map(ReservedPort::number).collect()
    }

    /// A formatted log folder names the node, and itself by an id of its own: both are of node 1.
    pub(crate) fn takes_over(&self, data: &Path) -> Result<()> {
        let path = data.join("meta.properties");
        let text = fs::read_to_string(&path).context("the log folder is not formatted")?;
        let of_this_node = |line: &str| match line.split_once('=') {
            Some(("node.id", _)) => format!("node.id={}\n", self.id),
            // 22 letters and digits.
            Some(("directory.id", id)) => {
                format!("directory.id={}{}{}\n", id.get(..4).unwrap_or(""), self.id, id.get(5..).unwrap_or(""))
            }
            _ => format!("{line}\n"),
        };
        Ok(fs::write(&path, text.lines().map(of_this_node).collect::<String>())?)
    }
}

/// A private Kafka with three brokers.
#[derive(Debug)]
pub struct KafkaCluster {
    brokers: [KafkaServer; BROKERS],
}

impl KafkaCluster {
    pub async fn start() -> Result<Self> {
        let ports: Arc<[_]> = (0..BROKERS).map(|_| ReservedPort::find()).collect::<Result<Vec<_>>>()?.into();
        let start = |id| {
            let node = Some(KafkaNode { id, ports: Arc::clone(&ports) });
            KafkaServer::start(KafkaOptions { node, ..KafkaOptions::default() })
        };
        // Side by side: one alone is no majority of the controllers.
        let (first, second, third) = tokio::try_join!(start(1), start(2), start(3))?;
        Ok(Self { brokers: [first, second, third] })
    }

    /// All three, for `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        self.brokers.each_ref().map(KafkaServer::bootstrap).join(",")
    }

    /// The broker with this id, as metadata names it: from 1 on.
    pub fn broker(&self, id: i32) -> Result<&KafkaServer> {
        let at = usize::try_from(id - 1).ok().and_then(|at| self.brokers.get(at));
        at.with_context(|| format!("there is no broker {id}"))
    }
}
