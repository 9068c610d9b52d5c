//! Refuses databases that speak MySQL's protocol but are not supported, before they fail on a
//! statement that they lack.

use std::collections::HashMap;

use anyhow::bail;
use mysql_async::prelude::Queryable as _;

use super::{Db, DbSettings};

/// ProxySQL answers this exact text itself.
const PROXY: &str = "select @@version_comment limit 1";

const VARIABLES: &str = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
    ('version', 'version_comment', 'wsrep_on', 'pxc_strict_mode')";

/// # Errors
/// If the server is a product that is not supported, or cannot be reached.
pub(super) async fn check(settings: &DbSettings) -> anyhow::Result<()> {
    let mut conn = Db::plain(settings).await?;
    let asked = async {
        let comment: Option<String> = conn.query_first(PROXY).await?;
        let variables: Vec<(String, String)> = conn.query(VARIABLES).await?;
        Ok::<_, mysql_async::Error>((comment, variables))
    };
    let asked = tokio::time::timeout(settings.limit, asked).await;
    let Ok(Ok((comment, variables))) = asked else {
        // The statements that follow report what is wrong.
        tracing::debug!("could not ask which product the database is");
        return Ok(());
    };
    if comment.is_some_and(|comment| comment.contains("ProxySQL")) {
        tracing::warn!(
            "ProxySQL is between this process and MySQL: rules that send reads to replicas, or a \
            session to several servers, break locks and give stale answers; let this user's \
            rules lead to the primary only, or connect without it"
        );
    }
    let variables = variables.iter().map(|(name, value)| (&**name, &**value));
    match unsupported(&variables.collect()) {
        Some(why) => bail!("{why}; use MySQL 8.4 or newer, or a service that runs it"),
        None => Ok(()),
    }
}

/// Products that name themselves in their version or its comment.
const PRODUCTS: [&str; 4] = ["MariaDB", "TiDB", "Vitess", "PlanetScale"];

/// The oldest MySQL that runs the migration. The oldest that is supported is 8.4, but services that
/// are compatible with 8.0 are not refused.
const OLDEST: [u32; 3] = [8, 0, 29];

/// Returns why a server with these variables is not supported.
fn unsupported(variables: &HashMap<&str, &str>) -> Option<String> {
    let value = |name| variables.get(name).copied().unwrap_or_default();
    let version = value("version");
    let comment = value("version_comment");
    let is = |name: &&&str| version.contains(**name) || comment.contains(**name);
    if let Some(name) = PRODUCTS.iter().find(is) {
        return Some(format!(
            "{name} ({version}) is not supported: it lacks, or does not do like MySQL, one of \
            triggers, CHECK constraints, `read_only` and GET_LOCK"
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
    let is_old = match numbers.as_slice() {
        [major, minor, patch, ..] => [*major, *minor, *patch] < OLDEST,
        [major, ..] => *major < OLDEST[0],
        [] => false,
    };
    is_old.then(|| format!("MySQL {version} is too old: it has no CREATE TRIGGER IF NOT EXISTS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unsupported_products_and_too_old_versions_are_refused() {
        for (variables, says) in [
            ("version=8.4.6", None),
            ("version=9.7.4;version_comment=Source distribution", None),
            ("version=8.0.36;wsrep_on=OFF", None),
            ("version=8.4.6-6;version_comment=Percona Server (GPL)", None),
            ("", None),
            ("version=11.4.2-MariaDB-ubu2404", Some("MariaDB")),
            (
                "version=10.11.6;version_comment=MariaDB Server",
                Some("MariaDB"),
            ),
            ("version=8.0.11-TiDB-v8.1.0", Some("TiDB")),
            ("version=8.0.30-Vitess", Some("Vitess")),
            (
                "version=8.0.42;wsrep_on=ON;pxc_strict_mode=ENFORCING",
                Some("now: ENFORCING"),
            ),
            ("version=8.0.mysql_aurora.3.08.0", None),
            ("version=8.0.29", None),
            ("version=8.0.28", Some("too old")),
            ("version=5.7.44-log", Some("too old")),
        ] {
            let pairs = variables.split(';').filter_map(|pair| pair.split_once('='));
            let said = unsupported(&pairs.collect());
            let fits = match says {
                None => said.is_none(),
                Some(says) => said.as_ref().is_some_and(|said| said.contains(says)),
            };
            assert!(fits, "{variables}: {said:?}");
        }
    }
}
