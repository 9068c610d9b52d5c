//! MySQL, unpacked in the cache folder and started through its own loader.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Opts, OptsBuilder, Row, Value};
use parking_lot::Mutex;
use tokio::sync::OnceCell;

use crate::fetch;
use crate::process::CommandLine;
use crate::proxy::FaultProxy;
use crate::server::{Instance, Server, ServerKind};

/// Counts the waits for row locks in the connection's database, one for each lock that blocks a
/// waiting transaction. It does not use `innodb_trx`, which fails while any statement on the server
/// contains bytes that are not text.
pub const LOCK_WAITS: &str = "SELECT COUNT(*) FROM performance_schema.data_lock_waits w \
     JOIN performance_schema.data_locks l ON l.engine_lock_id = w.requesting_engine_lock_id \
     WHERE l.object_schema = DATABASE()";

/// Counts the sessions in the connection's database that wait for a table lock. Like
/// [`LOCK_WAITS`], it reads no text of statements.
pub const TABLE_LOCK_WAITS: &str = "SELECT COUNT(*) FROM performance_schema.threads \
     WHERE processlist_db = DATABASE() AND processlist_state LIKE 'Waiting for%lock'";

/// Writes the slot limit of each drop that has none: of drops that a test inserts itself.
pub const WRITE_LIMITS: &str = "INSERT INTO slot_limits \
     (drop_id, slot_limit, coupon_id, person_scope, quantity, once_per) \
     SELECT d.id, d.quantity, d.coupon_id, IF(c.once_per = 'coupon', 0, d.id), d.quantity, c.once_per \
     FROM drops d JOIN coupons c ON c.id = d.coupon_id \
     LEFT JOIN slot_limits l ON l.drop_id = d.id WHERE l.drop_id IS NULL";

/// Options for starting MySQL.
#[derive(Debug, Clone, Default)]
pub struct MysqlOptions {
    /// Additional arguments of `mysqld`, such as `["--innodb-lock-wait-timeout=1"]`, which take
    /// precedence.
    pub extra_args: Vec<String>,
    /// The size in megabytes of a separate disk for the data folder. The test can write to the
    /// same disk ([`MysqlServer::small_disk`]). A new server needs about 200. Requires root.
    pub disk_mb: Option<u32>,
}

impl MysqlOptions {
    /// The defaults with these arguments.
    pub fn with(extra_args: Vec<String>) -> Self {
        Self {
            extra_args,
            ..Self::default()
        }
    }
}

/// Runs a program on a separate disk. Only the program's processes see the disk, and it ends with
/// them. Arguments: the folder of the disk, its size, a folder whose files are copied to it, and
/// the program's command line.
const WITH_DISK: &str = "mkdir -p \"$1\" && mount -t tmpfs -o size=\"$2\" tmpfs \"$1\" && \
    cp -a \"$3/.\" \"$1\" && shift 3 && exec \"$@\"";

/// Returns the folder of the small disk.
fn disk_of(instance: &Instance) -> PathBuf {
    instance.dir.join("disk")
}

/// A private MySQL 9 with the server's own defaults (durable commits, binary log), 500 connections,
/// user `root` without a password and an empty database named `firstcome`.
pub type MysqlServer = Server<MysqlOptions>;

impl MysqlServer {
    /// `mysql://root@127.0.0.1:PORT/`
    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}/", self.port())
    }

    /// Returns [`MysqlServer::url`] with a database name. The database need not exist.
    pub fn database_url(&self, name: &str) -> String {
        with_database(&self.url(), name)
    }

    /// Returns the URL of a database through a proxy.
    pub fn database_url_via(&self, proxy: &FaultProxy, name: &str) -> String {
        format!("mysql://root@127.0.0.1:{}/{name}", proxy.port())
    }

    /// Returns the folder of the small disk of [`MysqlOptions::disk_mb`], as this process sees it.
    /// `None` while the server is down.
    pub fn small_disk(&self) -> Option<PathBuf> {
        let pid = self.pid()?;
        let disk = disk_of(&self.instance);
        let seen_by_it = Path::new("/proc").join(pid.to_string()).join("root");
        Some(seen_by_it.join(disk.strip_prefix("/").ok()?))
    }

    /// Runs one statement on a new connection and returns its rows as text, with `NULL` for null.
    /// Use it for checks and set-up, not for measurements.
    pub async fn query(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        query(&self.url(), sql).await
    }
}

/// Sets the database name in a URL's path and keeps its parameters.
pub fn with_database(url: &str, name: &str) -> String {
    let (address, parameters) = url
        .split_once('?')
        .map_or((url, None), |(address, after)| (address, Some(after)));
    let start = address.find("://").map_or(0, |at| at + 3);
    let host_end = address[start..]
        .find('/')
        .map_or(address.len(), |at| start + at);
    let parameters = parameters
        .map(|after| format!("?{after}"))
        .unwrap_or_default();
    format!("{}/{name}{parameters}", &address[..host_end])
}

/// The tables of a migrated database, as statements that create the databases of later tests. They
/// take a third of the time of a migration.
#[derive(Debug, Default)]
pub struct Tables(OnceCell<Vec<String>>);

impl Tables {
    pub const fn new() -> Self {
        Self(OnceCell::const_new())
    }

    /// Runs `migrate`. If an earlier call has recorded the tables, creates them in an empty
    /// database first, which is faster.
    pub async fn migrated(&self, url: &str, migrate: impl AsyncFnOnce()) -> Result<()> {
        if self.0.initialized() && query(url, "SHOW TABLES").await?.is_empty() {
            self.copied(url).await?;
        }
        migrate().await;
        self.0.get_or_try_init(|| table_statements(url)).await?;
        Ok(())
    }

    /// Gives an empty database its tables. Only the first database runs `migrate`; other callers
    /// wait for it.
    pub async fn made(&self, url: &str, migrate: impl AsyncFnOnce()) -> Result<()> {
        let mut is_migrated = false;
        self.0
            .get_or_try_init(async || {
                migrate().await;
                is_migrated = true;
                table_statements(url).await
            })
            .await?;
        if is_migrated {
            return Ok(());
        }
        self.copied(url).await
    }

    async fn copied(&self, url: &str) -> Result<()> {
        let mut connection = mysql_connection(url).await?;
        for statement in self.0.get().into_iter().flatten() {
            connection
                .query_drop(statement)
                .await
                .with_context(|| format!("MySQL refused {statement}"))?;
        }
        Ok(connection.disconnect().await?)
    }
}

/// Returns the statements that recreate a database's tables. The only rows are diesel's record of
/// migrations.
pub async fn table_statements(url: &str) -> Result<Vec<String>> {
    let names = async |sql: &str| {
        anyhow::Ok(
            query(url, sql)
                .await?
                .into_iter()
                .map(|mut row| row.swap_remove(0)),
        )
    };
    // The tables are created in any order, so foreign keys are not checked.
    let mut all = vec!["SET foreign_key_checks = 0".to_owned()];
    for table in names("SHOW TABLES").await? {
        all.push(query(url, &format!("SHOW CREATE TABLE {table}")).await?[0][1].clone());
    }
    let run = names("SELECT version FROM __diesel_schema_migrations")
        .await?
        .map(|version| format!("('{version}')"));
    let run = run.collect::<Vec<_>>().join(", ");
    all.push(format!(
        "INSERT INTO __diesel_schema_migrations (version) VALUES {run}"
    ));
    Ok(all)
}

/// Returns the command of MySQL's client for the database of a URL, interactive or running `sql`.
pub fn mysql_client(url: &str, sql: Option<&str>) -> Result<Command> {
    // The error omits the URL, which may contain a password.
    let options = Opts::from_url(url)
        .map_err(|_| anyhow!("DATABASE_URL must be like mysql://USER@HOST:PORT/NAME"))?;
    let mut command = fetch::to_command(&fetch::mysql()?.client("mysql"));
    command.args(["--protocol=TCP", "--get-server-public-key"]);
    command.args([
        format!("--host={}", options.ip_or_hostname()),
        format!("--port={}", options.tcp_port()),
    ]);
    command.args(options.user().map(|user| format!("--user={user}")));
    // The password is not an argument, because every user of the machine can see arguments.
    command.env("MYSQL_PWD", options.pass().unwrap_or_default());
    command.args(sql.map(|sql| format!("--execute={sql}")));
    command.args(options.db_name());
    Ok(command)
}

/// Opens a connection to exactly this address. By default the driver queries the server's limits
/// and socket and reconnects through the socket, which doubles the work.
pub async fn mysql_connection(url: &str) -> mysql_async::Result<Conn> {
    let options = OptsBuilder::from_opts(Opts::from_url(url)?).prefer_socket(Some(false));
    // MySQL's default values, which the driver would otherwise query.
    Conn::new(
        options
            .max_allowed_packet(Some(64 << 20))
            .wait_timeout(Some(28_800)),
    )
    .await
}

/// How long an idle connection may take to begin a new session. Its server may have died silently,
/// while another has taken over the address.
const RESET: Duration = Duration::from_secs(1);

/// Runs statements at one address, each in a new session. Checks that poll should use it, because
/// it keeps an idle connection: a new one costs the server more than most statements.
#[derive(Debug, Clone)]
pub struct MysqlSessions {
    url: String,
    idle: Arc<Mutex<Option<Conn>>>,
}

impl MysqlSessions {
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            idle: Arc::default(),
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Runs one statement and returns its rows as text, with `NULL` for null.
    pub async fn rows(&self, sql: &str) -> mysql_async::Result<Vec<Vec<String>>> {
        let mut connection = self.connection().await?;
        let rows = rows_on(&mut connection, sql).await;
        if matches!(rows, Ok(_) | Err(mysql_async::Error::Server(_))) {
            *self.idle.lock() = Some(connection);
        }
        rows
    }

    /// Returns the idle connection with a new session, or a new connection.
    async fn connection(&self) -> mysql_async::Result<Conn> {
        let idle = self.idle.lock().take();
        if let Some(mut idle) = idle {
            let reset = tokio::time::timeout(RESET, idle.reset()).await;
            if matches!(reset, Ok(Ok(true))) {
                return Ok(idle);
            }
        }
        mysql_connection(&self.url).await
    }
}

async fn query(url: &str, sql: &str) -> Result<Vec<Vec<String>>> {
    mysql_rows(url, sql)
        .await
        .with_context(|| format!("MySQL refused {sql:?}"))
}

/// Runs one statement on a new connection and returns its rows as text, with `NULL` for null.
pub async fn mysql_rows(url: &str, sql: &str) -> mysql_async::Result<Vec<Vec<String>>> {
    let mut connection = mysql_connection(url).await?;
    let rows = rows_on(&mut connection, sql).await;
    connection.disconnect().await?;
    rows
}

async fn rows_on(connection: &mut Conn, sql: &str) -> mysql_async::Result<Vec<Vec<String>>> {
    // Uses the server's defaults, including strict mode, but with times in UTC.
    connection.query_drop("SET time_zone = '+00:00'").await?;
    let rows = connection.query::<Row, _>(sql).await?;
    Ok(rows
        .into_iter()
        .map(|row| row.unwrap().into_iter().map(text).collect())
        .collect())
}

fn text(value: Value) -> String {
    match value {
        Value::Bytes(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::NULL => "NULL".into(),
        other => other.as_sql(false),
    }
}

impl ServerKind for MysqlOptions {
    const NAME: &'static str = "mysql";
    const PORTS: usize = 1;

    fn prepare(&self, instance: &Instance) -> Result<()> {
        let template = fetch::mysql()?.data_template()?;
        let copied = Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(template.join("."))
            .arg(&instance.data)
            .status()?;
        if !copied.success() {
            bail!(
                "cannot copy {} to {}: {copied}",
                template.display(),
                instance.data.display()
            );
        }
        Ok(())
    }

    fn command(&self, instance: &Instance) -> Result<CommandLine> {
        let socket = instance.dir.join("socket");
        // After a SIGKILL, these files would indicate to the server that its predecessor still
        // runs.
        let _ = fs::remove_file(&socket);
        let _ = fs::remove_file(instance.dir.join("socket.lock"));
        let mut command = fetch::mysql()?.server(&instance.data);
        command.push(format!("--socket={}", socket.display()).into());
        command.push(format!("--pid-file={}", instance.dir.join("pid").display()).into());
        command.push(format!("--port={}", instance.port()).into());
        command.extend(["--bind-address=127.0.0.1", "--max-connections=500"].map(Into::into));
        command.extend(self.extra_args.iter().map(Into::into));
        let Some(megabytes) = self.disk_mb else {
            return Ok(command);
        };
        let disk = disk_of(instance);
        let mut datadir = OsString::from("--datadir=");
        datadir.push(&disk);
        command.push(datadir);
        let mut with_disk: CommandLine = ["unshare", "--mount", "sh", "-c", WITH_DISK, "sh"]
            .map(Into::into)
            .to_vec();
        with_disk.push(disk.into());
        with_disk.push(format!("{megabytes}m").into());
        with_disk.push(instance.data.clone().into());
        with_disk.extend(command);
        Ok(with_disk)
    }

    async fn answers(&self, instance: &Instance) -> Result<()> {
        query(
            &format!("mysql://root@127.0.0.1:{}/", instance.port()),
            "SELECT 1",
        )
        .await
        .map(drop)
    }
}
