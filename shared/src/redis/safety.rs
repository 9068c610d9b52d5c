//! Settings under which a promise can be lost, refused at start-up with a sentence that says what
//! to change.

use std::collections::HashMap;

use redis::RedisError;

use super::Redis;
use super::client::ServerFacts;

/// Oldest Redis whose scripts behave as the gate needs: from 7.0 on `SCRIPT LOAD` is not copied to
/// replicas.
const OLDEST: (u32, u32) = (7, 0);

#[derive(Debug, thiserror::Error)]
pub enum Unsafe {
    #[error("Redis cannot be reached: {0}")]
    Unreachable(#[from] RedisError),
    #[error("{0}")]
    Setting(String),
}

impl Redis {
    /// Refuses a Redis that may forget what it promised: no AOF, an eviction policy, a replica,
    /// replicas of which none need follow, or too old.
    pub async fn check_settings(&self) -> Result<(), Unsafe> {
        let mut conn = self.connection();
        let facts = self.facts(&mut conn).await?;
        let wanted = ["appendonly", "maxmemory-policy", "min-replicas-to-write", "min-replicas-max-lag"];
        let config: HashMap<String, String> =
            redis::cmd("CONFIG").arg("GET").arg(&wanted[..]).query_async(&mut conn).await?;
        verdict(&facts, &config).map_err(Unsafe::Setting)?;
        let replication: String = redis::cmd("INFO").arg("replication").query_async(&mut conn).await?;
        fenced(connected_replicas(&replication), &config).map_err(Unsafe::Setting)
    }
}

/// Longest that a master may go on writing after its replicas were cut off, in seconds: less than
/// any fail-over waits.
const LONGEST_LAG: u32 = 10;

fn connected_replicas(replication: &str) -> u32 {
    let count = replication.lines().find_map(|line| line.strip_prefix("connected_slaves:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

/// Replicas are there for fail-over. A master that is cut off from them must stop admitting before
/// one of them takes its place
///  (docs/decisions/0009-replicas.md).
fn fenced(replicas: u32, config: &HashMap<String, String>) -> Result<(), String> {
    let number = |name: &str| config.get(name).and_then(|value| value.parse().ok()).unwrap_or(0_u32);
    let (needed, lag) = (number("min-replicas-to-write"), number("min-replicas-max-lag"));
    if replicas == 0 || needed > 0 && (1..=LONGEST_LAG).contains(&lag) {
        return Ok(());
    }
    Err(format!(
        "Redis has {replicas} replicas and takes writes without them, so a master that is cut off would go on admitting beside \
         the one that replaces it: set `min-replicas-to-write 1` (now {needed}) and `min-replicas-max-lag {LONGEST_LAG}` or \
         less (now {lag})"
    ))
}

fn verdict(facts: &ServerFacts, config: &HashMap<String, String>) -> Result<(), String> {
    let mut numbers = facts.version.split('.').map(|part| part.parse().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        return Err(format!("Redis {} is too old: use 7.0 or newer", facts.version));
    }
    if !facts.is_master {
        return Err("REDIS_URL points to a replica: point it to the master".into());
    }
    if config.get("appendonly").is_none_or(|v| v != "yes") {
        return Err("Redis keeps no append-only file, so a restart forgets admissions: set `appendonly yes`".into());
    }
    match config.get("maxmemory-policy").map(String::as_str) {
        Some("noeviction") => Ok(()),
        other => Err(format!(
            "Redis may evict admissions (maxmemory-policy is {}): set `maxmemory-policy noeviction`",
            other.unwrap_or("unknown")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redis_with_replicas_must_need_one_of_them_to_write() {
        let judged = |replicas: u32, needed: &str, lag: &str| {
            let config = [("min-replicas-to-write", needed), ("min-replicas-max-lag", lag)];
            fenced(replicas, &config.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
        };
        assert_eq!(judged(0, "0", "10"), Ok(()));
        assert_eq!(judged(2, "1", "10"), Ok(()));
        for (needed, lag) in [("0", "10"), ("1", "0"), ("1", "60")] {
            let said = judged(1, needed, lag).unwrap_err();
            assert!(said.contains("min-replicas-to-write 1") && said.contains("min-replicas-max-lag 10"), "{said}");
        }
        assert_eq!(connected_replicas("# Replication\r\nrole:master\r\nconnected_slaves:2\r\n"), 2);
        assert_eq!(connected_replicas(""), 0);
    }

    fn judged(version: &str, is_master: bool, appendonly: &str, policy: &str) -> Result<(), String> {
        let facts = ServerFacts { run_id: "r".into(), promoted_from: "i".into(), version: version.into(), is_master };
        let config = [("appendonly", appendonly), ("maxmemory-policy", policy)];
        verdict(&facts, &config.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
    }

    #[test]
    fn unsafe_settings_are_refused_with_what_to_change() {
        assert_eq!(judged("7.0.15", true, "yes", "noeviction"), Ok(()));
        assert!(judged("6.2.1", true, "yes", "noeviction").unwrap_err().contains("7.0"));
        assert!(judged("8.0.0", false, "yes", "noeviction").unwrap_err().contains("master"));
        assert!(judged("8.0.0", true, "no", "noeviction").unwrap_err().contains("appendonly yes"));
        assert!(judged("8.0.0", true, "yes", "allkeys-lru").unwrap_err().contains("noeviction"));
    }
}
