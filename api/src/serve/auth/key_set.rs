//! The issuer's public keys (a JWK Set, RFC 7517), from a file or a URL. They are read again
//! periodically, and when a token names an unknown key, so that a new key is accepted immediately.
//! A removed key is refused after the next read.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Bytes;
use firstcome_shared::config::ssl_cert_file;
use firstcome_shared::http::fetch::{FetchError, HttpSource};
use firstcome_shared::tls::Store;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind};
use metrics::gauge;
use parking_lot::Mutex;
use serde::Deserialize as _;
use serde_json::Value;
use tokio::time::Instant;

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

impl KeySource {
    /// `url` may be `file:///path`.
    pub(super) fn new(url: &str) -> Result<Self, String> {
        if let Some(path) = url.strip_prefix("file://") {
            return Ok(Self::File(path.into()));
        }
        let source = HttpSource::new(Store::Jwks, url, ssl_cert_file())?;
        if !source.is_encrypted() {
            tracing::warn!(
                "JWT_JWKS_URL is http://: anybody on the network path can give this process other keys"
            );
        }
        let is_set =
            |name: &&'static str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if let Some(name) = ["HTTPS_PROXY", "https_proxy"].into_iter().find(is_set) {
            tracing::warn!(
                "{name} is set, but JWT_JWKS_URL is read without a proxy; if that fails, use a file:// URL"
            );
        }
        Ok(Self::Url(source))
    }
}

/// A key with its name.
type NamedKey = (Option<String>, Arc<DecodingKey>);

impl fmt::Display for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            KeySource::File(path) => write!(f, "JWT_JWKS_URL at file://{}", path.display()),
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
            ([only], _) if only.0.is_none() || name.is_none() => Some(only),
            (keys, Some(_)) => keys.iter().find(|(kid, _)| kid.as_deref() == name),
            (_, None) => None,
        };
        found.map(|(_, key)| Arc::clone(key))
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

/// Accepted lengths of the modulus of an RSA key: 2,048 to 4,096 bits. A shorter key is too weak,
/// and the library does not support a longer one.
const RSA_BYTES: RangeInclusive<usize> = 256..=512;

/// Returns the keys that can verify this algorithm. A set also holds keys for other purposes and of
/// kinds that are not known here. One that cannot be used does not affect the others.
fn usable(algorithm: Algorithm, text: &[u8]) -> Result<Vec<NamedKey>, String> {
    if text.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Ok(vec![(None, Arc::new(of_pem(algorithm, text)?))]);
    }
    let set: Value = serde_json::from_slice(text).unwrap_or_default();
    let jwks = set["keys"].as_array();
    let jwks = jwks.ok_or("it is no JWK Set: {\"keys\": [ ... ]}")?;
    let mut keys = Vec::new();
    let mut skipped = Vec::new();
    for jwk in jwks {
        let name = jwk["kid"].as_str().map(str::to_owned);
        match of_jwk(algorithm, jwk) {
            Ok(key) => keys.push((name, Arc::new(key))),
            Err(why) => skipped.push(format!("{:?} {why}", name.unwrap_or_default())),
        }
    }
    if keys.is_empty() {
        return Err(format!(
            "it holds no key that can be used for {algorithm:?} ({})",
            skipped.join(", ")
        ));
    }
    if !skipped.is_empty() {
        tracing::debug!(
            "keys of the issuer that are left out: {}",
            skipped.join(", ")
        );
    }
    Ok(keys)
}

fn of_jwk(algorithm: Algorithm, value: &Value) -> Result<DecodingKey, &'static str> {
    if value.get("d").is_some() || value.get("priv").is_some() {
        tracing::warn!(
            kid = %value["kid"],
            "the set of keys holds a private key, which is left out; whoever can read the set can make tokens with it"
        );
        return Err("is a private key");
    }
    let is_for = |name: &str| value.get("alg").is_none_or(|alg| alg == name);
    let may_verify = |list: &Value| {
        list.as_array()
            .is_none_or(|ops| ops.contains(&"verify".into()))
    };
    if value["use"] == "enc" || !may_verify(&value["key_ops"]) || !is_for(&format!("{algorithm:?}"))
    {
        return Err("is for another use or algorithm");
    }
    let curve = match algorithm {
        Algorithm::ES256 => Some("P-256"),
        Algorithm::ES384 => Some("P-384"),
        Algorithm::EdDSA => Some("Ed25519"),
        _ => None,
    };
    if value.get("crv").and_then(Value::as_str) != curve {
        return Err("is of another kind");
    }
    let jwk = Jwk::deserialize(value).map_err(|_| "is of an unknown kind")?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| "is malformed")?;
    if let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind()
        && !RSA_BYTES.contains(&n.iter().skip_while(|byte| **byte == 0).count())
    {
        return Err("does not have 2,048 to 4,096 bits");
    }
    if !fits(algorithm, &key) {
        return Err("is of another kind, or malformed");
    }
    Ok(key)
}

/// Reads the only public key of a PEM file.
fn of_pem(algorithm: Algorithm, pem: &[u8]) -> Result<DecodingKey, String> {
    if String::from_utf8_lossy(pem).contains("PRIVATE KEY") {
        return Err("it holds a private key: give this process the public one only".into());
    }
    let key = match algorithm.family() {
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem),
        _ => DecodingKey::from_rsa_pem(pem),
    };
    key.ok()
        .filter(|key| fits(algorithm, key))
        .ok_or_else(|| format!("it holds no public key in PEM form that fits {algorithm:?}"))
}

/// Detects keys of another kind and malformed ones by verifying once.
fn fits(algorithm: Algorithm, key: &DecodingKey) -> bool {
    jsonwebtoken::crypto::verify("", b"", key, algorithm).is_ok()
}

#[cfg(test)]
#[path = "tests/key_set.rs"]
mod tests;
