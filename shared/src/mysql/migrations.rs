//! Making the tables. Safe when two start at once: one waits for the other, then finds nothing left
//! to do.

use std::time::Duration;

use anyhow::{Context as _, bail};
use diesel::migration::{MigrationName, MigrationSource};
use diesel::mysql::Mysql;
use diesel::sql_types::Text;
use diesel_async::{AsyncMigrationHarness, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::db::get_lock;
use super::{Conn, Db, DbSettings};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");

/// Longest wait for another process that migrates the same database.
const LOCK_WAIT_SECONDS: i32 = 300;

/// Runs every migration that is still to run, and gives their names, oldest first.
pub async fn migrate(settings: &DbSettings) -> anyhow::Result<Vec<String>> {
    let patient = DbSettings { limit: settings.limit.max(Duration::from_secs(30)), ..settings.clone() };
    let mut conn = Db::dedicated(&patient).await?;
    // It goes with the connection, whatever happens below.
    let got = get_lock(&mut conn, "firstcome-migrate:", LOCK_WAIT_SECONDS).await;
    if !got.context("the lock for migrating could not be asked for")? {
        bail!("another process has been migrating this database for {LOCK_WAIT_SECONDS} s; see what it waits for");
    }
    let done = tokio::task::spawn_blocking(move || run_pending(conn)).await??;
    // Before the first row, so that every backup with rows has it.
    Db::new(&patient)?.code_key().await.context("the key of the codes could not be drawn")?;
    Ok(done)
}

fn run_pending(conn: Conn) -> anyhow::Result<Vec<String>> {
    let mut harness = AsyncMigrationHarness::new(conn);
    let done =
        harness.run_pending_migrations(MIGRATIONS).map_err(|error| anyhow::anyhow!("a migration failed: {error}"))?;
    Ok(done.iter().map(ToString::to_string).collect())
}

/// Checks that every migration this build knows has run. It only reads: the user that services run
/// as need not be allowed to make tables, which diesel's own check tries to.
pub async fn check(settings: &DbSettings) -> anyhow::Result<()> {
    let mut conn = Db::dedicated(settings).await?;
    let ran: Vec<Ran> = diesel::sql_query("SELECT version FROM __diesel_schema_migrations")
        .load(&mut conn)
        .await
        .or_else(|error| if is_missing_table(&error) { Ok(Vec::new()) } else { Err(error) })
        .context("the state of the tables could not be read")?;
    let known = MigrationSource::<Mysql>::migrations(&MIGRATIONS)
        .map_err(|error| anyhow::anyhow!("the migrations of this build can't be read: {error}"))?;
    let has_run = |name: &dyn MigrationName| ran.iter().any(|ran| ran.version == name.version().to_string());
    let lacking = known.iter().filter(|migration| !has_run(migration.name())).count();
    if lacking > 0 {
        bail!("the database lacks {lacking} migration(s); run `firstcome-api migrate` first");
    }
    Ok(())
}

#[derive(diesel::QueryableByName)]
struct Ran {
    #[diesel(sql_type = Text)]
    version: String,
}

/// MySQL says so in words only, as far as diesel passes them on; in English on our connections.
fn is_missing_table(error: &diesel::result::Error) -> bool {
    matches!(error, diesel::result::Error::DatabaseError(_, info) if info.message().ends_with("doesn't exist"))
}
