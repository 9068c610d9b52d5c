//! PostgreSQL.

use std::error::Error as _;
use std::pin::pin;

use firstcome_shared::config::TlsArgs;
use firstcome_shared::quoted::without_values;
use futures_util::TryStreamExt as _;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{
    Format, FromSqlOwned, IsNull, ToSql, Type, private::BytesMut, to_sql_checked,
};
use tokio_postgres::{Client, Config, Error, Row};
use tokio_postgres_rustls::MakeRustlsConnect;
use uuid::Uuid;

use super::{
    Cell, ColumnType, Done, EachRow, LOOK_LIMIT, PROOF_LIMIT, Purpose, Query, REPAIR_LIMIT,
    SILENT_SECONDS,
};
use crate::error::{Answer, AttachError, Refusal};

pub(super) const ABOUT: &str = "SELECT concat_ws('/', inet_server_addr(), inet_server_port(), \
    pg_postmaster_start_time()), pg_is_in_recovery()";

/// Selects nothing.
pub(super) const NONE: &str = "SELECT '' WHERE false";

/// An address. Connections are encrypted with `sslmode=require`.
#[derive(Clone)]
pub struct PostgresSettings {
    config: Config,
    tls: MakeRustlsConnect,
}

impl PostgresSettings {
    pub(super) fn new(url: &str, tls: &TlsArgs) -> anyhow::Result<Self> {
        let mut config: Config = url.parse()?;
        config.application_name("firstcome");
        if config.get_ssl_mode() != SslMode::Require {
            config.ssl_mode(SslMode::Disable);
        }
        Ok(Self {
            config,
            tls: MakeRustlsConnect::new(tls.for_postgres()?),
        })
    }
}

pub(super) struct PostgresDriver {
    client: Client,
    settings: PostgresSettings,
}

pub(super) fn settings(purpose: Purpose) -> Vec<String> {
    vec![match purpose {
        Purpose::Read => format!(
            "SET default_transaction_read_only = on; SET statement_timeout = {}",
            LOOK_LIMIT.as_millis()
        ),
        Purpose::Repair => format!(
            "SET default_transaction_isolation = 'read committed'; SET lock_timeout = {}; \
             SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {2}; \
             SET tcp_user_timeout = {2}",
            // A deadlock is looked for after a second: we leave before that.
            (REPAIR_LIMIT / 2).as_millis(),
            PROOF_LIMIT.as_millis(),
            SILENT_SECONDS * 1_000
        ),
    }]
}

impl From<Error> for AttachError {
    /// The text of an error alone is "db error": its cause says what it is.
    fn from(error: Error) -> Self {
        match error.as_db_error() {
            // The session was ended: idle in a transaction, or the server stops.
            Some(cause)
                if cause.code().code().starts_with("57P")
                    || *cause.code() == SqlState::LOCK_NOT_AVAILABLE =>
            {
                Self::Lost(cause.message().to_owned())
            }
            Some(cause) => Self::from(Refusal {
                code: None,
                is_duplicate: *cause.code() == SqlState::UNIQUE_VIOLATION,
                why: format!(
                    "{} {}",
                    cause.code().code(),
                    without_values(cause.message())
                ),
            }),
            None => Self::Lost(match error.source() {
                Some(cause) => without_values(format!("{error}: {cause}")),
                None => without_values(&error),
            }),
        }
    }
}

impl PostgresDriver {
    /// Connects, and spawns the task that serves the connection until its client is dropped.
    pub(super) async fn connect(settings: &PostgresSettings) -> Answer<Self> {
        let connecting = settings.config.connect(settings.tls.clone());
        let (client, connection) = connecting.await?;
        tokio::spawn(connection);
        Ok(Self {
            client,
            settings: settings.clone(),
        })
    }

    pub(super) async fn run(
        &mut self,
        query: &Query<'_>,
        each: Option<EachRow<'_>>,
    ) -> Answer<Done> {
        let mut number = 0;
        let text = query.statement.with(|_| {
            // Each occurrence gets a number of its own, so that one in quotes is missed.
            number += 1;
            format!("${number}")
        });
        let statement = self.client.prepare(&text).await?;
        query.must_be_seen(statement.params().len())?;
        let columns = statement.columns();
        let first = columns.first().map(|column| column_type(column.type_()));
        let mut done = Done {
            columns: columns.len(),
            first: first.unwrap_or_default(),
            ..Done::default()
        };
        let Some(each) = each else {
            return Ok(done);
        };
        let params = query.in_order().into_iter().map(TextParam);
        let mut rows = pin!(self.client.query_raw(&statement, params).await?);
        while let Some(row) = rows.try_next().await? {
            if !each(&cells(&row)?)? {
                done.is_cut = true;
                return Ok(done);
            }
        }
        done.changed = rows.rows_affected().unwrap_or_default();
        Ok(done)
    }

    pub(super) async fn command(&mut self, command: &str) -> Answer<()> {
        Ok(self.client.batch_execute(command).await?)
    }

    pub(super) async fn end(self) {
        let token = self.client.cancel_token();
        if let Err(error) = token.cancel_query(self.settings.tls).await {
            tracing::debug!(%error, "a slow statement was not cancelled");
        }
    }
}

/// A value as text, which the server reads as the type of its parameter.
#[derive(Debug)]
struct TextParam<'a>(&'a str);

impl ToSql for TextParam<'_> {
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

fn column_type(column: &Type) -> ColumnType {
    match *column {
        Type::INT2 | Type::INT4 | Type::INT8 => ColumnType::Integer,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UUID => ColumnType::Text,
        _ => ColumnType::Other,
    }
}

fn cells(row: &Row) -> Answer<Vec<Cell>> {
    (0..row.len()).map(|at| cell(row, at)).collect()
}

fn cell(row: &Row, at: usize) -> Answer<Cell> {
    match *row.columns()[at].type_() {
        Type::INT2 => text::<i16>(row, at),
        Type::INT4 => text::<i32>(row, at),
        Type::INT8 => text::<i64>(row, at),
        Type::BOOL => Ok(row
            .try_get::<_, Option<bool>>(at)?
            .map(|it| u8::from(it).to_string())),
        Type::UUID => text::<Uuid>(row, at),
        Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::UNKNOWN => {
            text::<String>(row, at)
        }
        ref other => Err(AttachError::Misfit(format!(
            "a column is of type {other}: write it as CAST(… AS text) or CAST(… AS bigint)"
        ))),
    }
}

fn text<T: FromSqlOwned + ToString>(row: &Row, at: usize) -> Answer<Cell> {
    let value: Option<T> = row.try_get(at)?;
    Ok(value.as_ref().map(ToString::to_string))
}
