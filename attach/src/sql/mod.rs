//! Sessions with their database: one for reading, READ ONLY and without a transaction, and one for
//! a repair, whose locks end soon after this process vanishes. Statements are prepared, and run as
//! they were written. What differs between the products is in their drivers.

mod mysql;
mod postgres;

use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::config::{MysqlArgs, TlsArgs};
use firstcome_shared::mysql::DbSettings;
use firstcome_shared::report::FailureCause;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};

use crate::error::{Answer, AttachError};
use crate::text::{Field, Query, Statement, Values};
use mysql::MysqlDriver;
use postgres::{PostgresDriver, PostgresSettings};

/// Limit of each statement of a look.
pub const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Limit of a whole repair, from its first statement to COMMIT, but for one that reads all rows.
pub const REPAIR_LIMIT: Duration = Duration::from_secs(1);

/// By so much, at most, one may take longer that reads all rows.
pub const PROOF_LIMIT: Duration = Duration::from_secs(8);

/// Seconds after which the server ends the session of a repair that says nothing, so that its locks
/// end when our host vanishes.
const SILENT_SECONDS: u64 = 5;

/// The address of their database.
#[allow(clippy::large_enum_variant, reason = "one for each file")]
#[derive(Clone)]
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
pub struct Session {
    driver: Option<Driver>,
    /// When the transaction has to be over. Without one, each statement has its own limit.
    until: Option<Instant>,
}

#[allow(clippy::large_enum_variant, reason = "a few for each file")]
enum Driver {
    Mysql(MysqlDriver),
    Postgres(PostgresDriver),
}

/// A value as text; `None`: NULL.
pub type Cell = Option<String>;

/// A foreign key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    pub table: String,
    pub to: String,
}

/// Reads a whole number. A SUM comes with zeros behind a point.
pub fn whole(text: &str) -> Option<i64> {
    let number = text.split_once('.').map_or(text, |(whole, zeros)| {
        if zeros.bytes().all(|digit| digit == b'0') {
            whole
        } else {
            text
        }
    });
    number.parse().ok()
}

/// Receives rows, and returns whether the next one is wanted.
pub type EachRow<'a> = &'a mut (dyn FnMut(&[Cell]) -> Answer<bool> + Send);

/// A statement that has ended, or was only prepared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    pub columns: usize,
    pub first: ColumnType,
    /// Rows that it changed, or returned.
    pub changed: u64,
    /// Not all rows were read.
    is_cut: bool,
}

/// The type of the first column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ColumnType {
    #[default]
    Text,
    Integer,
    /// Bytes, dates, fractions: their text depends on who writes it.
    Other,
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
            let settings = PostgresSettings::new(url, tls);
            return settings.map(Self::Postgres).context("database");
        }
        let settings = MysqlArgs::at(url.to_owned().into(), tls, timeout_ms);
        settings.map(Self::Mysql).context("database")
    }

    pub async fn open(&self, purpose: Purpose) -> Answer<Session> {
        let why = match timeout(LOOK_LIMIT, self.connect(purpose)).await {
            Ok(Ok(driver)) => {
                return Ok(Session {
                    driver: Some(driver),
                    until: None,
                });
            }
            Ok(Err(AttachError::Refused { refusal, .. })) => refusal.why,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no connection in time".to_owned(),
        };
        Err(AttachError::away(FailureCause::Mysql, why))
    }

    /// Prepares a statement, which is not run.
    pub async fn prepare(&self, query: Query<'_>) -> Answer<()> {
        let purpose = if query.field.writes() {
            Purpose::Repair
        } else {
            Purpose::Read
        };
        let mut session = self.open(purpose).await?;
        session.run(query, None).await.map(drop)
    }

    async fn connect(&self, purpose: Purpose) -> Answer<Driver> {
        let mut driver = match self {
            Self::Mysql(settings) => Driver::Mysql(MysqlDriver::connect(settings).await?),
            Self::Postgres(settings) => Driver::Postgres(PostgresDriver::connect(settings).await?),
        };
        let settings = match driver {
            Driver::Mysql(_) => mysql::settings(purpose),
            Driver::Postgres(_) => postgres::settings(purpose),
        };
        for setting in settings {
            driver.command(&setting).await?;
        }
        Ok(driver)
    }
}

impl Driver {
    /// Runs a statement; without `each`, only prepares it.
    async fn run(&mut self, query: &Query<'_>, each: Option<EachRow<'_>>) -> Answer<Done> {
        match self {
            Self::Mysql(driver) => driver.run(query, each).await,
            Self::Postgres(driver) => driver.run(query, each).await,
        }
    }

    /// Runs a command of ours.
    async fn command(&mut self, command: &str) -> Answer<Done> {
        match self {
            Self::Mysql(driver) => driver.command(command).await?,
            Self::Postgres(driver) => driver.command(command).await?,
        }
        Ok(Done::default())
    }

    /// Ends a statement whose answer comes too late. It needs no right, because it is our own.
    async fn end(self) {
        match self {
            Self::Mysql(driver) => driver.end().await,
            Self::Postgres(driver) => driver.end().await,
        }
    }
}

impl Session {
    pub fn is_open(&self) -> bool {
        self.driver.is_some()
    }

    /// Passes each row to `each` as it arrives.
    pub async fn read(&mut self, query: Query<'_>, each: EachRow<'_>) -> Answer<Done> {
        self.run(query, Some(each)).await
    }

    /// Returns how many rows a statement has changed or, as a `SELECT … FOR UPDATE`, locked.
    pub async fn change(&mut self, query: Query<'_>) -> Answer<u64> {
        let done = self.run(query, Some(&mut |_| Ok(true))).await?;
        Ok(done.changed)
    }

    pub async fn begin(&mut self) -> Answer<()> {
        self.until = Some(Instant::now() + REPAIR_LIMIT);
        self.command("START TRANSACTION").await
    }

    /// Lets the transaction take longer.
    pub fn extend(&mut self, by: Duration) {
        self.until = self.until.map(|until| until + by);
    }

    /// After an error, nobody knows whether it was committed.
    pub async fn commit(&mut self) -> Answer<()> {
        self.command("COMMIT").await
    }

    pub async fn rollback(&mut self) -> Answer<()> {
        self.command("ROLLBACK").await
    }

    pub async fn server(&mut self) -> Answer<Server> {
        let mut about = self.cells([mysql::ABOUT, postgres::ABOUT]).await?;
        Ok(Server {
            is_read_only: about.pop().flatten().as_deref() != Some("0"),
            id: about.pop().flatten().unwrap_or_default(),
        })
    }

    /// Returns the tables whose changes cannot be rolled back. All of PostgreSQL's can.
    pub async fn unsafe_tables(&mut self) -> Answer<Vec<String>> {
        let tables = self.cells([mysql::UNSAFE_TABLES, postgres::NONE]).await?;
        Ok(tables.into_iter().flatten().collect())
    }

    /// Returns the foreign keys whose rows lock the numbers of the row that they refer to. Those of
    /// PostgreSQL lock its key only.
    pub async fn references(&mut self) -> Answer<Vec<Reference>> {
        let cells = self.cells([mysql::REFERENCES, postgres::NONE]).await?;
        let names: Vec<String> = cells.into_iter().flatten().collect();
        let references = names.chunks_exact(2).map(|names| Reference {
            table: names[0].clone(),
            to: names[1].clone(),
        });
        Ok(references.collect())
    }

    /// Returns the cells of a query of ours for each product, row by row.
    async fn cells(&mut self, [mysql, postgres]: [&str; 2]) -> Answer<Vec<Cell>> {
        let statement = Statement::new(match self.driver {
            Some(Driver::Postgres(_)) => postgres,
            Some(Driver::Mysql(_)) | None => mysql,
        });
        let mut cells = Vec::new();
        let query = Query::new(Field::Ours, &statement, Values::default());
        self.read(query, &mut |row| {
            cells.extend_from_slice(row);
            Ok(true)
        })
        .await?;
        Ok(cells)
    }

    async fn run(&mut self, query: Query<'_>, each: Option<EachRow<'_>>) -> Answer<Done> {
        let mut driver = self.take()?;
        let ran = timeout_at(self.deadline(), driver.run(&query, each)).await;
        self.ended(query.field, driver, ran)
    }

    async fn command(&mut self, command: &str) -> Answer<()> {
        let mut driver = self.take()?;
        let ran = timeout_at(self.deadline(), driver.command(command)).await;
        self.ended(Field::Ours, driver, ran).map(drop)
    }

    fn deadline(&self) -> Instant {
        self.until.unwrap_or_else(|| Instant::now() + LOOK_LIMIT)
    }

    fn take(&mut self) -> Answer<Driver> {
        let broken = || AttachError::Lost("the connection to your database broke".to_owned());
        self.driver.take().ok_or_else(broken)
    }

    /// Keeps the connection after a whole answer and after a refusal.
    fn ended(
        &mut self,
        field: Field,
        driver: Driver,
        ran: Result<Answer<Done>, Elapsed>,
    ) -> Answer<Done> {
        match ran {
            Ok(Ok(done)) => {
                self.driver = Some(driver).filter(|_| !done.is_cut);
                Ok(done)
            }
            Ok(Err(AttachError::Refused { refusal, .. })) => {
                self.driver = Some(driver);
                Err(AttachError::Refused { field, refusal })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                tokio::spawn(driver.end());
                Err(AttachError::Lost(format!(
                    "{field}: your database gave no answer in time: a lock on its table, or a \
                    slow statement"
                )))
            }
        }
    }
}
