//! The issuer's public keys (a JWK Set, RFC 7517), from a file or a URL. They are read again
//! periodically, and when a token names an unknown key, so that a new key is accepted immediately.
//! A removed key is refused after the next read.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Bytes;
use firstcome_shared::http::fetch::{FetchError, HttpSource};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey};
use metrics::gauge;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::keys;

/// Minimum interval between two reads caused by tokens, so that made-up key names cannot flood the
/// issuer. Unknown names are not stored.
const ASKED_EVERY: Duration = Duration::from_secs(10);

/// Maximum time until the next attempt after a failed one.
const RETRY: Duration = Duration::from_secs(10);

/// Keys that could not be read again for this long become invalid, because the issuer may have
/// withdrawn one.
const OLDEST: Duration = Duration::from_secs(24 * 3_600);

pub(crate) struct KeySet {
    source: KeySource,
    algorithm: Algorithm,
    refresh: Duration,
    keys: ArcSwap<Vec<NamedKey>>,
    /// When a token last caused a read. Locked while the set is read.
    reading: tokio::sync::Mutex<Option<Instant>>,
    /// When reads began to fail, and the last error.
    failing: Mutex<Option<(Instant, String)>>,
}

pub(super) enum KeySource {
    File(PathBuf),
    Url(HttpSource),
}

struct NamedKey {
    name: Option<String>,
    key: Arc<DecodingKey>,
}

#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<Value>,
}

impl fmt::Display for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            KeySource::File(path) => write!(f, "JWT_JWKS_FILE {}", path.display()),
            KeySource::Url(source) => write!(f, "JWT_JWKS_URL at {source}"),
        }
    }
}

impl KeySet {
    /// Creates a set without any key yet.
    pub(super) fn new(source: KeySource, algorithm: Algorithm, refresh: Duration) -> Self {
        Self {
            source,
            algorithm,
            refresh,
            keys: ArcSwap::default(),
            reading: tokio::sync::Mutex::default(),
            failing: Mutex::default(),
        }
    }

    /// Finds the key with this name. A token that names no key requires a set of one key (OpenID
    /// Connect Core, 10.1). A set of one key without a name fits every token.
    pub(super) fn find(&self, name: Option<&str>) -> Option<Arc<DecodingKey>> {
        let keys = self.keys.load();
        let found = match (keys.as_slice(), name) {
            ([only], _) if only.name.is_none() || name.is_none() => Some(only),
            (keys, Some(_)) => keys.iter().find(|key| key.name.as_deref() == name),
            (_, None) => None,
        };
        found.map(|found| Arc::clone(&found.key))
    }

    /// Reads the keys. If none can be read, the known ones stay valid for up to [`OLDEST`].
    pub(crate) async fn read(&self) -> Result<(), FetchError> {
        let _one_at_a_time = self.reading.lock().await;
        self.read_now().await
    }

    /// Reads the keys again for a token that names an unknown one, at most once per
    /// [`ASKED_EVERY`]. The read completes even if the caller is cancelled.
    pub(crate) async fn read_for(self: &Arc<Self>, name: &str) {
        let set = Arc::clone(self);
        let name = name.to_owned();
        let work = tokio::spawn(async move {
            let mut last = set.reading.lock().await;
            // Another read may have found the key while this one waited for the lock.
            let is_known = set.find(Some(&name)).is_some();
            if !is_known && last.is_none_or(|last| last.elapsed() >= ASKED_EVERY) {
                *last = Some(Instant::now());
                // `read_now` logs and stores the failure.
                let _ = set.read_now().await;
            }
        });
        if let Err(error) = work.await {
            tracing::error!(%error, "the keys of tokens could not be read");
        }
    }

    /// Reads the keys periodically. Never ends.
    pub(crate) async fn keep_fresh(&self) -> &'static str {
        loop {
            let pause = if self.problem().is_some() {
                self.refresh.min(RETRY)
            } else {
                self.refresh
            };
            tokio::time::sleep(pause).await;
            let _ = self.read().await;
        }
    }

    /// Returns why the keys cannot be read and since when, or `None` if the last read succeeded.
    pub(crate) fn problem(&self) -> Option<String> {
        let failing = self.failing.lock();
        let (since, why) = failing.as_ref()?;
        let count = if self.keys.load().is_empty() {
            "no key is valid"
        } else {
            "known keys stay valid"
        };
        Some(format!(
            "the keys of tokens can't be read for {} s; {count}: {why}",
            since.elapsed().as_secs()
        ))
    }

    async fn read_now(&self) -> Result<(), FetchError> {
        let read = self.fetch().await;
        let mut failing = self.failing.lock();
        gauge!("firstcome_jwt_keys_up").set(f64::from(u8::from(read.is_ok())));
        match &read {
            Ok(_) if failing.take().is_some() => {
                tracing::info!("the keys of tokens can be read again");
            }
            Ok(_) => {}
            Err(error) => {
                if failing.is_none() {
                    tracing::warn!(%error, "{self}: the keys of tokens can't be read; known keys stay valid");
                }
                let since = failing
                    .as_ref()
                    .map_or_else(Instant::now, |(since, _)| *since);
                *failing = Some((since, error.to_string()));
                if since.elapsed() >= OLDEST && !self.keys.load().is_empty() {
                    tracing::error!(
                        "{self}: the keys of tokens could not be read for {OLDEST:?}: none is valid now"
                    );
                    self.keys.store(Arc::default());
                }
            }
        }
        self.keys.store(Arc::new(read?));
        Ok(())
    }

    async fn fetch(&self) -> Result<Vec<NamedKey>, FetchError> {
        let text: Bytes = match &self.source {
            KeySource::File(path) => tokio::fs::read(path)
                .await
                .map_err(|error| FetchError::Refused(format!("the file cannot be read: {error}")))?
                .into(),
            KeySource::Url(source) => source.get().await?,
        };
        usable(self.algorithm, &text).map_err(FetchError::Refused)
    }
}

/// Returns the keys of a set that can verify this algorithm. Sets also hold keys for other
/// purposes.
fn usable(algorithm: Algorithm, text: &[u8]) -> Result<Vec<NamedKey>, String> {
    let set: JwkSet =
        serde_json::from_slice(text).map_err(|_| "it is no JWK Set: {\"keys\": [ ... ]}")?;
    let mut keys = Vec::new();
    for value in &set.keys {
        if value["d"].is_string() {
            return Err(
                "it holds a private key (\"d\"): give this process the public ones only".into(),
            );
        }
        let Ok(jwk) = Jwk::deserialize(value) else {
            continue;
        };
        let name = jwk.common.key_id.clone();
        match keys::of_jwk(algorithm, &jwk) {
            Ok(Some(key)) => keys.push(NamedKey {
                name,
                key: Arc::new(key),
            }),
            Ok(None) => {}
            Err(why) => tracing::warn!(kid = name, "a key of the issuer is left out: {why}"),
        }
    }
    if keys.is_empty() {
        return Err(format!(
            "it holds no key that can be used for {algorithm:?}"
        ));
    }
    Ok(keys)
}

#[cfg(test)]
mod tests;
