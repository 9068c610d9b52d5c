//! MySQL and MariaDB.

use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_shared::quoted::without_values;
use firstcome_shared::report::FailureCause;
use mysql_async::consts::{ColumnFlags, ColumnType as Type};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Column, Conn, Error, Params, Row, ServerError, Value};
use tokio::time::{Instant, timeout_at};

use super::{
    Cell, ColumnType, Columns, EachRow, LOOK_LIMIT, Purpose, Query, REPAIR_LIMIT, SILENT_SECONDS,
    Server, broken, must_see_all, too_late,
};
use crate::error::{Answer, AttachError, Refusal};
use crate::text::{Dialect, Statement};

/// A unique key refuses the row.
const DUPLICATE: u16 = 1062;
/// The character set of bytes.
const BINARY: u16 = 63;

pub struct MysqlSession {
    conn: Option<Conn>,
    settings: DbSettings,
    /// The server's id of the connection, to kill it.
    id: u64,
}

/// `autocommit`: some servers begin sessions without it. The server's `sql_mode` and time zone
/// stay, because the statements are theirs.
pub(super) async fn open(settings: &DbSettings, purpose: Purpose) -> Answer<MysqlSession> {
    let conn = Db::plain(settings).await.map_err(|error| {
        let why = error.to_string();
        AttachError::away(
            FailureCause::Mysql,
            why.replace("DATABASE_URL", "`database` of the file"),
        )
    })?;
    let mut session = MysqlSession {
        conn: Some(conn),
        settings: settings.clone(),
        id: 0,
    };
    let until = Instant::now() + settings.limit;
    let about = session
        .numbers_and_texts("SELECT CONNECTION_ID(), @@version")
        .await?;
    session.id = about
        .first()
        .and_then(|id| id.parse().ok())
        .unwrap_or_default();
    let is_mariadb = about.get(1).is_some_and(|it| it.contains("MariaDB"));
    for setting in session_settings(purpose, is_mariadb) {
        session.command_text(&setting, until).await?;
    }
    Ok(session)
}

fn session_settings(purpose: Purpose, is_mariadb: bool) -> Vec<String> {
    let limit = match purpose {
        Purpose::Read => LOOK_LIMIT,
        Purpose::Repair => REPAIR_LIMIT,
    };
    let statement_limit = if is_mariadb {
        format!("SET SESSION max_statement_time = {}", limit.as_secs())
    } else {
        format!("SET SESSION max_execution_time = {}", limit.as_millis())
    };
    let mut settings = vec!["SET SESSION autocommit = 1".to_owned(), statement_limit];
    settings.extend(match purpose {
        Purpose::Read => vec!["SET SESSION TRANSACTION READ ONLY".to_owned()],
        Purpose::Repair => vec![
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
            "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')".to_owned(),
            "SET SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = 1".to_owned(),
            format!("SET SESSION wait_timeout = {SILENT_SECONDS}"),
        ],
    });
    settings
}

impl MysqlSession {
    pub(super) async fn describe(&mut self, field: &str, written: &Statement) -> Answer<Columns> {
        let prepared = written.prepared(Dialect::Mysql);
        let mut conn = self.conn.take().ok_or_else(broken)?;
        let until = Instant::now() + LOOK_LIMIT;
        let described = async {
            let statement = conn.prep(prepared.text.as_str()).await?;
            let seen = usize::from(statement.num_params());
            let columns = columns(statement.columns());
            conn.close(statement).await?;
            Ok((conn, seen, columns))
        };
        let (conn, seen, columns) = self.ended(field, timeout_at(until, described).await)?;
        self.conn = Some(conn);
        must_see_all(field, &prepared, seen)?;
        Ok(columns)
    }

    pub(super) async fn read(&mut self, query: Query<'_>, each: EachRow<'_>) -> Answer<()> {
        let Query { field, values, .. } = query;
        let prepared = query.statement.prepared(Dialect::Mysql);
        let params = params(&prepared.parameters, |it| values.get(it));
        let mut conn = self.conn.take().ok_or_else(broken)?;
        let reading = async {
            // Closed at once: their server has a limit for all its clients together
            // (`max_prepared_stmt_count`).
            let statement = conn.prep(prepared.text.as_str()).await?;
            let seen = must_see_all(field, &prepared, statement.num_params().into());
            if let Err(misfit) = seen {
                conn.close(statement).await?;
                return Ok((Some(conn), Err(misfit)));
            }
            let columns = columns(statement.columns());
            let mut result = conn.exec_iter(&statement, params).await?;
            while let Some(row) = result.next().await? {
                match each(&columns, &cells(row)) {
                    Ok(true) => {}
                    // The rest is not read, so the connection is closed.
                    Ok(false) => return Ok((None, Ok(()))),
                    Err(error) => return Ok((None, Err(error))),
                }
            }
            drop(result);
            conn.close(statement).await?;
            Ok((Some(conn), Ok(())))
        };
        let ended = timeout_at(query.until, reading).await;
        let (conn, read) = self.ended(field, ended)?;
        self.conn = conn;
        read
    }

    pub(super) async fn change(&mut self, query: Query<'_>) -> Answer<u64> {
        let Query { field, values, .. } = query;
        let prepared = query.statement.prepared(Dialect::Mysql);
        let params = params(&prepared.parameters, |it| values.get(it));
        let mut conn = self.conn.take().ok_or_else(broken)?;
        let changing = async {
            let statement = conn.prep(prepared.text.as_str()).await?;
            let seen = must_see_all(field, &prepared, statement.num_params().into());
            let changed = match seen {
                Ok(()) => {
                    let done = conn.exec_drop(&statement, params).await;
                    done.map(|()| Ok(conn.affected_rows()))
                }
                Err(misfit) => Ok(Err(misfit)),
            };
            // A refusal leaves the connection usable, and the transaction open.
            let changed = match changed {
                Err(Error::Server(error)) => Ok(Err(refused(field, &error))),
                other => other,
            }?;
            conn.close(statement).await?;
            Ok((conn, changed))
        };
        let ended = timeout_at(query.until, changing).await;
        let (conn, changed) = self.ended(field, ended)?;
        self.conn = Some(conn);
        changed
    }

    pub(super) async fn command(&mut self, command: &str, until: Instant) -> Answer<()> {
        self.command_text(command, until).await
    }

    async fn command_text(&mut self, command: &str, until: Instant) -> Answer<()> {
        let mut conn = self.conn.take().ok_or_else(broken)?;
        let running = async {
            conn.query_drop(command).await?;
            Ok(conn)
        };
        let ended = timeout_at(until, running).await;
        self.conn = Some(self.ended(command, ended)?);
        Ok(())
    }

    /// Returns the values of the one row of a query, as texts.
    async fn numbers_and_texts(&mut self, query: &str) -> Answer<Vec<String>> {
        Ok(self
            .rows(query)
            .await?
            .into_iter()
            .next()
            .unwrap_or_default())
    }

    async fn rows(&mut self, query: &str) -> Answer<Vec<Vec<String>>> {
        let mut conn = self.conn.take().ok_or_else(broken)?;
        let until = Instant::now() + self.settings.limit;
        let running = async {
            let rows = conn.query::<Row, _>(query).await?;
            Ok((conn, rows))
        };
        let ended = timeout_at(until, running).await;
        let (conn, rows) = self.ended(query, ended)?;
        self.conn = Some(conn);
        let texts = |row| cells(row).iter().filter_map(Cell::text).collect();
        Ok(rows.into_iter().map(texts).collect())
    }

    pub(super) async fn server(&mut self) -> Answer<Server> {
        let version = self.numbers_and_texts("SELECT @@version").await?;
        let id = if version.iter().any(|it| it.contains("MariaDB")) {
            "SELECT CONCAT_WS('/', @@server_id, @@hostname, @@port)"
        } else {
            "SELECT @@server_uuid"
        };
        let id = self.numbers_and_texts(id).await?.concat();
        // Aurora uses the second variable.
        let read_only = "SELECT @@GLOBAL.read_only OR @@GLOBAL.innodb_read_only";
        let read_only = self.numbers_and_texts(read_only).await?;
        Ok(Server {
            id,
            is_read_only: read_only.first().is_some_and(|it| it != "0"),
        })
    }

    pub(super) async fn unsafe_tables(&mut self) -> Answer<Vec<String>> {
        let tables = "SELECT t.TABLE_NAME FROM information_schema.TABLES t \
            LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
            WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_TYPE = 'BASE TABLE' \
            AND COALESCE(e.TRANSACTIONS, 'NO') <> 'YES'";
        Ok(self.rows(tables).await?.into_iter().flatten().collect())
    }

    /// Ends an operation. If the answer came too late, the server is told to stop.
    fn ended<T>(
        &self,
        field: &str,
        ended: Result<Result<T, Error>, tokio::time::error::Elapsed>,
    ) -> Answer<T> {
        match ended {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Error::Server(error))) => Err(refused(field, &error)),
            Ok(Err(error)) => Err(AttachError::Lost(without_values(error))),
            Err(_) => {
                tokio::spawn(kill(self.settings.clone(), self.id));
                Err(too_late(field))
            }
        }
    }
}

/// Ends a connection whose statement takes too long. It needs no right, because it is our own.
async fn kill(settings: DbSettings, id: u64) {
    if let Ok(mut conn) = Db::plain(&settings).await
        && let Err(error) = conn.query_drop(format!("KILL {id}")).await
    {
        tracing::debug!(%error, "a slow statement was not killed");
    }
}

fn refused(field: &str, error: &ServerError) -> AttachError {
    AttachError::Refused {
        field: field.to_owned(),
        refusal: Refusal {
            is_duplicate: error.code == DUPLICATE,
            why: format!("{} {}", error.code, without_values(&error.message)),
        },
    }
}

fn params<'a, P: Copy>(parameters: &[P], value: impl Fn(P) -> &'a str) -> Params {
    if parameters.is_empty() {
        return Params::Empty;
    }
    let values = parameters.iter().map(|it| Value::from(value(*it)));
    Params::Positional(values.collect())
}

fn columns(columns: &[Column]) -> Columns {
    Columns {
        number: columns.len(),
        first: columns.first().map(column_type).unwrap_or_default(),
    }
}

fn column_type(column: &Column) -> ColumnType {
    let is_binary =
        column.character_set() == BINARY && column.flags().contains(ColumnFlags::BINARY_FLAG);
    match column.column_type() {
        Type::MYSQL_TYPE_TINY
        | Type::MYSQL_TYPE_SHORT
        | Type::MYSQL_TYPE_INT24
        | Type::MYSQL_TYPE_LONG
        | Type::MYSQL_TYPE_LONGLONG
        | Type::MYSQL_TYPE_YEAR => ColumnType::Integer,
        Type::MYSQL_TYPE_VARCHAR
        | Type::MYSQL_TYPE_VAR_STRING
        | Type::MYSQL_TYPE_STRING
        | Type::MYSQL_TYPE_ENUM
        | Type::MYSQL_TYPE_BLOB
        | Type::MYSQL_TYPE_TINY_BLOB
        | Type::MYSQL_TYPE_MEDIUM_BLOB
        | Type::MYSQL_TYPE_LONG_BLOB => {
            if is_binary {
                ColumnType::Binary
            } else {
                ColumnType::Text
            }
        }
        Type::MYSQL_TYPE_NULL => ColumnType::Text,
        _ => ColumnType::Other,
    }
}

fn cells(row: Row) -> Vec<Cell> {
    let cell = |value| match value {
        Value::NULL => Cell::Null,
        Value::Int(number) => Cell::Integer(number),
        Value::UInt(number) => {
            i64::try_from(number).map_or_else(|_| Cell::Text(number.to_string()), Cell::Integer)
        }
        Value::Bytes(bytes) => Cell::Text(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => error.as_bytes().escape_ascii().to_string(),
        }),
        other => Cell::Text(other.as_sql(true).trim_matches('\'').to_owned()),
    };
    row.unwrap().into_iter().map(cell).collect()
}
