//! Refuses databases that speak MySQL's protocol but are not supported, before they fail on a
//! statement that they lack.

use std::collections::HashMap;

use anyhow::bail;
use mysql_async::prelude::Queryable as _;

use super::migrations::Tables;
use super::{Db, DbSettings};

const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
    ('version', 'version_comment', 'wsrep_on', 'pxc_strict_mode', 'log_bin', 'binlog_format')";

/// # Errors
/// If the server is a product that does not support these tables, or cannot be reached.
pub(super) async fn check(settings: &DbSettings, tables: Tables) -> anyhow::Result<()> {
    let mut conn = Db::plain(settings).await?;
    let asked =
        tokio::time::timeout(settings.limit, conn.query::<(String, String), _>(VARIABLES)).await;
    let Ok(Ok(variables)) = asked else {
        // The statements that follow report what is wrong.
        tracing::debug!("could not ask which product the database is");
        return Ok(());
    };
    let variables = variables
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    match (unsupported(&variables, tables), tables) {
        (None, _) => {}
        (Some(why), Tables::All) => {
            bail!("{why}; use MySQL 8.4 or newer, or a service that runs it")
        }
        (Some(why), Tables::Records) => {
            bail!("{why}; use MySQL 8.0 or newer, or MariaDB 10.11 or newer")
        }
    }
    if logs_statements(&variables) {
        bail!(
            "MySQL would refuse every write (error 1665): its binary log has the form STATEMENT, \
            which it does not write for transactions that read committed rows; set \
            `binlog_format = ROW`, the default"
        );
    }
    Ok(())
}

fn logs_statements(variables: &HashMap<&str, &str>) -> bool {
    let is = |name, value| variables.get(name).is_some_and(|own| *own == value);
    is("log_bin", "ON") && is("binlog_format", "STATEMENT")
}

/// Products that name themselves in their version or its comment, and do not support the tables.
fn products(tables: Tables) -> &'static [&'static str] {
    const OTHERS: [&str; 4] = ["TiDB", "Vitess", "PlanetScale", MARIADB];
    match tables {
        Tables::All => &OTHERS,
        Tables::Records => &OTHERS[..3],
    }
}

const MARIADB: &str = "MariaDB";

/// The oldest version that these tables were made for.
fn oldest(tables: Tables, is_mariadb: bool) -> [u32; 2] {
    match tables {
        Tables::Records if is_mariadb => [10, 11],
        Tables::Records => [8, 0],
        Tables::All => [8, 4],
    }
}

/// Returns why a server with these variables does not support these tables.
fn unsupported(variables: &HashMap<&str, &str>, tables: Tables) -> Option<String> {
    let value = |name| variables.get(name).copied().unwrap_or_default();
    let version = value("version");
    let comment = value("version_comment");
    let is = |name| version.contains(name) || comment.contains(name);
    if let Some(name) = products(tables).iter().find(|name| is(**name)) {
        return Some(format!(
            "{name} ({version}) is not supported: it lacks, or does not do like MySQL, one of \
            CHECK constraints, foreign keys, `read_only` and GET_LOCK"
        ));
    }
    if variables.contains_key("pxc_strict_mode") || value("wsrep_on") == "ON" {
        let mode = value("pxc_strict_mode");
        return Some(format!(
            "Percona XtraDB Cluster or Galera is not supported: GET_LOCK holds on one node only, \
            and is refused if pxc_strict_mode is ENFORCING or MASTER (now: {})",
            if mode.is_empty() { "not set" } else { mode }
        ));
    }
    let numbers: Vec<u32> = version
        .split(['.', '-'])
        .map_while(|part| part.parse().ok())
        .collect();
    let oldest = oldest(tables, is(MARIADB));
    let is_old = numbers.first_chunk().is_some_and(|found| *found < oldest);
    is_old.then(|| format!("{version} is too old"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_binary_log_of_statements_is_refused() {
        for (log_bin, format, expected) in [
            ("ON", "STATEMENT", true),
            ("OFF", "STATEMENT", false),
            ("ON", "ROW", false),
            ("ON", "MIXED", false),
        ] {
            let variables = [("log_bin", log_bin), ("binlog_format", format)].into();
            assert_eq!(logs_statements(&variables), expected, "{log_bin} {format}");
        }
    }

    #[test]
    fn unsupported_products_and_too_old_versions_are_refused_for_the_tables_they_lack() {
        use Tables::{All, Records};
        for (variables, supports) in [
            ("version=8.4.6", &[All, Records][..]),
            (
                "version=9.7.4;version_comment=Source distribution",
                &[All, Records],
            ),
            (
                "version=8.4.6-6;version_comment=Percona Server (GPL)",
                &[All, Records],
            ),
            ("", &[All, Records]),
            ("version=8.0.36;wsrep_on=OFF", &[Records]),
            ("version=8.0.mysql_aurora.3.08.0", &[Records]),
            ("version=11.4.2-MariaDB-ubu2404", &[Records]),
            ("version=10.11.6;version_comment=MariaDB Server", &[Records]),
            ("version=10.6.18-MariaDB", &[]),
            ("version=5.7.44-log", &[]),
            ("version=8.0.11-TiDB-v8.1.0", &[]),
            ("version=8.0.30-Vitess", &[]),
            ("version=8.4.2;wsrep_on=ON;pxc_strict_mode=ENFORCING", &[]),
        ] {
            let pairs = variables.split(';').filter_map(|pair| pair.split_once('='));
            let variables = pairs.collect();
            for tables in [All, Records] {
                let why = unsupported(&variables, tables);
                let is_supported = supports.contains(&tables);
                assert_eq!(
                    why.is_none(),
                    is_supported,
                    "{variables:?}, {tables:?}: {why:?}"
                );
            }
        }
    }
}
