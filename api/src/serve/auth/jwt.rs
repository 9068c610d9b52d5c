//! Signed tokens (RFC 7519). A setting pins the algorithm, which is never taken from the token.
//! `exp` and `sub` are required.

use std::path::{Path, PathBuf};

use axum::http::{HeaderMap, HeaderValue, header};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use firstcome_shared::coupon::Group;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation, decode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Settings of tokens, for `USER_AUTH=jwt`.
#[derive(Debug, Clone, Default, Args)]
pub struct JwtArgs {
    /// The one algorithm tokens are signed with
    #[arg(long, env = "JWT_ALGORITHM", value_parser = PossibleValuesParser::new(ALGORITHMS).try_map(|name| name.parse::<Algorithm>()))]
    pub jwt_algorithm: Option<Algorithm>,
    /// Shared secret of at least 32 bytes, for HS256, HS384, HS512
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<SecretString>,
    /// File with the public key in PEM form, for the other algorithms
    #[arg(long, env = "JWT_PUBLIC_KEY_FILE")]
    pub jwt_public_key_file: Option<PathBuf>,
    /// Who must have issued the token (`iss`); without it anybody who has the key
    #[arg(long, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Audience that the token must name (`aud`); without it any
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// The claim with a person's groups, a text or a list of texts, for coupons of a group; without
    /// it `groups`
    #[arg(long, env = "JWT_GROUPS_CLAIM")]
    pub jwt_groups_claim: Option<String>,
}

/// The claim with a person's groups, unless a setting names another.
const GROUPS_CLAIM: &str = "groups";

const ALGORITHMS: [&str; 12] =
    ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// Shortest shared secret: a shorter one can be guessed offline from one token.
const MIN_SECRET_BYTES: usize = 32;

/// How far the issuer's clock may be off, in seconds.
const LEEWAY_SECONDS: u64 = 30;

impl JwtArgs {
    /// The name of any setting that is given.
    pub(crate) fn any_setting(&self) -> Option<&'static str> {
        let given = [
            ("JWT_ALGORITHM", self.jwt_algorithm.is_some()),
            ("JWT_SECRET", self.secret().is_some()),
            ("JWT_PUBLIC_KEY_FILE", self.key_file().is_some()),
            ("JWT_ISSUER", filled(self.jwt_issuer.as_ref()).is_some()),
            ("JWT_AUDIENCE", filled(self.jwt_audience.as_ref()).is_some()),
            ("JWT_GROUPS_CLAIM", filled(self.jwt_groups_claim.as_ref()).is_some()),
        ];
        given.into_iter().find_map(|(name, is_given)| is_given.then_some(name))
    }

    // Compose files leave variables empty: that is no setting.
    fn secret(&self) -> Option<&SecretString> {
        self.jwt_secret.as_ref().filter(|secret| !secret.expose_secret().is_empty())
    }

    fn key_file(&self) -> Option<&Path> {
        self.jwt_public_key_file.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}

fn filled(text: Option<&String>) -> Option<&String> {
    text.filter(|text| !text.is_empty())
}

pub(crate) struct Verifier {
    key: DecodingKey,
    rules: Validation,
    groups_claim: String,
}

#[derive(Deserialize)]
struct TokenClaims {
    sub: String,
}

impl Verifier {
    /// An error is one sentence about what is missing or contradicts itself, never with the secret.
    pub(crate) fn new(args: &JwtArgs) -> Result<Self, String> {
        let algorithm = args.jwt_algorithm.ok_or("USER_AUTH=jwt needs JWT_ALGORITHM, such as RS256")?;
        let key = match (algorithm.family(), args.secret(), args.key_file()) {
            (_, Some(_), Some(_)) => return Err("JWT_SECRET and JWT_PUBLIC_KEY_FILE are both set: choose one".into()),
            (AlgorithmFamily::Hmac, Some(secret), None) => shared_secret(secret)?,
            (AlgorithmFamily::Hmac, None, _) => return Err(format!("JWT_ALGORITHM={algorithm:?} needs JWT_SECRET")),
            (_, None, Some(path)) => public_key(algorithm, path)?,
            (_, _, None) => return Err(format!("JWT_ALGORITHM={algorithm:?} needs JWT_PUBLIC_KEY_FILE")),
        };
        let mut rules = Validation::new(algorithm);
        rules.leeway = LEEWAY_SECONDS;
        rules.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = filled(args.jwt_issuer.as_ref()) {
            rules.set_issuer(&[issuer]);
            required.push("iss");
        }
        if let Some(audience) = filled(args.jwt_audience.as_ref()) {
            rules.set_audience(&[audience]);
            required.push("aud");
        } else {
            rules.validate_aud = false;
        }
        if required.len() == 2 {
            tracing::warn!(
                "neither JWT_ISSUER nor JWT_AUDIENCE is set: every token made with the key is taken, for whatever it was meant"
            );
        }
        rules.set_required_spec_claims(&required);
        let groups_claim = filled(args.jwt_groups_claim.as_ref()).cloned().unwrap_or_else(|| GROUPS_CLAIM.to_owned());
        Ok(Self { key, rules, groups_claim })
    }

    /// The `sub` of the request's token.
    pub(crate) fn subject(&self, headers: &HeaderMap) -> Result<String, &'static str> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(bearer)
            .ok_or("say who this is for: send `Authorization: Bearer` with your token")?;
        let decoded = decode::<TokenClaims>(token, &self.key, &self.rules).map_err(|error| {
            tracing::debug!(%error, "a token was refused");
            "the token is not valid, or no longer; get a new one"
        })?;
        // RFC 7515: a token with `crit` must be refused where its extensions are not understood.
        if decoded.header.crit.is_some() {
            return Err("the token asks for extensions that this service does not know");
        }
        Ok(decoded.claims.sub)
    }

    /// Whether a token names this group; `None` where it can't be read any more. Read from a token
    /// that [`Verifier::subject`] has taken, and verified again: only coupons of a group ask.
    pub(crate) fn names_group(&self, authorization: &HeaderValue, group: &Group) -> Option<bool> {
        let token = bearer(authorization)?;
        let decoded = decode::<Map<String, Value>>(token, &self.key, &self.rules);
        let claims = match decoded {
            Ok(decoded) => decoded.claims,
            // It ended a moment ago.
            Err(error) => {
                tracing::debug!(%error, "the groups of a token could not be read");
                return None;
            }
        };
        Some(match claims.get(&self.groups_claim) {
            Some(Value::String(name)) => name == group.as_str(),
            // What is no text in the list is no group.
            Some(Value::Array(names)) => names.iter().any(|name| name.as_str() == Some(group.as_str())),
            _ => false,
        })
    }
}

fn bearer(authorization: &HeaderValue) -> Option<&str> {
    let (scheme, token) = authorization.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn shared_secret(secret: &SecretString) -> Result<DecodingKey, String> {
    let bytes = secret.expose_secret().as_bytes();
    if bytes.len() < MIN_SECRET_BYTES {
        return Err(format!("JWT_SECRET has {} bytes; it needs at least {MIN_SECRET_BYTES}", bytes.len()));
    }
    Ok(DecodingKey::from_secret(bytes))
}

/// A key of 2,048 bits has as many in its modulus alone.
const MIN_RSA_BYTES: usize = 2048 / 8;

/// How many keys a PEM file holds, and how many bytes they have.
fn pem_size(pem: &[u8]) -> (usize, usize) {
    let text = String::from_utf8_lossy(pem);
    let is_mark = |line: &&str| line.starts_with("-----");
    let keys = text.lines().filter(|line| line.starts_with("-----BEGIN ")).count();
    let base64: usize = text.lines().filter(|line| !is_mark(line)).map(|line| line.trim().len()).sum();
    (keys, base64 * 3 / 4)
}

fn public_key(algorithm: Algorithm, path: &Path) -> Result<DecodingKey, String> {
    let name = path.display();
    let pem = std::fs::read(path).map_err(|error| format!("JWT_PUBLIC_KEY_FILE {name} cannot be read: {error}"))?;
    if String::from_utf8_lossy(&pem).contains("PRIVATE KEY") {
        return Err(format!("JWT_PUBLIC_KEY_FILE {name} holds a private key: give this process the public one only"));
    }
    let (keys, bytes) = pem_size(&pem);
    if keys > 1 {
        return Err(format!("JWT_PUBLIC_KEY_FILE {name} holds {keys} keys: one is used, so give one"));
    }
    let key = match algorithm.family() {
        AlgorithmFamily::Ec => DecodingKey::from_ec_pem(&pem),
        AlgorithmFamily::Ed => DecodingKey::from_ed_pem(&pem),
        _ => DecodingKey::from_rsa_pem(&pem),
    };
    // One trial finds a key that has only the outer form, before the first person does.
    let key = key
        .and_then(|key| jsonwebtoken::crypto::verify("", b"", &key, algorithm).map(|_| key))
        .map_err(|_| format!("JWT_PUBLIC_KEY_FILE {name} holds no public key in PEM form that fits {algorithm:?}"))?;
    if algorithm.family() == AlgorithmFamily::Rsa && bytes < MIN_RSA_BYTES {
        return Err(format!("JWT_PUBLIC_KEY_FILE {name} holds a key that is too weak: RSA needs 2048 bits or more"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests;
