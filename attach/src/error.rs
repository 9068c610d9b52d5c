//! Why a store of theirs could not be read or written.

use firstcome_shared::mysql::DbError;
use firstcome_shared::quoted::without_values;
use firstcome_shared::report::FailureCause;

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A store does not let this process in, or does not answer a ping.
    #[error("{}: {why}", store_name(*.store))]
    Away { store: FailureCause, why: String },
    /// Their database refuses a statement.
    #[error("your database refuses {field}: {why}")]
    Refused {
        field: String,
        /// A unique key refused the row.
        is_duplicate: bool,
        /// The server's number or code with its text, without values.
        why: String,
    },
    /// The file does not fit a store that answers, or one answer of it did not come.
    #[error("{0}")]
    Misfit(String),
    #[error(transparent)]
    Ours(#[from] DbError),
    #[error("the process was told to stop")]
    Stopped,
}

/// The result of a query of their stores.
pub type Answer<T> = Result<T, AttachError>;

impl AttachError {
    pub fn misfit(why: impl Into<String>) -> Self {
        Self::Misfit(why.into())
    }

    pub fn away(store: FailureCause, why: impl std::fmt::Display) -> Self {
        Self::Away {
            store,
            why: without_values(why),
        }
    }
}

fn store_name(store: FailureCause) -> &'static str {
    match store {
        FailureCause::Mysql => "your database",
        FailureCause::Redis => "your Redis",
        FailureCause::Kafka => "your Kafka",
        FailureCause::Other => "this process",
    }
}
