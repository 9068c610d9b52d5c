//! The gate as this process knows it, by the epoch of Redis's life.

use super::server::{fields, is_master};

/// One life of Redis.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Epoch(pub(super) String);

impl Epoch {
    pub(super) fn fresh() -> Self {
        Self(format!("{:016x}", rand::random::<u64>()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The gate as this process read it last: which script it calls. By default it is not known.
#[derive(Default)]
pub(super) struct KnownGate {
    pub(super) epoch: Option<Epoch>,
    pub(super) script: String,
    /// This server is the one that was verified.
    pub(super) open: bool,
    /// [`ServerFacts::promoted_from`](super::server::ServerFacts::promoted_from) of this server.
    pub(super) promoted_from: String,
}

impl KnownGate {
    /// Whether a coupon that was verified in `verified` is open.
    pub(super) fn has_epoch(&self, verified: Option<&str>) -> bool {
        verified.is_some() && verified == self.epoch.as_ref().map(|epoch| epoch.0.as_str())
    }

    /// Whether `INFO replication` is of this server, and it was not demoted since: one that was
    /// promoted again has older data and the same scripts.
    pub(super) fn is_of(&self, replication: &str) -> bool {
        is_master(replication)
            && fields(replication).get("master_replid2") == Some(&self.promoted_from.as_str())
    }
}
