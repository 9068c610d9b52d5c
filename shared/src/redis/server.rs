//! Facts that a Redis server reports about itself.

use std::collections::HashMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Changes with every start of the process.
    pub run_id: String,
    /// `master_replid2`, which identifies the data that the server had when it was promoted. Zeros
    /// if it was never promoted. `master_replid` is unsuitable, because it also changes when the
    /// first replica connects.
    pub promoted_from: String,
    /// `redis_version`.
    pub version: String,
    pub is_master: bool,
}

impl ServerFacts {
    /// Parses `INFO server` and `INFO replication`.
    pub(super) fn of(info: &str) -> Self {
        let fields = fields(info);
        let field = |name: &str| (*fields.get(name).unwrap_or(&"")).to_owned();
        Self {
            run_id: field("run_id"),
            promoted_from: field("master_replid2"),
            version: field("redis_version"),
            is_master: is_master(info),
        }
    }

    /// Identifies one server process between two promotions.
    pub(super) fn id(&self) -> String {
        format!("{}:{}", self.run_id, self.promoted_from)
    }
}

/// Parses `INFO` into fields by name.
pub(super) fn fields(info: &str) -> HashMap<&str, &str> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .collect()
}

/// Whether `INFO replication` describes a master.
pub(super) fn is_master(replication: &str) -> bool {
    replication
        .lines()
        .any(|line| line.trim_end() == "role:master")
}
