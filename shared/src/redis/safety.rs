//! Refuses Redis settings under which an admission could be lost, with a message that names the
//! setting to change.

use std::collections::HashMap;
use std::sync::LazyLock;

use redis::{ErrorKind, RedisError, RedisResult, Value, from_redis_value};

use super::Redis;
use super::client::{Master, Script};
use super::server::{ServerFacts, fields};

/// Oldest supported Redis: since 7.0, `INFO` accepts several sections, which the gate's scripts
/// use.
const OLDEST: u32 = 7;

static IDENTITY: LazyLock<Script> = LazyLock::new(|| Script::new("return identity() or ''"));

#[derive(Debug, thiserror::Error)]
pub enum Unsafe {
    #[error("Redis cannot be reached: {0}; see REDIS_URL, which begins with rediss:// for TLS")]
    Unreachable(#[from] RedisError),
    #[error("{0}")]
    Setting(String),
}

impl Redis {
    /// Refuses a Redis that may lose admissions: no AOF, an eviction policy, a replica, replicas
    /// that writes do not wait for, or a version that is too old. All facts but one come from
    /// `INFO`, because managed servers do not permit `CONFIG`.
    pub async fn check_settings(&self) -> Result<(), Unsafe> {
        let masters = self.masters().await?;
        for master in &masters {
            let place = if masters.len() > 1 {
                format!(" (the server at {})", master.address)
            } else {
                String::new()
            };
            let checked = self.check_server(master).await?;
            checked.map_err(|detail| Unsafe::Setting(detail + &place))?;
        }
        Ok(())
    }

    /// Returns what is unsafe about one server.
    async fn check_server(&self, master: &Master) -> RedisResult<Result<(), String>> {
        let mut pipe = redis::pipe();
        for section in ["server", "persistence", "memory", "replication"] {
            pipe.cmd("INFO").arg(section);
        }
        pipe.cmd("EVAL").arg(&IDENTITY.text).arg(0);
        let mut told = master.ask(&mut pipe).await?;
        let of_script = told.pop().unwrap_or(Value::Nil);
        let text: Vec<String> = from_redis_value(Value::Array(told))?;
        let text = text.concat();
        let info = fields(&text);
        let facts = ServerFacts::of(&text);
        if !facts.is_master && self.deployment.is_cluster() {
            master.leave();
            let why = "the server that was reported as master is now a replica";
            return Err((ErrorKind::Io, why).into());
        }
        let checked = fits(&info, self.deployment.is_cluster())
            .and_then(|()| scripts_know(&facts, of_script))
            .and_then(|()| verdict(&facts, &info, self.is_managed()));
        let (replicas, needs_one) = replicas(&info);
        if checked.is_err() || self.is_managed() {
            return Ok(checked);
        }
        let lag = if replicas > 0 && needs_one {
            longest_lag(master).await?
        } else {
            None
        };
        Ok(fenced(replicas, needs_one, lag))
    }
}

/// Checks that the server is of a supported kind and matches `REDIS_MODE`.
fn fits(info: &HashMap<&str, &str>, is_cluster: bool) -> Result<(), String> {
    let wrong = match (info.get("redis_mode").copied(), is_cluster) {
        _ if info.contains_key("dragonfly_version") => {
            "Dragonfly is not supported: it does not report `master_replid2`, so that a failover which loses admissions \
             would not be noticed; use Redis or Valkey"
        }
        (Some("cluster"), false) => {
            "REDIS_URL leads to a node of a cluster: set REDIS_MODE=cluster"
        }
        (Some("sentinel"), _) => {
            "REDIS_URL leads to a Sentinel, which is not supported: use a Redis Cluster, or name the master"
        }
        _ => return Ok(()),
    };
    Err(wrong.into())
}

/// Checks that scripts can read the fields of `INFO` on which the gate relies. `said` is what a
/// script has read.
fn scripts_know(facts: &ServerFacts, said: Value) -> Result<(), String> {
    let said = match said {
        Value::ServerError(error) => RedisError::from(error).to_string(),
        said => from_redis_value(said).unwrap_or_default(),
    };
    // `verdict` refuses a replica.
    if said == facts.id() || !facts.is_master {
        Ok(())
    } else {
        Err(no_identity(&said))
    }
}

/// Explains why scripts do not learn which server they run on.
fn no_identity(said: &str) -> String {
    let problem = "Redis does not tell scripts which server they run on (`INFO server replication`), so admission would stay closed";
    // A login without the right gets NOPERM, from Redis 7.0 also within "ACL failure in script".
    if said.contains("NOPERM") || said.contains("ACL failure") {
        return format!("{problem}: allow this login `+info` (now: {said})");
    }
    format!(
        "{problem}: this kind of server is not supported, whatever its settings (Redis Software, Redis Cloud, Azure Managed \
         Redis and Upstash are known to hide it), nor a proxy that hides it; use a Redis or Valkey that shows it (now: {said})"
    )
}

/// Reads `min-replicas-max-lag` in seconds. Returns `None` if `CONFIG` is not permitted.
async fn longest_lag(master: &Master) -> RedisResult<Option<u32>> {
    let name = "min-replicas-max-lag";
    let mut pipe = redis::pipe();
    pipe.cmd("CONFIG").arg("GET").arg(name);
    let config = master.ask(&mut pipe).await?.pop();
    let config = config.and_then(|told| from_redis_value::<HashMap<String, u32>>(told).ok());
    Ok(config.and_then(|config| config.get(name).copied()))
}

/// Maximum time in seconds during which a master may continue writing after it lost contact with
/// its replicas. Every fail-over must take longer than this.
const LONGEST_LAG: u32 = 10;

/// Returns the number of replicas, and whether writes require one. `INFO` counts good replicas only
/// if both settings are set.
fn replicas(info: &HashMap<&str, &str>) -> (u32, bool) {
    let count = info.get("connected_slaves");
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(0);
    (count, info.contains_key("min_slaves_good_slaves"))
}

/// Checks that a master that is cut off from its replicas stops admitting before one of them
/// replaces it (docs/decisions/0009-replicas.md).
fn fenced(replicas: u32, needs_one: bool, lag: Option<u32>) -> Result<(), String> {
    if replicas == 0 || needs_one && lag.is_some_and(|lag| lag <= LONGEST_LAG) {
        return Ok(());
    }
    let now = match (needs_one, lag) {
        (false, _) => "now one of them is 0".to_owned(),
        (true, Some(lag)) => format!("the second is {lag} now"),
        (true, None) => "this login may not read the second: allow it `CONFIG GET`".to_owned(),
    };
    Err(format!(
        "Redis has replicas ({replicas}) and takes writes without them, so a master that is cut off would go on admitting beside \
         the one that replaces it: set `min-replicas-to-write 1` and `min-replicas-max-lag {LONGEST_LAG}` or less ({now})"
    ))
}

/// Checks a server's settings. If the operator asserts durability, only facts that Redis reports
/// about itself count: a provider may have a substitute for the append-only file, but an eviction
/// policy always loses data.
fn verdict(
    facts: &ServerFacts,
    info: &HashMap<&str, &str>,
    is_managed: bool,
) -> Result<(), String> {
    let major = facts.version.split('.').next();
    if major.is_none_or(|major| major.parse::<u32>().unwrap_or(0) < OLDEST) {
        return Err(format!(
            "Redis {} is too old: use 7.0 or newer",
            facts.version
        ));
    }
    if !facts.is_master {
        return Err("REDIS_URL points to a replica: point it to the master".into());
    }
    if !is_managed && info.get("aof_enabled") != Some(&"1") {
        return Err("Redis keeps no append-only file, so a restart forgets admissions: set `appendonly yes`, or \
            REDIS_DURABILITY=managed where a provider vouches for it"
            .into());
    }
    match info.get("maxmemory_policy") {
        Some(&"noeviction") => Ok(()),
        None if is_managed => Ok(()),
        other => Err(format!(
            "Redis may evict admissions (maxmemory-policy is {}): set `maxmemory-policy noeviction`",
            other.unwrap_or(&"unknown")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_of_the_wrong_mode_is_refused_with_the_setting_to_change() {
        let told = |mode, is_cluster| fits(&[("redis_mode", mode)].into(), is_cluster);
        assert_eq!(
            (told("standalone", false), told("cluster", true)),
            (Ok(()), Ok(()))
        );
        assert!(
            told("cluster", false)
                .unwrap_err()
                .contains("REDIS_MODE=cluster")
        );
        assert!(
            told("sentinel", false)
                .unwrap_err()
                .contains("not supported")
        );
    }

    #[test]
    fn advice_on_hidden_info_fits_the_reason() {
        let told = no_identity("NOPERM User api has no permissions to run the 'info' command");
        assert!(
            told.contains("`+info`") && !told.contains("not supported"),
            "{told}"
        );
        let told = no_identity("ERR This Redis command is not allowed from script");
        assert!(
            !told.contains("`+info`") && told.contains("Azure Managed Redis"),
            "{told}"
        );
    }

    #[test]
    fn redis_with_replicas_is_refused_unless_writes_require_one() {
        assert_eq!(fenced(0, false, None), Ok(()));
        assert_eq!(fenced(2, true, Some(10)), Ok(()));
        for (needs_one, lag, why) in [
            (false, None, "one of them is 0"),
            (true, Some(60), "second is 60"),
            (true, None, "`CONFIG GET`"),
        ] {
            let said = fenced(1, needs_one, lag).unwrap_err();
            assert!(
                said.contains("min-replicas-to-write 1")
                    && said.contains("min-replicas-max-lag 10"),
                "{said}"
            );
            assert!(said.contains(why), "{said}");
        }
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\n";
        assert_eq!(replicas(&fields(info)), (2, false));
        assert_eq!(
            replicas(&fields(&format!("{info}min_slaves_good_slaves:1\r\n"))),
            (2, true)
        );
        assert_eq!(replicas(&fields("")), (0, false));
    }

    #[test]
    fn unsafe_settings_are_refused_with_the_setting_to_change() {
        let judged =
            |version: &str, is_master, is_managed, info: &[(&'static str, &'static str)]| {
                let facts = ServerFacts {
                    run_id: "r".into(),
                    promoted_from: "i".into(),
                    version: version.into(),
                    is_master,
                };
                verdict(&facts, &info.iter().copied().collect(), is_managed).err()
            };
        let info = |aof, policy| [("aof_enabled", aof), ("maxmemory_policy", policy)];
        let good = info("1", "noeviction");
        assert_eq!(judged("7.0.15", true, false, &good), None);
        assert_eq!(
            judged("7.1.0", true, true, &[]),
            None,
            "a provider hides all"
        );
        assert_eq!(judged("7.1.0", true, true, &info("0", "noeviction")), None);
        for (version, is_master, is_managed, info, said) in [
            ("6.2.1", true, false, good, "7.0"),
            ("8.0.0", false, false, good, "master"),
            ("8.0.0", false, true, good, "master"),
            (
                "8.0.0",
                true,
                false,
                info("0", "noeviction"),
                "appendonly yes",
            ),
            ("8.0.0", true, false, info("1", "allkeys-lru"), "noeviction"),
            ("8.0.0", true, true, info("1", "allkeys-lru"), "noeviction"),
        ] {
            let refused = judged(version, is_master, is_managed, &info).unwrap();
            assert!(refused.contains(said), "{refused}");
        }
    }
}
