//! One broker of several, as its properties name it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::ports::ReservedPort;

/// One of several brokers. They know each other before the first is started.
#[derive(Debug, Clone)]
pub struct KafkaNode {
    pub(crate) id: usize,
    /// Of the controllers, by the ids of their nodes.
    pub(crate) ports: Arc<[ReservedPort]>,
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
                format!(
                    "directory.id={}{}{}\n",
                    id.get(..4).unwrap_or(""),
                    self.id,
                    id.get(5..).unwrap_or("")
                )
            }
            _ => format!("{line}\n"),
        };
        Ok(fs::write(
            &path,
            text.lines().map(of_this_node).collect::<String>(),
        )?)
    }
}
