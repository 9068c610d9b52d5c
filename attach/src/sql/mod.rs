//! Sessions with their database: one for reading, READ ONLY and without a transaction, and one for
//! a repair, whose locks end soon after this process vanishes. Statements are prepared, run as they
//! were written, and closed.

mod mysql;
mod postgres;

use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::config::{MysqlArgs, TlsArgs};
use firstcome_shared::mysql::DbSettings;
use tokio::time::Instant;

use crate::error::{Answer, AttachError};
use crate::text::{Dialect, Prepared, Statement, Values};
use postgres::PostgresSettings;

/// Limit of each statement of a look.
pub const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Limit of a whole repair, from its first statement to COMMIT.
pub const REPAIR_LIMIT: Duration = Duration::from_secs(1);

/// Seconds after which the server ends the session of a repair that says nothing, so that its locks
/// end when our host vanishes.
const SILENT_SECONDS: u64 = 5;

/// The address of their database.
#[allow(clippy::large_enum_variant, reason = "one for each file")]
#[derive(Debug, Clone)]
pub enum Database {
    Mysql(DbSettings),
    Postgres(PostgresSettings),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Read,
    Repair,
}

/// A session. After an error that may have left an answer unread, it is closed and stays closed: a
/// statement of a transaction must never run on another connection.
#[allow(clippy::large_enum_variant, reason = "a few for each file")]
pub enum Session {
    Mysql(mysql::MysqlSession),
    Postgres(postgres::PostgresSession),
}

/// The columns that a statement selects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Columns {
    pub number: usize,
    /// The type of the first one.
    pub first: ColumnType,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ColumnType {
    #[default]
    Text,
    Integer,
    /// Bytes without a character set.
    Binary,
    /// Dates, fractions: their text depends on who writes it.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell {
    Null,
    Integer(i64),
    Text(String),
}

impl Cell {
    /// Returns the value as text; `None` if it is NULL.
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Null => None,
            Self::Integer(number) => Some(number.to_string()),
            Self::Text(text) => Some(text.clone()),
        }
    }

    /// Returns a whole number. A SUM comes as text.
    pub fn number(&self) -> Option<i64> {
        match self {
            Self::Null => None,
            Self::Integer(number) => Some(*number),
            Self::Text(text) => {
                let whole = text
                    .split_once('.')
                    .map_or(text.as_str(), |(whole, zeros)| {
                        if zeros.bytes().all(|digit| digit == b'0') {
                            whole
                        } else {
                            text
                        }
                    });
                whole.parse().ok()
            }
        }
    }
}

/// Receives rows, and returns whether the next one is wanted.
pub type EachRow<'a> = &'a mut (dyn FnMut(&Columns, &[Cell]) -> Answer<bool> + Send);

/// A statement of the file with its place there and its values.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// For errors.
    pub field: &'a str,
    pub statement: &'a Statement,
    pub values: Values<'a>,
    pub until: Instant,
}

/// The server that a session reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub id: String,
    pub is_read_only: bool,
}

impl Database {
    /// Connects to nothing yet.
    pub fn new(url: &str, tls: &TlsArgs, timeout_ms: u64) -> anyhow::Result<Self> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let settings = PostgresSettings::new(url, tls, timeout_ms);
            return settings.map(Self::Postgres).context("database");
        }
        let settings = MysqlArgs::at(url.to_owned().into(), tls, timeout_ms);
        settings.map(Self::Mysql).context("database")
    }

    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Mysql(_) => Dialect::Mysql,
            Self::Postgres(_) => Dialect::Postgres,
        }
    }

    pub async fn open(&self, purpose: Purpose) -> Answer<Session> {
        match self {
            Self::Mysql(settings) => mysql::open(settings, purpose).await.map(Session::Mysql),
            Self::Postgres(settings) => {
                let session = postgres::open(settings, purpose).await;
                session.map(Session::Postgres)
            }
        }
    }
}

impl Session {
    /// Returns the columns of a statement that is not run.
    pub async fn describe(&mut self, field: &str, statement: &Statement) -> Answer<Columns> {
        match self {
            Self::Mysql(session) => session.describe(field, statement).await,
            Self::Postgres(session) => session.describe(field, statement).await,
        }
    }

    /// Passes each row to `each` as it arrives.
    pub async fn read(&mut self, query: Query<'_>, each: EachRow<'_>) -> Answer<()> {
        match self {
            Self::Mysql(session) => session.read(query, each).await,
            Self::Postgres(session) => session.read(query, each).await,
        }
    }

    /// Returns how many rows a statement has changed.
    pub async fn change(&mut self, query: Query<'_>) -> Answer<u64> {
        match self {
            Self::Mysql(session) => session.change(query).await,
            Self::Postgres(session) => session.change(query).await,
        }
    }

    pub async fn begin(&mut self, until: Instant) -> Answer<()> {
        self.command("START TRANSACTION", until).await
    }

    /// After an error, nobody knows whether it was committed.
    pub async fn commit(&mut self, until: Instant) -> Answer<()> {
        self.command("COMMIT", until).await
    }

    pub async fn rollback(&mut self, until: Instant) -> Answer<()> {
        self.command("ROLLBACK", until).await
    }

    async fn command(&mut self, command: &'static str, until: Instant) -> Answer<()> {
        match self {
            Self::Mysql(session) => session.command(command, until).await,
            Self::Postgres(session) => session.command(command, until).await,
        }
    }

    pub async fn server(&mut self) -> Answer<Server> {
        match self {
            Self::Mysql(session) => session.server().await,
            Self::Postgres(session) => session.server().await,
        }
    }

    /// Returns the tables whose changes cannot be rolled back.
    pub async fn unsafe_tables(&mut self) -> Answer<Vec<String>> {
        match self {
            Self::Mysql(session) => session.unsafe_tables().await,
            // All tables of PostgreSQL are transactional.
            Self::Postgres(_) => Ok(Vec::new()),
        }
    }
}

/// Returns the texts of the first column of all rows.
pub async fn texts(session: &mut Session, query: Query<'_>) -> Answer<Vec<String>> {
    let mut texts = Vec::new();
    let mut each = |_: &Columns, row: &[Cell]| {
        texts.extend(row.first().and_then(Cell::text));
        Ok(true)
    };
    session.read(query, &mut each).await?;
    Ok(texts)
}

/// Refuses a statement of which the server does not see every name as a parameter.
fn must_see_all(field: &str, prepared: &Prepared, seen: usize) -> Answer<()> {
    if prepared.parameters.len() == seen {
        return Ok(());
    }
    let name = prepared.parameters.first().map_or(":id", |it| it.name());
    Err(AttachError::Misfit(format!(
        "{field}: a `{name}` stands in quotes or in a comment, or a `?` beside it"
    )))
}

fn broken() -> AttachError {
    AttachError::Lost("the connection to your database broke".to_owned())
}

fn too_late(field: &str) -> AttachError {
    AttachError::Lost(format!(
        "{field}: your database gave no answer in time: a lock on its table, or a slow statement"
    ))
}
