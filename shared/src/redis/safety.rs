//! Refuses Redis settings under which an admission could be lost, with a message that names the
//! setting to change.

use std::collections::HashMap;

use redis::{ErrorKind, RedisError, RedisResult, ServerErrorKind, Value, from_redis_value};

use super::Redis;
use super::client::{Master, Script};
use super::servers::{ServerId, fields};

/// Oldest supported Redis: since 7.0, `INFO` accepts several sections, which the gate's scripts
/// use.
const OLDEST: u32 = 7;

/// Maximum time in seconds during which a master may continue writing after it lost contact with
/// its replicas. Every fail-over must take longer than this.
const LONGEST_LAG: u32 = 10;

static IDENTITY: Script = Script::new("return identity() or ''");

#[derive(Debug, thiserror::Error)]
pub enum Unsafe {
    #[error("Redis cannot be reached: {0}; see REDIS_URL, which begins with rediss:// for TLS")]
    Unreachable(#[from] RedisError),
    #[error("{0}")]
    Setting(String),
}

impl Redis {
    /// Calls [`Redis::check_settings`] at start-up. If retrying cannot help, the error names a
    /// setting.
    pub async fn check_at_start(&self) -> Result<(), Unsafe> {
        metrics::gauge!("firstcome_redis_managed").set(f64::from(u8::from(self.is_managed())));
        let checked = self.check_settings().await;
        if checked.is_ok() && self.is_managed() {
            tracing::warn!("REDIS_DURABILITY=managed: the durability of Redis is not checked");
        }
        if let Err(Unsafe::Unreachable(error)) = &checked
            && let Some(advice) = wrong_setting(error)
        {
            let at = self.host_and_port();
            let fault = format!("Redis at {at} can't be used: {error}; {advice}");
            return Err(Unsafe::Setting(fault));
        }
        checked
    }

    /// Refuses a Redis that may lose admissions (no AOF, an eviction policy, a replica, or a master
    /// that takes writes without its replicas), a version that is too old, and a kind that is not
    /// supported or does not match `REDIS_MODE`. Reads `INFO`, because managed servers do not
    /// permit `CONFIG`; only the replicas' maximum lag needs `CONFIG`. Of a cluster, it checks the
    /// masters that answer: the coupons of the others wait for them, and hold up nothing else.
    pub async fn check_settings(&self) -> Result<(), Unsafe> {
        let masters = self.masters().await?;
        let mut silent = Vec::new();
        for master in &masters {
            match self.fault_of(master).await {
                Ok(None) => {}
                Ok(Some(fault)) if masters.len() == 1 => return Err(Unsafe::Setting(fault)),
                Ok(Some(fault)) => {
                    let place = format!("{fault} (the server at {})", master.address);
                    return Err(Unsafe::Setting(place));
                }
                Err(error) => silent.push((&master.address, error)),
            }
        }
        if silent.len() < masters.len() {
            for (address, error) in silent {
                let what = "a server of the cluster does not answer, and was not checked";
                tracing::warn!(address, %error, "{what}");
            }
            return Ok(());
        }
        let last = silent.pop().map(|(_, error)| error);
        Err(last.unwrap_or_else(|| (ErrorKind::Io, "no server is known").into()))?
    }

    /// Returns the free memory below `maxmemory` of the fullest server, in bytes, or `None` if no
    /// server has that limit.
    pub async fn room(&self) -> RedisResult<Option<u64>> {
        let mut least = None;
        for master in self.masters().await? {
            let mut told = master.send(redis::pipe().cmd("INFO").arg("memory")).await?;
            let info: String = from_redis_value(told.pop().unwrap_or(Value::Nil))?;
            let number = |name| {
                let mut lines = info.lines();
                lines.find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
            };
            let limit = number("maxmemory:").filter(|limit| *limit > 0);
            if let (Some(limit), Some(used)) = (limit, number("used_memory:")) {
                let room = limit.saturating_sub(used);
                least = Some(least.map_or(room, |least| room.min(least)));
            }
        }
        Ok(least)
    }

    /// Returns what is unsafe about one server.
    async fn fault_of(&self, master: &Master) -> RedisResult<Option<String>> {
        let mut pipe = redis::pipe();
        for section in ["server", "persistence", "memory", "replication"] {
            pipe.cmd("INFO").arg(section);
        }
        pipe.cmd("EVAL").arg(IDENTITY.text()).arg(0);
        // Not every login may read this setting.
        pipe.cmd("CONFIG").arg("GET").arg("min-replicas-max-lag");
        let mut told = master.send(&mut pipe).await?;
        let lag = from_redis_value::<HashMap<String, u32>>(told.pop().unwrap_or(Value::Nil))
            .unwrap_or_default();
        let of_script = match told.pop().unwrap_or(Value::Nil) {
            Value::ServerError(error) => RedisError::from(error).to_string(),
            said => from_redis_value(said).unwrap_or_default(),
        };
        let parts: Vec<String> = from_redis_value(Value::Array(told))?;
        let text = parts.concat();
        let server = ServerId::parse(&text);
        if server.is_none() && self.deployment.is_cluster() {
            master.leave();
            let why = "the server that was reported as master is now a replica";
            return Err((ErrorKind::Io, why).into());
        }
        let is_cluster = self.deployment.is_cluster();
        let is_managed = self.is_managed();
        let info = fields(&text);
        let fault = unfit(&info, server.as_ref(), is_cluster, &of_script)
            .or_else(|| volatile(&info, is_managed))
            .or_else(|| (!is_managed).then(|| unfenced(&info, lag.into_values().next()))?);
        Ok(fault)
    }
}

/// Returns which setting an error at start-up is about, if there is one.
fn wrong_setting(error: &RedisError) -> Option<&'static str> {
    // redis-rs keeps only the text of rustls's errors and, in a cluster, of the nodes' errors.
    let text = error.to_string();
    let says = |word| text.contains(word);
    let is_login = says("NOAUTH")
        || says("WRONGPASS")
        || says("AuthenticationFailed")
        || error.kind() == ErrorKind::AuthenticationFailed
        || error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm);
    // rustls's messages if one side does not trust the other, or the server does not speak TLS.
    let is_tls = says("invalid peer certificate")
        || says("received fatal alert")
        || says("received corrupt message");
    if is_login {
        Some("Redis does not let this process in: see the user and the password in REDIS_URL")
    } else if is_tls && error.code().is_none() {
        Some("TLS fails: see REDIS_URL, SSL_CERT_FILE and TLS_CERT_FILE")
    } else if says("cluster support disabled") {
        Some("this Redis is no cluster: leave REDIS_MODE=cluster out")
    } else {
        (error.kind() == ErrorKind::InvalidClientConfig).then_some("see REDIS_URL")
    }
}

/// Returns why a server is not of a supported kind, or does not match `REDIS_MODE`. `of_script` is
/// the server's identity as a script sees it: without it, the gate would stay closed.
fn unfit(
    info: &HashMap<&str, &str>,
    server: Option<&ServerId>,
    is_cluster: bool,
    of_script: &str,
) -> Option<String> {
    let version = *info.get("redis_version").unwrap_or(&"");
    let major = version.split('.').next().unwrap_or_default();
    let is_supported = major.parse::<u32>().is_ok_and(|major| major >= OLDEST);
    let hides = "Redis does not tell scripts which server they run on (`INFO server \
        replication`), so admission would stay closed";
    Some(match info.get("redis_mode").copied() {
        _ if info.contains_key("dragonfly_version") => {
            "Dragonfly is not supported: it does not report `master_replid2`, so that a failover \
            which loses admissions would not be noticed; use Redis or Valkey"
                .into()
        }
        Some("cluster") if !is_cluster => {
            "REDIS_URL leads to a node of a cluster: set REDIS_MODE=cluster".into()
        }
        Some("sentinel") => {
            "REDIS_URL leads to a Sentinel, which is not supported: use a Redis Cluster, or name \
            the master"
                .into()
        }
        _ if !is_supported => format!("Redis {version} is too old: use 7.0 or newer"),
        _ if server.is_none() => "REDIS_URL points to a replica: point it to the master".into(),
        _ if server.is_some_and(|it| it.0 == of_script) => return None,
        // A login without the right gets NOPERM, from Redis 7.0 also within "ACL failure in
        // script".
        _ if of_script.contains("NOPERM") || of_script.contains("ACL failure") => {
            format!("{hides}: allow this login `+info` (now: {of_script})")
        }
        _ => format!(
            "{hides}: this kind of server is not supported, whatever its settings (Redis \
            Software, Redis Cloud, Azure Managed Redis and Upstash are known to hide it), nor a \
            proxy that hides it; use a Redis or Valkey that shows it (now: {of_script})"
        ),
    })
}

/// Returns how a server may lose writes. If the operator asserts durability, only facts that Redis
/// reports about itself count: a provider may have a substitute for the append-only file, but an
/// eviction policy always loses data.
fn volatile(info: &HashMap<&str, &str>, is_managed: bool) -> Option<String> {
    if !is_managed && info.get("aof_enabled") != Some(&"1") {
        let no_aof = "Redis keeps no append-only file, so a restart forgets admissions: set \
            `appendonly yes`, or REDIS_DURABILITY=managed where a provider vouches for it";
        return Some(no_aof.into());
    }
    match info.get("maxmemory_policy") {
        Some(&"noeviction") => None,
        None if is_managed => None,
        other => Some(format!(
            "Redis may evict admissions (maxmemory-policy is {}): set `maxmemory-policy noeviction`",
            other.unwrap_or(&"unknown")
        )),
    }
}

/// Returns why a master that is cut off from its replicas would still admit users when one of them
/// replaces it. `INFO` counts good replicas only if both settings are set.
fn unfenced(info: &HashMap<&str, &str>, lag: Option<u32>) -> Option<String> {
    let replicas = *info.get("connected_slaves").unwrap_or(&"0");
    let needs_one = info.contains_key("min_slaves_good_slaves");
    if replicas == "0" || needs_one && lag.is_some_and(|lag| lag <= LONGEST_LAG) {
        return None;
    }
    let now = match (needs_one, lag) {
        (false, _) => "now one of them is 0".to_owned(),
        (true, Some(lag)) => format!("the second is {lag} now"),
        (true, None) => "this login may not read the second: allow it `CONFIG GET`".to_owned(),
    };
    Some(format!(
        "Redis has replicas ({replicas}) and takes writes without them, so a master that is cut \
        off would go on admitting beside the one that replaces it: set `min-replicas-to-write 1` \
        and `min-replicas-max-lag {LONGEST_LAG}` or less ({now})"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfit_servers_are_refused_with_what_to_change() {
        let judged =
            |version: &str, is_master: bool, fact: (&'static str, &'static str), of_script| {
                let server = is_master.then(|| ServerId("r:i".into()));
                let info = [fact, ("redis_version", version)].into();
                unfit(&info, server.as_ref(), false, of_script).unwrap_or_default()
            };
        let single = ("redis_mode", "standalone");
        let cluster = ("redis_mode", "cluster");
        let sentinel = ("redis_mode", "sentinel");
        let dragonfly = ("dragonfly_version", "1");
        let azure = "ERR not allowed from script";
        assert_eq!(judged("7.0.15", true, single, "r:i"), "");
        for (version, is_master, fact, of_script, said) in [
            ("7.1.0", true, cluster, "r:i", "REDIS_MODE=cluster"),
            ("7.1.0", true, sentinel, "r:i", "not supported"),
            ("7.1.0", true, dragonfly, "r:i", "use Redis or Valkey"),
            ("6.2.1", true, single, "r:i", "7.0"),
            ("8.0.0", false, single, "", "master"),
            ("8.0.0", true, single, "NOPERM User api", "`+info`"),
            ("8.0.0", true, single, azure, "Azure Managed Redis"),
        ] {
            let refused = judged(version, is_master, fact, of_script);
            assert!(refused.contains(said), "{said}: {refused}");
        }
    }

    #[test]
    fn unsafe_settings_are_refused_with_the_setting_to_change() {
        let info = |aof, policy| [("aof_enabled", aof), ("maxmemory_policy", policy)].into();
        assert_eq!(volatile(&info("1", "noeviction"), false), None);
        assert_eq!(volatile(&info("0", "noeviction"), true), None);
        let hidden_by_a_provider = HashMap::new();
        assert_eq!(volatile(&hidden_by_a_provider, true), None);
        for (aof, policy, is_managed, said) in [
            ("0", "noeviction", false, "appendonly yes"),
            ("1", "allkeys-lru", false, "noeviction"),
            ("1", "allkeys-lru", true, "noeviction"),
        ] {
            let refused = volatile(&info(aof, policy), is_managed).unwrap();
            assert!(refused.contains(said), "{refused}");
        }
        let replicas = ("connected_slaves", "2");
        let both = || [replicas, ("min_slaves_good_slaves", "1")].into();
        assert_eq!(unfenced(&HashMap::new(), None), None);
        assert_eq!(unfenced(&both(), Some(10)), None);
        for (info, lag, said) in [
            ([replicas].into(), None, "one of them is 0"),
            (both(), Some(60), "second is 60"),
            (both(), None, "`CONFIG GET`"),
        ] {
            let refused = unfenced(&info, lag).unwrap();
            let advises = refused.contains("min-replicas-to-write 1");
            assert!(advises && refused.contains(said), "{refused}");
        }
    }
}
