//! Why something could not be read.

use std::io;

use firstcome_shared::mysql::DbError;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::reads::is_about_data;

#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error("Redis cannot be reached: {0}")]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Mysql(#[from] DbError),
    #[error("the file of unread messages cannot be read: {0}")]
    Messages(#[from] io::Error),
}

impl CollectError {
    /// What is wrong with what is stored of one drop; `None` where a store is away.
    pub fn about_data(&self) -> Option<String> {
        match self {
            Self::Redis(error) => is_about_data(error).then(|| format!("Redis: {error}")),
            Self::Mysql(error) => error.is_about_data().then(|| error.to_string()),
            Self::Messages(_) => None,
        }
    }
}
