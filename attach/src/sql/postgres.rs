//! PostgreSQL.

use std::pin::pin;
use std::time::Duration;

use firstcome_shared::config::TlsArgs;
use firstcome_shared::quoted::without_values;
use firstcome_shared::report::FailureCause;
use futures_util::TryStreamExt as _;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::types::{
    Format, FromSql, IsNull, ToSql, Type, private::BytesMut, to_sql_checked,
};
use tokio_postgres::{Client, Config, Error, NoTls, Row, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    Cell, ColumnType, Columns, EachRow, LOOK_LIMIT, Purpose, Query, REPAIR_LIMIT, SILENT_SECONDS,
    Server, broken, must_see_all, too_late,
};
use crate::error::{Answer, AttachError, Refusal};
use crate::text::{Dialect, Prepared, Statement, Values};

#[derive(Debug, Clone)]
pub struct PostgresSettings {
    config: Config,
    tls: TlsArgs,
    limit: Duration,
}

impl PostgresSettings {
    pub(super) fn new(url: &str, tls: &TlsArgs, timeout_ms: u64) -> anyhow::Result<Self> {
        let limit = Duration::from_millis(timeout_ms) * 4;
        let mut config: Config = url.parse()?;
        config.connect_timeout(limit);
        config.application_name("firstcome");
        let settings = Self {
            config,
            tls: tls.clone(),
            limit,
        };
        settings.tls()?;
        Ok(settings)
    }

    /// Returns how connections are encrypted; `None` without `sslmode=require`.
    fn tls(&self) -> anyhow::Result<Option<MakeRustlsConnect>> {
        if self.config.get_ssl_mode() != SslMode::Require {
            return Ok(None);
        }
        self.tls
            .for_postgres()
            .map(|tls| Some(MakeRustlsConnect::new(tls)))
    }
}

pub struct PostgresSession {
    client: Option<Client>,
    settings: PostgresSettings,
}

pub(super) async fn open(settings: &PostgresSettings, purpose: Purpose) -> Answer<PostgresSession> {
    let connecting = timeout(settings.limit, connect(settings)).await;
    let client = match connecting {
        Ok(Ok(client)) => client,
        Ok(Err(why)) => return Err(AttachError::away(FailureCause::Mysql, why)),
        Err(_) => {
            return Err(AttachError::away(
                FailureCause::Mysql,
                "no connection in time",
            ));
        }
    };
    let mut session = PostgresSession {
        client: Some(client),
        settings: settings.clone(),
    };
    let setting = match purpose {
        Purpose::Read => format!(
            "SET default_transaction_read_only = on; SET statement_timeout = {}",
            LOOK_LIMIT.as_millis()
        ),
        Purpose::Repair => format!(
            "SET default_transaction_isolation = 'read committed'; SET statement_timeout = {0}; \
             SET lock_timeout = {0}; SET idle_in_transaction_session_timeout = {1}",
            REPAIR_LIMIT.as_millis(),
            SILENT_SECONDS * 1_000
        ),
    };
    let until = Instant::now() + settings.limit;
    session.command(&setting, until).await?;
    Ok(session)
}

/// Connects, and spawns the task that serves the connection until its client is dropped.
async fn connect(settings: &PostgresSettings) -> Result<Client, String> {
    let tls = settings.tls().map_err(|error| error.to_string())?;
    let client = match tls {
        None => {
            let (client, connection) = settings
                .config
                .connect(NoTls)
                .await
                .map_err(|error| text(&error))?;
            tokio::spawn(connection);
            client
        }
        Some(tls) => {
            let (client, connection) = settings
                .config
                .connect(tls)
                .await
                .map_err(|error| text(&error))?;
            tokio::spawn(connection);
            client
        }
    };
    Ok(client)
}

/// Returns an error with its cause: the first text alone is "db error".
fn text(error: &Error) -> String {
    match error.as_db_error() {
        Some(cause) => cause.message().to_owned(),
        None => match std::error::Error::source(error) {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        },
    }
}

impl PostgresSession {
    pub(super) async fn describe(&mut self, field: &str, written: &Statement) -> Answer<Columns> {
        let prepared = written.prepared(Dialect::Postgres);
        let client = self.take()?;
        let described = client.prepare(&prepared.text);
        let ended = timeout_at(Instant::now() + LOOK_LIMIT, described).await;
        let statement = self.ended(field, client, ended)?;
        must_see_all(field, &prepared, statement.params().len())?;
        Ok(columns(&statement))
    }

    pub(super) async fn read(&mut self, query: Query<'_>, each: EachRow<'_>) -> Answer<()> {
        let client = self.take()?;
        let ended = timeout_at(query.until, read(&client, query, each)).await;
        let read = self.ended(query.field, client, ended)?;
        if !matches!(read, Ok(true)) {
            // The rest was not read.
            self.client = None;
        }
        read.map(drop)
    }

    pub(super) async fn change(&mut self, query: Query<'_>) -> Answer<u64> {
        let prepared = query.statement.prepared(Dialect::Postgres);
        let client = self.take()?;
        let changing = async {
            let statement = client.prepare(&prepared.text).await?;
            match must_see_all(query.field, &prepared, statement.params().len()) {
                Ok(()) => {
                    let params = params(&prepared, query.values);
                    client.execute_raw(&statement, params).await.map(Ok)
                }
                Err(misfit) => Ok(Err(misfit)),
            }
        };
        let ended = timeout_at(query.until, changing).await;
        self.ended(query.field, client, ended)?
    }

    pub(super) async fn command(&mut self, command: &str, until: Instant) -> Answer<()> {
        let client = self.take()?;
        let ended = timeout_at(until, client.batch_execute(command)).await;
        self.ended(command, client, ended)
    }

    pub(super) async fn server(&mut self) -> Answer<Server> {
        let about = "SELECT concat_ws('/', inet_server_addr(), inet_server_port(), \
            pg_postmaster_start_time()), pg_is_in_recovery()";
        let client = self.take()?;
        let until = Instant::now() + self.settings.limit;
        let ended = timeout_at(until, client.simple_query(about)).await;
        let answer = self.ended("server", client, ended)?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let value = |at: usize| row.and_then(|row| row.get(at)).unwrap_or_default();
        Ok(Server {
            id: value(0).to_owned(),
            is_read_only: value(1) == "t",
        })
    }

    fn take(&mut self) -> Answer<Client> {
        self.client.take().ok_or_else(broken)
    }

    /// Ends an operation. The session stays usable after it and after a refusal, although that ends
    /// all of a transaction but its ROLLBACK. If the answer came too late, the server is told to
    /// stop.
    fn ended<T>(
        &mut self,
        field: &str,
        client: Client,
        ended: Result<Result<T, Error>, Elapsed>,
    ) -> Answer<T> {
        let error = match ended {
            Ok(Ok(value)) => {
                self.client = Some(client);
                return Ok(value);
            }
            Ok(Err(error)) => error,
            Err(_) => {
                tokio::spawn(cancel(client, self.settings.clone()));
                return Err(too_late(field));
            }
        };
        match error.as_db_error() {
            // The session was ended: idle in a transaction, or the server stops.
            Some(cause) if cause.code().code().starts_with("57P") => {
                Err(AttachError::Lost(cause.message().to_owned()))
            }
            Some(cause) => {
                self.client = Some(client);
                Err(refused(field, cause))
            }
            None => Err(AttachError::Lost(without_values(text(&error)))),
        }
    }
}

fn refused(field: &str, cause: &DbError) -> AttachError {
    let code = cause.code();
    AttachError::Refused {
        field: field.to_owned(),
        refusal: Refusal {
            code: None,
            is_duplicate: *code == SqlState::UNIQUE_VIOLATION,
            why: format!("{} {}", code.code(), without_values(cause.message())),
        },
    }
}

/// Ends a statement that takes too long.
async fn cancel(client: Client, settings: PostgresSettings) {
    let token = client.cancel_token();
    let cancelled = match settings.tls() {
        Ok(Some(tls)) => token.cancel_query(tls).await,
        Ok(None) | Err(_) => token.cancel_query(NoTls).await,
    };
    if let Err(error) = cancelled {
        tracing::debug!(%error, "a slow statement was not cancelled");
    }
}

/// Returns whether all rows were read.
async fn read(client: &Client, query: Query<'_>, each: EachRow<'_>) -> Result<Answer<bool>, Error> {
    let prepared = query.statement.prepared(Dialect::Postgres);
    let statement = client.prepare(&prepared.text).await?;
    if let Err(misfit) = must_see_all(query.field, &prepared, statement.params().len()) {
        return Ok(Err(misfit));
    }
    let columns = columns(&statement);
    let params = params(&prepared, query.values);
    let mut rows = pin!(client.query_raw(&statement, params).await?);
    while let Some(row) = rows.try_next().await? {
        match cells(&row).and_then(|cells| each(&columns, &cells)) {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(false)),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(true))
}

/// A value as text, which the server reads as the type of its parameter.
#[derive(Debug)]
struct TextParam(String);

impl ToSql for TextParam {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

fn params(prepared: &Prepared, values: Values<'_>) -> Vec<TextParam> {
    let parameters = prepared.parameters.iter();
    parameters
        .map(|it| TextParam(values.get(*it).to_owned()))
        .collect()
}

fn columns(statement: &tokio_postgres::Statement) -> Columns {
    let first = statement.columns().first();
    Columns {
        number: statement.columns().len(),
        first: first
            .map(|column| column_type(column.type_()))
            .unwrap_or_default(),
    }
}

fn column_type(column: &Type) -> ColumnType {
    match *column {
        Type::INT2 | Type::INT4 | Type::INT8 => ColumnType::Integer,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UUID => ColumnType::Text,
        Type::BYTEA => ColumnType::Binary,
        _ => ColumnType::Other,
    }
}

fn cells(row: &Row) -> Answer<Vec<Cell>> {
    let number = row.columns().len();
    (0..number).map(|at| cell(row, at)).collect()
}

/// The bytes of a value that is no plain type.
struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

fn cell(row: &Row, at: usize) -> Answer<Cell> {
    let Some(Raw(bytes)) = row
        .try_get::<_, Option<Raw>>(at)
        .map_err(|error| unreadable(&error))?
    else {
        return Ok(Cell::Null);
    };
    let number = |bytes: &[u8]| {
        let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
        let fill = if negative { u8::MAX } else { 0 };
        let mut wide = [fill; 8];
        wide[8 - bytes.len()..].copy_from_slice(bytes);
        Cell::Integer(i64::from_be_bytes(wide))
    };
    Ok(match *row.columns()[at].type_() {
        Type::INT2 | Type::INT4 | Type::INT8 => number(&bytes),
        Type::BOOL => Cell::Integer(i64::from(bytes == [1])),
        Type::UUID => Cell::Text(uuid(&bytes)),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => {
            Cell::Text(String::from_utf8_lossy(&bytes).into_owned())
        }
        ref other => {
            return Err(AttachError::Misfit(format!(
                "a column is of type {other}: write it as CAST(… AS text) or CAST(… AS bigint)"
            )));
        }
    })
}

fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text = format!("{text}{byte:02x}");
    }
    text
}

fn unreadable(error: &Error) -> AttachError {
    AttachError::Lost(without_values(text(error)))
}
