//! The issuer's public keys (a JWK Set, RFC 7517). They are read again periodically, and when a
//! token names an unknown key, but for such tokens at most every ten seconds. So a new key is
//! usually accepted immediately. A removed key is refused after the next read.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use firstcome_shared::config::ssl_cert_file;
use firstcome_shared::http::client::{FetchError, HttpClient};
use firstcome_shared::tls::TlsServer;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey};
use metrics::gauge;
use parking_lot::Mutex;
use serde::Deserialize as _;
use serde_json::Value;
use tokio::time::Instant;

use super::problem::{TokenProblem, TokenRefused};
use super::signatures;

/// Minimum interval between two reads caused by tokens, so that made-up key names cannot flood the
/// issuer. Unknown names are not stored.
const ASKED_EVERY: Duration = Duration::from_secs(10);

/// Pause before the next regular read, if the last one succeeded.
const REFRESH: Duration = Duration::from_secs(300);

/// Time until the next attempt after a failed one.
const RETRY: Duration = Duration::from_secs(10);

pub(crate) struct KeySet {
    source: HttpClient,
    algorithm: Algorithm,
    keys: ArcSwap<Vec<NamedKey>>,
    /// When a token last caused a read. Locked while the set is read.
    reading: tokio::sync::Mutex<Option<Instant>>,
    /// Why the last read failed.
    problem: Mutex<Option<String>>,
}

/// A key with its name.
type NamedKey = (Option<String>, Arc<DecodingKey>);

impl fmt::Display for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JWT_JWKS_URL at {}", self.source)
    }
}

impl KeySet {
    /// Creates a set that has no keys yet.
    pub(super) fn new(url: &str, algorithm: Algorithm) -> Result<Self, String> {
        let source = HttpClient::new(TlsServer::Jwks, url, ssl_cert_file())?;
        if !source.is_encrypted() && !source.is_loopback() {
            return Err(format!(
                "JWT_JWKS_URL: use https. Anybody on the way to {source} could give keys of \
                their own, and claim as any user. http is accepted for this machine only \
                (127.0.0.1, ::1, localhost)"
            ));
        }
        Ok(Self {
            source,
            algorithm,
            keys: ArcSwap::default(),
            reading: tokio::sync::Mutex::default(),
            problem: Mutex::default(),
        })
    }

    /// Finds the key of a token. If the token names an unknown key, reads the set again, at most
    /// once per [`ASKED_EVERY`], and to the end even if the request is cancelled.
    pub(super) async fn find(
        self: &Arc<Self>,
        name: Option<&str>,
    ) -> Result<Arc<DecodingKey>, TokenRefused> {
        if let Some(key) = self.known(name) {
            return Ok(key);
        }
        let Some(name) = name.map(str::to_owned) else {
            return Err(TokenProblem::NoKeyId.because("the set has several keys"));
        };
        let set = Arc::clone(self);
        let found = tokio::spawn(async move {
            let mut last = set.reading.lock().await;
            // Another read may have found the key while this one waited for the lock.
            let is_known = set.known(Some(&name)).is_some();
            if !is_known && last.is_none_or(|last| last.elapsed() >= ASKED_EVERY) {
                *last = Some(Instant::now());
                // `read_now` logs and stores the failure.
                let _ = set.read_now().await;
            }
            // If the keys could not be read, the token may be signed with a new one.
            let why = match set.problem() {
                Some(_) => TokenProblem::KeysAway,
                None => TokenProblem::UnknownKey,
            };
            set.known(Some(&name)).ok_or_else(|| why.because(name))
        });
        found
            .await
            .unwrap_or_else(|error| Err(TokenProblem::KeysAway.because(format!("{error}"))))
    }

    /// A token that names no key requires a set of one key (OpenID Connect Core, 10.1). A set of
    /// one key without a name fits every token.
    fn known(&self, name: Option<&str>) -> Option<Arc<DecodingKey>> {
        let keys = self.keys.load();
        let found = match (keys.as_slice(), name) {
            ([only], _) if only.0.is_none() || name.is_none() => Some(only),
            (keys, Some(_)) => keys.iter().find(|(kid, _)| kid.as_deref() == name),
            (_, None) => None,
        };
        found.map(|(_, key)| Arc::clone(key))
    }

    /// Reads the keys. If that fails, the known ones stay valid.
    pub(crate) async fn read(&self) -> Result<(), FetchError> {
        let _one_at_a_time = self.reading.lock().await;
        self.read_now().await
    }

    /// Reads the keys periodically. Never ends.
    pub(crate) async fn keep_fresh(&self) {
        loop {
            let is_failing = self.problem.lock().is_some();
            let pause = if is_failing { RETRY } else { REFRESH };
            tokio::time::sleep(pause).await;
            let _ = self.read().await;
        }
    }

    /// Returns why the keys cannot be read, or `None` if the last read succeeded.
    pub(crate) fn problem(&self) -> Option<String> {
        let problem = self.problem.lock();
        let why = problem.as_ref()?;
        Some(format!(
            "the keys of tokens can't be read; known keys stay valid: {why}"
        ))
    }

    async fn read_now(&self) -> Result<(), FetchError> {
        let read = self.fetch().await;
        gauge!("firstcome_jwt_keys_up").set(f64::from(u8::from(read.is_ok())));
        *self.problem.lock() = read.as_ref().err().map(FetchError::to_string);
        if let Err(error) = &read {
            tracing::warn!(%error, "{self}: the keys of tokens can't be read; known keys stay valid");
        }
        self.keys.store(Arc::new(read?));
        Ok(())
    }

    async fn fetch(&self) -> Result<Vec<NamedKey>, FetchError> {
        let text = self.source.get().await?;
        usable(self.algorithm, &text).map_err(FetchError::Refused)
    }
}

/// Returns the keys that can verify this algorithm. A set may also hold keys for other purposes and
/// of unknown kinds. A key that cannot be used does not affect the others.
fn usable(algorithm: Algorithm, text: &[u8]) -> Result<Vec<NamedKey>, String> {
    let set: Value = serde_json::from_slice(text).unwrap_or_default();
    let jwks = set["keys"]
        .as_array()
        .ok_or("it is no JWK Set: {\"keys\": [ ... ]}")?;
    let mut keys = Vec::new();
    let mut skipped = Vec::new();
    for jwk in jwks {
        let name = jwk["kid"].as_str().map(str::to_owned);
        match verifying_key(algorithm, jwk) {
            Ok(key) => keys.push((name, Arc::new(key))),
            Err(why) => skipped.push(format!("{:?} {why}", name.unwrap_or_default())),
        }
    }
    let skipped = skipped.join(", ");
    if keys.is_empty() {
        return Err(format!(
            "it holds no key that can be used for {algorithm:?} ({skipped})"
        ));
    }
    tracing::debug!(skipped, "keys of the issuer were read");
    Ok(keys)
}

fn verifying_key(algorithm: Algorithm, jwk: &Value) -> Result<DecodingKey, &'static str> {
    // Anybody who can read the set could sign tokens with such a key.
    if jwk.get("d").is_some() || jwk.get("priv").is_some() {
        return Err("is a private key");
    }
    let allows = |field, use_of_it| match jwk.get(field) {
        Some(Value::Array(all)) => all.iter().any(|one| one == use_of_it),
        one => one.is_none_or(|one| one == use_of_it),
    };
    if !allows("use", "sig")
        || !allows("key_ops", "verify")
        || !allows("alg", &format!("{algorithm:?}"))
    {
        return Err("is for another use or algorithm");
    }
    let key = Jwk::deserialize(jwk).map_err(|_| "is of an unknown kind")?;
    let key = DecodingKey::from_jwk(&key).map_err(|_| "is malformed")?;
    match signatures::verifier(algorithm, &key) {
        Ok(_) => Ok(key),
        Err(_) => Err("is of another kind or length, or malformed"),
    }
}

#[cfg(test)]
#[path = "tests/key_set.rs"]
mod tests;
