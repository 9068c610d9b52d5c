//! Runs database migrations. If two processes start at the same time, the second waits for the
//! first and then finds nothing to do.

use std::time::Duration;

use anyhow::{Context as _, bail};
use diesel::migration::MigrationSource;
use diesel::mysql::Mysql;
use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncMigrationHarness, RunQueryDsl as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::db::get_lock;
use super::refusal::is_missing_table;
use super::{Conn, Db, DbSettings, product};

const RECORDS: EmbeddedMigrations = embed_migrations!("../migrations/records");
const CLAIMS: EmbeddedMigrations = embed_migrations!("../migrations/claims");

/// The tables that a program needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tables {
    /// What a reconciler records about its work.
    Records,
    /// These, and coupons, claims and their rows.
    All,
}

impl Tables {
    /// Returns their migrations, oldest first.
    fn migrations(self) -> Vec<EmbeddedMigrations> {
        match self {
            Self::Records => vec![RECORDS],
            Self::All => vec![RECORDS, CLAIMS],
        }
    }
}

/// Maximum wait for another process that migrates the same database.
const LOCK_WAIT_SECONDS: i32 = 300;

/// Runs every pending migration of these tables, and returns their names, oldest first.
pub async fn migrate(settings: &DbSettings, tables: Tables) -> anyhow::Result<Vec<String>> {
    let patient = DbSettings {
        limit: settings.limit.max(Duration::from_secs(30)),
        ..settings.clone()
    };
    product::check(&patient, tables).await?;
    let mut conn = Db::dedicated(&patient).await?;
    // MySQL releases the lock when the connection closes, even after an error.
    let got = get_lock(&mut conn, "firstcome-migrate:", LOCK_WAIT_SECONDS).await;
    if !got.context("cannot request the migration lock")? {
        bail!(
            "another process has been migrating this database for {LOCK_WAIT_SECONDS} s; check \
            what it is waiting for"
        );
    }
    let done = tokio::task::spawn_blocking(move || run_pending(conn, tables)).await??;
    if tables == Tables::All {
        // Generate the key before the first row exists, so that every backup with rows contains it.
        Db::new(&patient)?
            .code_key()
            .await
            .context("cannot read the key of the codes")?;
    }
    Ok(done)
}

fn run_pending(conn: Conn, tables: Tables) -> anyhow::Result<Vec<String>> {
    let mut harness = AsyncMigrationHarness::new(conn);
    let mut names = Vec::new();
    for migrations in tables.migrations() {
        let done = harness
            .run_pending_migrations(migrations)
            .map_err(|error| anyhow::anyhow!("a migration failed: {error}"))?;
        names.extend(done.iter().map(ToString::to_string));
    }
    Ok(names)
}

/// Checks that all of this build's migrations have run in the database of `db`, which has these
/// settings. It only reads: diesel's own check tries to create a table, which the services' user
/// need not be allowed to do.
pub async fn check(db: &Db, settings: &DbSettings) -> anyhow::Result<()> {
    product::check(settings, Tables::All).await?;
    let ran: Vec<RanMigration> = db
        .run("read which migrations ran", async |conn| {
            let ran = sql_query("SELECT version FROM __diesel_schema_migrations");
            match ran.load(conn).await {
                Err(error) if is_missing_table(&error) => Ok(Vec::new()),
                ran => ran,
            }
        })
        .await?;
    let lacking = lacking(&ran)?;
    if lacking > 0 {
        bail!("the database lacks {lacking} migration(s); run `firstcome-api migrate` first");
    }
    may_write(db).await
}

/// Returns how many of this build's migrations are not among those that ran.
fn lacking(ran: &[RanMigration]) -> anyhow::Result<usize> {
    let mut lacking = 0;
    for migrations in Tables::All.migrations() {
        let known = MigrationSource::<Mysql>::migrations(&migrations).map_err(|error| {
            anyhow::anyhow!("the migrations of this build can't be read: {error}")
        })?;
        let lacks = known.iter().filter(|migration| {
            let version = migration.name().version().to_string();
            ran.iter().all(|ran| ran.version != version)
        });
        lacking += lacks.count();
    }
    Ok(lacking)
}

/// Refuses a login that may read but not write: nothing else shows it before the first claim. MySQL
/// compares the rights before it finds that a statement concerns no row.
async fn may_write(db: &Db) -> anyhow::Result<()> {
    let statements = [
        "INSERT INTO processes SELECT * FROM processes WHERE FALSE",
        "UPDATE processes SET id = id WHERE FALSE",
        "DELETE FROM processes WHERE FALSE",
    ];
    for statement in statements {
        let tried = db
            .write("check this login's rights", sql_query(statement))
            .await;
        match tried {
            Err(error) if error.is_denied() => bail!(
                "the MySQL user in DATABASE_URL may not write ({error}): GRANT SELECT, INSERT, \
                UPDATE, DELETE on this database to it"
            ),
            Err(error) => tracing::debug!(%error, "this login's rights were not checked"),
            Ok(_) => {}
        }
    }
    Ok(())
}

/// A migration that has run.
#[derive(QueryableByName)]
struct RanMigration {
    #[diesel(sql_type = Text)]
    version: String,
}
