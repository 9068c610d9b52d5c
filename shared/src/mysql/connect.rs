//! Creates MySQL connections and discards unusable ones. A pooled connection that is about to be
//! used first checks, at most once a second, whether its server accepts writes: a demoted primary
//! keeps connections open and returns stale rows, although the address may already lead to another
//! server.

use std::time::Duration;

use deadpool::managed::{Manager, Metrics, RecycleError, RecycleResult};
use diesel::dsl::{select, sql};
use diesel::sql_types::Bool;
use diesel::{ConnectionError, ConnectionResult, QueryResult};
use diesel_async::pooled_connection::PoolableConnection as _;
use diesel_async::{AsyncMysqlConnection, RunQueryDsl as _};
use mysql_async::{DriverError, Opts, OptsBuilder};
use tokio::time::Instant;

use super::Prepared;
use crate::tls::{self, StoreAddress, Tls};

/// The connection that queries run on.
pub type Conn = AsyncMysqlConnection;

/// A connection is checked before use if its last check is older than this.
const ASK_AFTER: Duration = Duration::from_secs(1);

/// Creates and checks the connections of a pool.
pub(super) struct Connecting {
    pub(super) address: StoreAddress,
}

/// A connection of a pool.
pub(super) struct Pooled {
    pub(super) conn: Conn,
    /// When the server was last checked for accepting writes. A new connection counts as checked:
    /// if the address leads to a read-only server, there is no other to try.
    asked_at: Instant,
}

impl Connecting {
    pub(super) fn new(address: StoreAddress) -> Self {
        Self { address }
    }
}

impl Manager for Connecting {
    type Type = Pooled;
    type Error = ConnectionError;

    async fn create(&self) -> ConnectionResult<Pooled> {
        Ok(Pooled {
            conn: establish(&self.address).await?,
            asked_at: Instant::now(),
        })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<ConnectionError> {
        if pooled.conn.is_broken() {
            return Err(RecycleError::message("it is in the middle of something"));
        }
        if pooled.asked_at.elapsed() < ASK_AFTER {
            return Ok(());
        }
        match pooled.takes_writes().await {
            Ok(true) => Ok(()),
            Ok(false) => {
                tracing::debug!("MySQL is read-only: reconnecting");
                Err(RecycleError::message("its server is read-only"))
            }
            Err(error) => Err(RecycleError::message(error.to_string())),
        }
    }
}

impl Pooled {
    pub(super) async fn takes_writes(&mut self) -> QueryResult<bool> {
        let takes = Prepared(select(sql::<Bool>(IS_PRIMARY)))
            .get_result(&mut self.conn)
            .await?;
        self.asked_at = Instant::now();
        Ok(takes)
    }
}

/// True if the server accepts writes. Aurora uses the second variable.
pub(super) const IS_PRIMARY: &str = "@@global.read_only = 0 AND @@global.innodb_read_only = 0";

/// `sql_mode`: strict, so that MySQL refuses invalid data instead of truncating it.
/// `wait_timeout` (default: eight hours): if a process is paused, or its host died without closing
/// its connections, MySQL ends the connection after this time and releases its locks, also those of
/// GET_LOCK.
/// `innodb_lock_wait_timeout`: shorter than a statement's time limit, to distinguish a lock from an
/// unreachable server.
/// `lc_messages`: diesel returns an error's text but not its number, and [`super::refusal`] reads
/// the English text.
const SETTINGS: &str = "SET SESSION sql_mode = \
    'STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO', SESSION \
    innodb_lock_wait_timeout = 2, SESSION wait_timeout = 10, SESSION time_zone = '+00:00', \
    SESSION lc_messages = 'en_US'";

/// No gap locks, so that consumers do not block each other. The variable has another name in
/// MariaDB before 11.1.
const ISOLATION: &str = "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED";

/// Opens a connection with Firstcome's session settings: for the pool, and outside it for locks
/// that last as long as their connection.
pub(super) async fn establish(address: &StoreAddress) -> ConnectionResult<Conn> {
    Conn::try_from(open(address, vec![SETTINGS, ISOLATION], true).await?).await
}

/// Opens a connection and runs these statements. Uses mysql_async, because diesel hides the kind of
/// error, but with diesel's options. `counts_found` counts the rows that an UPDATE matches, and not
/// only those that it changes.
pub(super) async fn open(
    address: &StoreAddress,
    init: Vec<&'static str>,
    counts_found: bool,
) -> ConnectionResult<mysql_async::Conn> {
    let opts = Opts::from_url(address.url())
        .map_err(|error| ConnectionError::InvalidConnectionUrl(error.to_string()))?;
    let opts = OptsBuilder::from_opts(opts)
        .init(init)
        // By default, mysql_async asks a server at a loopback address for its socket file, which
        // may belong to another server behind a tunnel or proxy, or not exist.
        .prefer_socket(Some(false))
        .stmt_cache_size(0)
        .client_found_rows(counts_found);
    let tls = address.tls();
    let opts: Opts = opts.ssl_opts(tls.map(Tls::for_mysql)).into();
    let conn = mysql_async::Conn::new(opts.clone()).await;
    conn.map_err(|error| why_not(error, opts.db_name(), tls))
}

/// MySQL's error numbers for denied access: to the database, for the user, without a password, and
/// without encryption (`require_secure_transport`).
const DOES_NOT_LET_IN: [u16; 4] = [1044, 1045, 1698, 3159];

const UNKNOWN_DATABASE: u16 = 1049;

/// Distinguishes wrong settings (user, password, database, certificate) from a server that is busy
/// or shutting down.
fn why_not(
    error: mysql_async::Error,
    database: Option<&str>,
    tls: Option<&Tls>,
) -> ConnectionError {
    if let (Some(tls), Some(reason)) = (tls, tls::cause(&error)) {
        return ConnectionError::InvalidConnectionUrl(tls.sentence(reason));
    }
    let may_need_certificate = tls.is_some_and(|tls| !tls.has_identity());
    let certificate = if may_need_certificate {
        "; a user may also need TLS_CERT_FILE"
    } else {
        ""
    };
    ConnectionError::InvalidConnectionUrl(match error {
        mysql_async::Error::Server(error) if error.code == UNKNOWN_DATABASE => {
            let name = database.unwrap_or_default();
            format!(
                "it has no database {name}: run CREATE DATABASE `{name}`, or correct DATABASE_URL"
            )
        }
        mysql_async::Error::Server(error) if DOES_NOT_LET_IN.contains(&error.code) => {
            format!("{error}; see DATABASE_URL, with ?require_ssl=true for TLS{certificate}")
        }
        // MySQL asks unknown users for a password with any of its plugins.
        mysql_async::Error::Driver(
            error
            @ (DriverError::NoClientSslFlagFromServer | DriverError::UnknownAuthPlugin { .. }),
        ) => format!("{error}; see user and require_ssl in DATABASE_URL"),
        other => return ConnectionError::BadConnection(other.to_string()),
    })
}
