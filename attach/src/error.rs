//! Why a store of theirs could not be read or written.

use firstcome_shared::mysql::DbError;
use firstcome_shared::quoted::without_values;
use firstcome_shared::report::{Cause, FailureCause};

use crate::text::Field;

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A store does not let this process in, or does not answer a ping.
    #[error("{}: {why}", store_name(*.store))]
    Away { store: FailureCause, why: String },
    /// A connection broke, or an answer came too late, while the store answers others.
    #[error("{0}")]
    Lost(String),
    #[error("your database refuses {field}: {}", .refusal.why)]
    Refused { field: Field, refusal: Refusal },
    /// The file does not fit their stores.
    #[error("{0}")]
    Misfit(String),
    #[error(transparent)]
    Ours(#[from] DbError),
    #[error("the process was told to stop")]
    Stopped,
}

/// What their database answered to a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// MySQL's number.
    pub code: Option<u16>,
    /// A unique key refused the row.
    pub is_duplicate: bool,
    /// The server's number or code with its text, without values.
    pub why: String,
}

/// The result of a query of their stores.
pub type Answer<T> = Result<T, AttachError>;

impl From<Refusal> for AttachError {
    /// The session writes the field of a statement that is in the file.
    fn from(refusal: Refusal) -> Self {
        Self::Refused {
            field: Field::Ours,
            refusal,
        }
    }
}

impl AttachError {
    pub fn misfit(why: impl Into<String>) -> Self {
        Self::Misfit(why.into())
    }

    /// Returns the cause of the finding about a campaign that could not be compared.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Away { store, .. } => Cause::Away(*store),
            Self::Refused { refusal, .. } => refusal
                .code
                .map_or(Cause::NotCompared, Cause::StatementRefused),
            Self::Lost(_) | Self::Misfit(_) | Self::Ours(_) | Self::Stopped => Cause::NotCompared,
        }
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
