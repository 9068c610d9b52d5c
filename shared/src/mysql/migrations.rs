//! Runs database migrations. If two processes start at the same time, the second waits for the
//! first and then finds nothing to do.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use diesel::migration::{MigrationName, MigrationSource};
use diesel::mysql::Mysql;
use diesel::sql_types::Text;
use diesel_async::{AsyncMigrationHarness, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};

use super::db::get_lock;
use super::refusal::{LOCK_WAIT_OVER, is_missing_table};
use super::{Conn, Db, DbSettings};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../migrations");

/// Maximum wait for another process that migrates the same database.
const LOCK_WAIT_SECONDS: i32 = 300;

/// The migration that creates the table of the key for codes.
const CODE_KEY_TABLE: &str = "20261122000017";

/// Statement that limits how long an ALTER waits for transactions that use its table, because all
/// later queries wait behind the ALTER. After a second, the ALTER gives up, lets the queries run,
/// and is retried. MySQL's default is a year.
const LOCK_WAIT: &str = "SET SESSION lock_wait_timeout = 1";
const FIND_IT: &str = "SELECT * FROM information_schema.innodb_trx ORDER BY trx_started";
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const GIVEN_UP_AFTER: Duration = Duration::from_secs(300);

/// Runs every pending migration, and returns their names, oldest first.
pub async fn migrate(settings: &DbSettings) -> anyhow::Result<Vec<String>> {
    let patient = DbSettings {
        limit: settings.limit.max(Duration::from_secs(30)),
        ..settings.clone()
    };
    let mut conn = Db::dedicated(&patient).await?;
    // MySQL releases the lock when the connection closes, even after an error.
    let got = get_lock(&mut conn, "firstcome-migrate:", LOCK_WAIT_SECONDS).await;
    if !got.context("cannot request the migration lock")? {
        bail!(
            "another process has been migrating this database for {LOCK_WAIT_SECONDS} s; check what it is waiting for"
        );
    }
    diesel::sql_query(LOCK_WAIT)
        .execute(&mut conn)
        .await
        .context("cannot set lock_wait_timeout")?;
    let done = tokio::task::spawn_blocking(move || run_pending(conn)).await??;
    // Generate the key before the first row exists, so that every backup with rows contains it.
    let db = Db::new(&patient)?;
    if done.iter().any(|version| version == CODE_KEY_TABLE) {
        db.draw_first_code_key()
            .await
            .context("cannot generate the key of the codes")?;
    }
    db.code_key()
        .await
        .context("cannot read the key of the codes")?;
    Ok(done)
}

fn run_pending(conn: Conn) -> anyhow::Result<Vec<String>> {
    let mut harness = AsyncMigrationHarness::new(conn);
    let mut done = Vec::new();
    let begun = Instant::now();
    loop {
        let next = match harness.has_pending_migration(MIGRATIONS) {
            Ok(false) => return Ok(done),
            Ok(true) => harness
                .run_next_migration(MIGRATIONS)
                .map(|version| version.to_string()),
            Err(error) => Err(error),
        };
        match next {
            Ok(version) => done.push(version),
            Err(error) if error.to_string().contains(LOCK_WAIT_OVER) => {
                if begun.elapsed() > GIVEN_UP_AFTER {
                    bail!(
                        "for {GIVEN_UP_AFTER:?} a transaction has locked a table that a migration must change: {FIND_IT}"
                    );
                }
                tracing::warn!(
                    "a transaction locks a table that a migration must change; retrying: {FIND_IT}"
                );
                std::thread::sleep(AGAIN_AFTER);
            }
            Err(error) => bail!("a migration failed: {error}"),
        }
    }
}

/// Checks that all of this build's migrations have run. It only reads: diesel's own check tries to
/// create a table, which the services' user need not be allowed to do.
pub async fn check(settings: &DbSettings) -> anyhow::Result<()> {
    let db = Db::new(settings)?;
    let ran = db.run("read which migrations ran", async |conn| {
        let ran = diesel::sql_query("SELECT version FROM __diesel_schema_migrations")
            .load::<Ran>(conn)
            .await;
        ran.or_else(|error| {
            if is_missing_table(&error) {
                Ok(Vec::new())
            } else {
                Err(error)
            }
        })
    });
    let ran = ran.await?;
    let known = MigrationSource::<Mysql>::migrations(&MIGRATIONS)
        .map_err(|error| anyhow::anyhow!("the migrations of this build can't be read: {error}"))?;
    let has_run = |name: &dyn MigrationName| {
        ran.iter()
            .any(|ran| ran.version == name.version().to_string())
    };
    let lacking = known
        .iter()
        .filter(|migration| !has_run(migration.name()))
        .count();
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// The first migration to which this rule applies.
    const SINCE: &str = "2026-11-22-000020";

    /// Claims must continue during schema changes (docs/OPERATIONS.md, "Upgrade").
    #[test]
    fn every_schema_change_declares_a_non_blocking_algorithm() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations");
        let all = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        for path in all.filter(|path| path.file_name().unwrap().to_str().unwrap() >= SINCE) {
            let text = std::fs::read_to_string(path.join("up.sql")).unwrap();
            assert_eq!(
                blocking_changes(&text),
                Vec::<String>::new(),
                "in {}",
                path.display()
            );
        }
    }

    #[test]
    fn blocking_schema_changes_are_detected() {
        let found = blocking_changes(
            "ALTER TABLE a ADD COLUMN b INT, ALGORITHM = INSTANT;\n\
             ALTER TABLE a ADD KEY c (b), ALGORITHM = INPLACE, LOCK = NONE;\n-- ALTER TABLE in words\n\
             SET @sql = IF(@todo, 'alter table a MODIFY b BIGINT', 'DO 0');\nCREATE INDEX d ON a (b);",
        );
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("MODIFY") && found[1].contains("CREATE INDEX"),
            "{found:?}"
        );
    }

    /// Returns the statements that change a table without an algorithm that allows concurrent reads
    /// and writes.
    fn blocking_changes(sql: &str) -> Vec<String> {
        let lines: Vec<&str> = sql
            .lines()
            .filter(|line| !line.trim_start().starts_with("--"))
            .collect();
        let text = lines.join("\n").to_uppercase();
        let changes = |statement: &&str| {
            ["ALTER TABLE", "CREATE INDEX", "CREATE UNIQUE INDEX"]
                .iter()
                .any(|word| statement.contains(word))
        };
        let waits = |statement: &&str| {
            !statement.contains("ALGORITHM = INSTANT") && !statement.contains("LOCK = NONE")
        };
        text.split(';')
            .filter(changes)
            .filter(waits)
            .map(str::to_owned)
            .collect()
    }
}
