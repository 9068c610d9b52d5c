//! What every request may use.

use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::mysql::Db;
use firstcome_shared::redis::Redis;

use super::admit::Claims;
use super::catalogue::Catalogue;
use super::clock::Clock;
use super::identity::Identity;
use super::in_hand::InHand;
use super::stock::Stocks;

/// The services of one process.
pub(super) struct Services {
    pub(super) db: Db,
    pub(super) redis: Redis,
    pub(super) claims: Arc<Claims>,
    pub(super) catalogue: Catalogue,
    pub(super) stocks: Stocks,
    pub(super) clock: Arc<Clock>,
    pub(super) identity: Identity,
    pub(super) in_hand: Arc<InHand>,
    /// Longest time for the answer to one request.
    pub(super) request_timeout: Duration,
    /// One operator's change at a time in this process; MySQL sorts out those of several.
    pub(super) changing: tokio::sync::Mutex<()>,
}

/// The services, shared.
pub(super) type App = Arc<Services>;
