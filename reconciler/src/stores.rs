//! Connections to Redis, the topic and MySQL.

use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_shared::redis::Redis;

use crate::collect::TopicReader;

/// Connections to every store. Cheap to clone.
#[derive(Clone)]
pub struct Stores {
    pub db: Db,
    /// MySQL, for connections of their own.
    pub db_settings: DbSettings,
    pub redis: Redis,
    pub topic: TopicReader,
}
