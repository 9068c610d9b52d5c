//! MySQL and MariaDB.

use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_shared::quoted::without_values;
use mysql_async::consts::{ColumnFlags, ColumnType as Type};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Column, Conn, Error, Params, Row, Value};

use super::{
    Cell, ColumnType, Done, EachRow, LOOK_LIMIT, PROOF_LIMIT, Purpose, Query, SILENT_SECONDS,
};
use crate::error::{Answer, AttachError, Refusal};

/// A unique key refuses the row.
const DUPLICATE: u16 = 1062;
/// A lock was not free in time.
const LOCK_WAIT: u16 = 1205;
/// The character set of bytes.
const BINARY: u16 = 63;

/// The server, and whether it is read-only: Aurora uses the second variable.
pub(super) const ABOUT: &str = "SELECT CONCAT_WS('/', @@server_id, @@hostname, @@port), \
    @@GLOBAL.read_only OR @@GLOBAL.innodb_read_only";

pub(super) const UNSAFE_TABLES: &str = "SELECT t.TABLE_NAME FROM information_schema.TABLES t \
    LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
    WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_TYPE = 'BASE TABLE' \
    AND COALESCE(e.TRANSACTIONS, 'NO') <> 'YES'";

pub(super) const REFERENCES: &str = "SELECT TABLE_NAME, REFERENCED_TABLE_NAME \
    FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE CONSTRAINT_SCHEMA = DATABASE()";

pub(super) struct MysqlDriver {
    conn: Conn,
    settings: DbSettings,
}

/// Some servers begin sessions without `autocommit`. The server's `sql_mode` and time zone stay,
/// because the statements are theirs. Each product takes the comment of the other one for a comment.
pub(super) fn settings(purpose: Purpose) -> Vec<String> {
    let limit = match purpose {
        Purpose::Read => LOOK_LIMIT,
        Purpose::Repair => PROOF_LIMIT,
    };
    let [mysql, mariadb] = [limit.as_millis(), limit.as_secs().into()];
    let first = format!(
        "SET SESSION autocommit = 1 /*!80000 , SESSION max_execution_time = {mysql} */ /*M! , \
        SESSION max_statement_time = {mariadb} */"
    );
    match purpose {
        Purpose::Read => vec![first, "SET SESSION TRANSACTION READ ONLY".to_owned()],
        Purpose::Repair => vec![
            first,
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED".to_owned(),
            format!(
                "SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES'), \
                SESSION innodb_lock_wait_timeout = 1, SESSION lock_wait_timeout = 1, \
                SESSION wait_timeout = {SILENT_SECONDS}, \
                SESSION net_write_timeout = {SILENT_SECONDS}"
            ),
        ],
    }
}

impl From<Error> for AttachError {
    fn from(error: Error) -> Self {
        let Error::Server(error) = error else {
            return Self::Lost(without_values(error));
        };
        if error.code == LOCK_WAIT {
            return Self::Lost(error.to_string());
        }
        Self::from(Refusal {
            code: Some(error.code),
            is_duplicate: error.code == DUPLICATE,
            why: format!("{} {}", error.code, without_values(&error.message)),
        })
    }
}

impl MysqlDriver {
    pub(super) async fn connect(settings: &DbSettings) -> Answer<Self> {
        let conn = Db::plain(settings).await.map_err(|error| {
            let why = error.to_string();
            AttachError::Lost(why.replace("DATABASE_URL", "`database` of the file"))
        })?;
        Ok(Self {
            conn,
            settings: settings.clone(),
        })
    }

    pub(super) async fn run(
        &mut self,
        query: &Query<'_>,
        each: Option<EachRow<'_>>,
    ) -> Answer<Done> {
        let text = query.statement.with(|_| "?".to_owned());
        let statement = self.conn.prep(text).await?;
        query.must_be_seen(statement.num_params().into())?;
        let columns = statement.columns();
        let mut done = Done {
            columns: columns.len(),
            first: columns.first().map(column_type).unwrap_or_default(),
            ..Done::default()
        };
        let Some(each) = each else {
            return Ok(done);
        };
        let values: Vec<Value> = query.in_order().into_iter().map(Value::from).collect();
        let params = if values.is_empty() {
            Params::Empty
        } else {
            Params::Positional(values)
        };
        let mut rows = self.conn.exec_iter(&statement, params).await?;
        while let Some(row) = rows.next().await? {
            done.changed += 1;
            if !each(&cells(row))? {
                done.is_cut = true;
                return Ok(done);
            }
        }
        done.changed += rows.affected_rows();
        Ok(done)
    }

    pub(super) async fn command(&mut self, command: &str) -> Answer<()> {
        Ok(self.conn.query_drop(command).await?)
    }

    /// Kills the connection by another one.
    pub(super) async fn end(self) {
        let kill = format!("KILL {}", self.conn.id());
        if let Ok(mut conn) = Db::plain(&self.settings).await
            && let Err(error) = conn.query_drop(kill).await
        {
            tracing::debug!(%error, "a slow statement was not killed");
        }
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
        Type::MYSQL_TYPE_NULL => ColumnType::Text,
        Type::MYSQL_TYPE_VARCHAR
        | Type::MYSQL_TYPE_VAR_STRING
        | Type::MYSQL_TYPE_STRING
        | Type::MYSQL_TYPE_BLOB
        | Type::MYSQL_TYPE_LONG_BLOB
            if !is_binary =>
        {
            ColumnType::Text
        }
        _ => ColumnType::Other,
    }
}

fn cells(row: Row) -> Vec<Cell> {
    let cell = |value| match value {
        Value::NULL => None,
        Value::Int(number) => Some(number.to_string()),
        Value::UInt(number) => Some(number.to_string()),
        Value::Bytes(bytes) => Some(match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => error.as_bytes().escape_ascii().to_string(),
        }),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    };
    row.unwrap().into_iter().map(cell).collect()
}
