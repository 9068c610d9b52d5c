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
use crate::text::{Dialect, Prepared, Statement, Values};

/// A unique key refuses the row.
const DUPLICATE: u16 = 1062;
/// The character set of bytes.
const BINARY: u16 = 63;

pub struct MysqlSession {
    conn: Option<Conn>,
    settings: DbSettings,
    /// The server's id of the connection, to kill it.
    id: u64,
    is_mariadb: bool,
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
        is_mariadb: false,
    };
    let until = Instant::now() + settings.limit;
    let about = session
        .first_row("SELECT CONNECTION_ID(), @@version")
        .await?;
    session.id = about
        .first()
        .and_then(|id| id.parse().ok())
        .unwrap_or_default();
    session.is_mariadb = about.get(1).is_some_and(|it| it.contains("MariaDB"));
    for setting in session_settings(purpose, session.is_mariadb) {
        session.command(&setting, until).await?;
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
        let mut conn = self.take()?;
        let described = async {
            let described = describe(&mut conn, field, &prepared).await;
            (conn, described)
        };
        self.ended(field, Instant::now() + LOOK_LIMIT, described)
            .await?
    }

    pub(super) async fn read(&mut self, query: Query<'_>, each: EachRow<'_>) -> Answer<()> {
        let mut conn = self.take()?;
        let read = async {
            let read = read(&mut conn, query, each).await;
            (conn, read)
        };
        let read = self.ended(query.field, query.until, read).await?;
        if !matches!(read, Ok(true)) {
            // The rest was not read.
            self.conn = None;
        }
        read.map(drop)
    }

    pub(super) async fn change(&mut self, query: Query<'_>) -> Answer<u64> {
        let mut conn = self.take()?;
        let changed = async {
            let changed = change(&mut conn, query).await;
            (conn, changed)
        };
        self.ended(query.field, query.until, changed).await?
    }

    pub(super) async fn command(&mut self, command: &str, until: Instant) -> Answer<()> {
        let mut conn = self.take()?;
        let done = async {
            let done = conn.query_drop(command).await;
            (conn, done)
        };
        self.ended(command, until, done).await
    }

    /// Returns the rows of a query of ours, as texts.
    async fn rows(&mut self, query: &str) -> Answer<Vec<Vec<String>>> {
        let mut conn = self.take()?;
        let rows = async {
            let rows = conn.query::<Row, _>(query).await;
            (conn, rows)
        };
        let until = Instant::now() + self.settings.limit;
        let rows = self.ended(query, until, rows).await?;
        let texts = |row| cells(row).iter().filter_map(Cell::text).collect();
        Ok(rows.into_iter().map(texts).collect())
    }

    async fn first_row(&mut self, query: &str) -> Answer<Vec<String>> {
        Ok(self
            .rows(query)
            .await?
            .into_iter()
            .next()
            .unwrap_or_default())
    }

    pub(super) async fn server(&mut self) -> Answer<Server> {
        let id = if self.is_mariadb {
            "SELECT CONCAT_WS('/', @@server_id, @@hostname, @@port)"
        } else {
            "SELECT @@server_uuid"
        };
        let id = self.first_row(id).await?.concat();
        // Aurora uses the second variable.
        let read_only = "SELECT @@GLOBAL.read_only OR @@GLOBAL.innodb_read_only";
        let read_only = self.first_row(read_only).await?;
        Ok(Server {
            id,
            is_read_only: read_only != ["0"],
        })
    }

    pub(super) async fn unsafe_tables(&mut self) -> Answer<Vec<String>> {
        let tables = "SELECT t.TABLE_NAME FROM information_schema.TABLES t \
            LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
            WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_TYPE = 'BASE TABLE' \
            AND COALESCE(e.TRANSACTIONS, 'NO') <> 'YES'";
        Ok(self.rows(tables).await?.concat())
    }

    fn take(&mut self) -> Answer<Conn> {
        self.conn.take().ok_or_else(broken)
    }

    /// Runs an operation. The connection stays usable after it and after a refusal. If the answer
    /// comes too late, the server is told to stop.
    async fn ended<T>(
        &mut self,
        field: &str,
        until: Instant,
        operation: impl Future<Output = (Conn, Result<T, Error>)>,
    ) -> Answer<T> {
        match timeout_at(until, operation).await {
            Ok((conn, Ok(value))) => {
                self.conn = Some(conn);
                Ok(value)
            }
            Ok((conn, Err(Error::Server(error)))) => {
                self.conn = Some(conn);
                Err(refused(field, &error))
            }
            Ok((_, Err(error))) => Err(AttachError::Lost(without_values(error))),
            Err(_) => {
                tokio::spawn(kill(self.settings.clone(), self.id));
                Err(too_late(field))
            }
        }
    }
}

/// Prepares a statement, which is closed at once: their server has a limit for all its clients
/// together (`max_prepared_stmt_count`).
async fn describe(
    conn: &mut Conn,
    field: &str,
    prepared: &Prepared,
) -> Result<Answer<Columns>, Error> {
    let statement = conn.prep(prepared.text.as_str()).await?;
    let seen = must_see_all(field, prepared, statement.num_params().into());
    let columns = columns(statement.columns());
    conn.close(statement).await?;
    Ok(seen.map(|()| columns))
}

async fn read(conn: &mut Conn, query: Query<'_>, each: EachRow<'_>) -> Result<Answer<bool>, Error> {
    let prepared = query.statement.prepared(Dialect::Mysql);
    let statement = conn.prep(prepared.text.as_str()).await?;
    let seen = must_see_all(query.field, &prepared, statement.num_params().into());
    if let Err(misfit) = seen {
        return Ok(Err(misfit));
    }
    let columns = columns(statement.columns());
    let mut rows = conn
        .exec_iter(&statement, params(&prepared, query.values))
        .await?;
    while let Some(row) = rows.next().await? {
        match each(&columns, &cells(row)) {
            Ok(true) => {}
            Ok(false) => return Ok(Ok(false)),
            Err(error) => return Ok(Err(error)),
        }
    }
    drop(rows);
    conn.close(statement).await?;
    Ok(Ok(true))
}

async fn change(conn: &mut Conn, query: Query<'_>) -> Result<Answer<u64>, Error> {
    let prepared = query.statement.prepared(Dialect::Mysql);
    let statement = conn.prep(prepared.text.as_str()).await?;
    let seen = must_see_all(query.field, &prepared, statement.num_params().into());
    if let Err(misfit) = seen {
        conn.close(statement).await?;
        return Ok(Err(misfit));
    }
    let done = conn
        .exec_drop(&statement, params(&prepared, query.values))
        .await;
    let changed = conn.affected_rows();
    conn.close(statement).await?;
    done.map(|()| Ok(changed))
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
            code: Some(error.code),
            is_duplicate: error.code == DUPLICATE,
            why: format!("{} {}", error.code, without_values(&error.message)),
        },
    }
}

fn params(prepared: &Prepared, values: Values<'_>) -> Params {
    let parameters = prepared.parameters.iter();
    let values: Vec<Value> = parameters.map(|it| Value::from(values.get(*it))).collect();
    if values.is_empty() {
        Params::Empty
    } else {
        Params::Positional(values)
    }
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
