//! The properties of one broker of a cluster.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::ports::ReservedPort;

/// One of several brokers. The ports of all brokers are known before the first one starts.
#[derive(Debug, Clone)]
pub struct KafkaNode {
    pub(crate) id: usize,
    /// The controllers' ports by node ID.
    pub(crate) ports: Arc<[ReservedPort]>,
}

impl KafkaNode {
    /// Less than the default heap of 384 MB, because a cluster runs three of these brokers.
    pub(crate) const HEAP: &'static str = "-Xmx160m";

    /// Three copies of group offsets, so that they survive the loss of a broker.
    pub(crate) const PROPERTIES: &'static str = "offsets.topic.replication.factor=3\n";

    /// Returns the node ID, counted from 1.
    pub(crate) fn id(&self) -> usize {
        self.id
    }

    pub(crate) fn controllers(&self) -> Vec<u16> {
        self.ports.iter().map(ReservedPort::number).collect()
    }

    /// Rewrites the node ID and directory ID of a formatted log folder. Both initially belong to
    /// node 1.
    pub(crate) fn takes_over(&self, data: &Path) -> Result<()> {
        let path = data.join("meta.properties");
        let text = fs::read_to_string(&path).context("the log folder is not formatted")?;
        let of_this_node = |line: &str| match line.split_once('=') {
            Some(("node.id", _)) => format!("node.id={}\n", self.id),
            // Changes one of the 22 characters of the ID, so that it is unique in the cluster.
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
