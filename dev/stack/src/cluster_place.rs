//! Parses `CLUSTER NODES` of a Redis Cluster node.

use std::ops::RangeInclusive;

use anyhow::{Context, Result};

use crate::redis_group::{ask, words};

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClusterPlace {
    /// The ID of the node's primary. `None` if the node is a primary.
    pub(crate) primary: Option<String>,
    /// If two nodes claim a slot, the node with the higher epoch owns it.
    pub(crate) epoch: u64,
    slots: Vec<RangeInclusive<u16>>,
}

impl ClusterPlace {
    pub(crate) async fn of(port: u16) -> Result<Self> {
        let nodes: String = ask(port, &words("CLUSTER NODES")).await?;
        Self::read(&nodes)
            .with_context(|| format!("Redis at port {port} has no place in {nodes:?}"))
    }

    /// Parses lines of the form `ID ADDRESS FLAGS PRIMARY PING PONG EPOCH LINK SLOT…`.
    fn read(nodes: &str) -> Option<Self> {
        let own = nodes.lines().find(|line| line.contains("myself"))?;
        let mut words = own.split(' ').skip(3);
        let primary = words.next().filter(|id| *id != "-").map(str::to_owned);
        let epoch = words.nth(2)?.parse().ok()?;
        Some(Self {
            primary,
            epoch,
            slots: words.skip(1).filter_map(range).collect(),
        })
    }

    pub(crate) fn serves(&self, slot: u16) -> bool {
        self.primary.is_none() && self.slots.iter().any(|range| range.contains(&slot))
    }
}

/// Returns the roles and slots of all nodes. Nodes that agree return equal lists.
pub(crate) fn roles(nodes: &str) -> Vec<String> {
    let role = |line: &str| {
        let words = line
            .split(' ')
            .enumerate()
            .filter(|(at, _)| matches!(at, 0 | 3 | 8..));
        words.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
    };
    let mut roles: Vec<_> = nodes.lines().map(role).collect();
    roles.sort();
    roles
}

/// Parses `7` or `0-5460`. A migrating slot, in brackets, is also listed normally while the node
/// still owns it.
fn range(word: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some(first.parse().ok()?..=last.parse().ok()?)
}
