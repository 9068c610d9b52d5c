//! Errors of collecting the state of the stores.

use firstcome_shared::mysql::DbError;
use firstcome_shared::quoted::without_values;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::wrong_key::is_about_data;

#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    #[error("Redis cannot be reached: {}", without_values(.0))]
    Redis(#[from] RedisError),
    #[error(transparent)]
    Mysql(#[from] DbError),
    /// Admission never creates this many members, so the data is foreign.
    #[error(
        "Redis has 200,000 people or free slots, or more, on slots {from} to {to}, where the drop has no such number: a person takes \
         out of the drop's `users` and `free` in Redis what does not belong there"
    )]
    Crowded { from: i64, to: String },
}

impl CollectError {
    /// Returns the fault in the drop's data, or `None` if a store is unavailable.
    pub fn about_data(&self) -> Option<String> {
        match self {
            Self::Redis(error) => {
                is_about_data(error).then(|| format!("Redis: {}", without_values(error)))
            }
            Self::Mysql(error) => error.is_about_data().then(|| error.to_string()),
            Self::Crowded { .. } => Some(self.to_string()),
        }
    }
}
