//! Signed tokens (RFC 7519). A setting fixes the algorithm, which is never taken from the token.
//! Issuer, audience, `exp` and the user are required.

use std::sync::Arc;

use clap::Args;
use firstcome_shared::coupon::Group;
use firstcome_shared::domain::UserId;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, TokenData, Validation, decode, decode_header,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

use super::key_set::KeySet;
use super::problem::{TokenProblem, TokenRefused};
use super::signatures;

fn algorithm(name: &str) -> Result<Algorithm, &'static str> {
    let wrong = "write RS256, ES256, EdDSA or HS256, or another name of RFC 7518";
    name.parse().map_err(|_| wrong)
}

/// Settings of tokens, for `USER_AUTH=jwt`.
#[derive(Debug, Clone, Default, Args)]
pub struct JwtArgs {
    /// The one algorithm that tokens are signed with, such as RS256; it is never taken from the
    /// token
    #[arg(long, env = "JWT_ALGORITHM", value_parser = algorithm)]
    pub jwt_algorithm: Option<Algorithm>,
    /// Shared secret of at least 32 bytes, for HS256 (48 for HS384, 64 for HS512)
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<SecretString>,
    /// Address of the issuer's public keys as a JWK Set, read every five minutes: `https://…`, or
    /// `http://…` on this machine. SSL_CERT_FILE names further certificate authorities
    #[arg(long, env = "JWT_JWKS_URL", hide_env_values = true)]
    pub jwt_jwks_url: Option<String>,
    /// Required issuer of the token (`iss`)
    #[arg(long, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Audiences, separated by commas, of which the token must name one
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Token claim that holds the audience, such as `client_id` (Cognito) or `azp` (Clerk), if the
    /// issuer's tokens have no `aud`
    #[arg(long, env = "JWT_AUDIENCE_CLAIM", default_value = "aud")]
    pub jwt_audience_claim: String,
    /// Token claim that holds the user id: text or a whole number
    #[arg(long, env = "JWT_USER_CLAIM", default_value = "sub")]
    pub jwt_user_claim: String,
    /// Token claim that holds the user's groups, a string or a list of strings, for coupons of a
    /// group. Dots lead into objects: `realm_access.roles`
    #[arg(long, env = "JWT_GROUPS_CLAIM", default_value = "groups")]
    pub jwt_groups_claim: String,
}

/// Tolerated difference between the issuer's clock and this one.
const LEEWAY_SECONDS: u64 = 30;

impl JwtArgs {
    fn keys(&self, algorithm: Algorithm) -> Result<Keys, String> {
        let secret = self
            .jwt_secret
            .as_ref()
            .map(ExposeSecret::expose_secret)
            .filter(|secret| !secret.is_empty());
        let url = self.jwt_jwks_url.as_ref().filter(|url| !url.is_empty());
        let is_shared = algorithm.family() == AlgorithmFamily::Hmac;
        let needed = match (secret, url) {
            (Some(secret), None) if is_shared => return shared_secret(algorithm, secret),
            (None, Some(url)) if !is_shared => {
                return KeySet::new(url, algorithm).map(|set| Keys::Set(set.into()));
            }
            _ if is_shared => "JWT_SECRET",
            _ => "JWT_JWKS_URL",
        };
        Err(format!(
            "JWT_ALGORITHM={algorithm:?} needs {needed}, and no other key"
        ))
    }
}

/// Checks that a shared secret is as long as the algorithm's hash (RFC 7518, 3.2): a shorter one
/// can be guessed offline from one token.
fn shared_secret(algorithm: Algorithm, secret: &str) -> Result<Keys, String> {
    let least = match algorithm {
        Algorithm::HS512 => 64,
        Algorithm::HS384 => 48,
        _ => 32,
    };
    let bytes = secret.len();
    if bytes < least {
        return Err(format!(
            "JWT_SECRET has {bytes} bytes; {algorithm:?} needs at least {least}"
        ));
    }
    let key = DecodingKey::from_secret(secret.as_bytes());
    Ok(Keys::One(key.into()))
}

pub(crate) struct Verifier {
    keys: Keys,
    rules: Validation,
    issuer: String,
    audiences: Vec<String>,
    args: JwtArgs,
}

enum Keys {
    One(Arc<DecodingKey>),
    Set(Arc<KeySet>),
}

/// The groups of a user, as far as they are known.
#[derive(Clone)]
pub(crate) enum Groups {
    /// A gateway names no groups, and Entra leaves long lists out of its tokens.
    Unknown,
    /// The claim with the groups; null if the token has none.
    Named(Value),
}

impl Verifier {
    /// Returns an error if settings are missing or contradict each other. The error does not
    /// contain the secret.
    pub(super) fn new(args: &JwtArgs) -> Result<Self, String> {
        signatures::install();
        let algorithm = args
            .jwt_algorithm
            .ok_or("USER_AUTH=jwt needs JWT_ALGORITHM, such as RS256")?;
        let [given_issuer, given_audience] = [
            ("JWT_ISSUER", &args.jwt_issuer),
            ("JWT_AUDIENCE", &args.jwt_audience),
        ]
        .map(|(name, setting)| {
            let why = "tokens meant for others would be accepted";
            let given = setting.clone().filter(|text| !text.is_empty());
            given.ok_or_else(|| format!("USER_AUTH=jwt needs {name}: else {why}"))
        });
        let issuer = given_issuer?;
        let audience = given_audience?;
        let mut rules = Validation::new(algorithm);
        rules.leeway = LEEWAY_SECONDS;
        rules.validate_nbf = true;
        // `check_origin` checks issuer and audience, so that the log can show both values.
        rules.validate_aud = false;
        let audience_claim = &args.jwt_audience_claim;
        if audience_claim != "aud" {
            tracing::warn!(
                "JWT_AUDIENCE_CLAIM={audience_claim}: tokens are accepted by who got them, not \
                by whom they are meant for (`aud`); a token that {audience} got for another \
                service is accepted here too"
            );
        }
        Ok(Self {
            keys: args.keys(algorithm)?,
            rules,
            issuer,
            audiences: audience.split(',').map(|one| one.trim().into()).collect(),
            args: args.clone(),
        })
    }

    /// Returns the key set if keys are read repeatedly, from a URL.
    pub(super) fn key_set(&self) -> Option<&Arc<KeySet>> {
        match &self.keys {
            Keys::One(_) => None,
            Keys::Set(set) => Some(set),
        }
    }

    /// Returns the user of a token, and the user's groups.
    pub(super) async fn identify(&self, token: &str) -> Result<(UserId, Groups), TokenRefused> {
        let key = match &self.keys {
            Keys::One(key) => Arc::clone(key),
            Keys::Set(set) => {
                let header = decode_header(token).map_err(|error| refused(&error))?;
                set.find(header.kid.as_deref()).await?
            }
        };
        let TokenData { header, claims } = decode::<Map<String, Value>>(token, &key, &self.rules)
            .map_err(|error| refused(&error))?;
        // RFC 7515: a token with `crit` must be refused by a service that does not understand its
        // extensions.
        if let Some(extensions) = header.crit {
            return Err(TokenProblem::Extension.because(format!("crit is {extensions:?}")));
        }
        self.check_origin(&claims)?;
        let parsed: Result<UserId, _> = match find(&claims, &self.args.jwt_user_claim) {
            Some(Value::String(user)) => user.parse(),
            // Laravel, Django and Spring number their users.
            Some(Value::Number(number)) if !number.is_f64() => number.to_string().parse(),
            other => {
                // Name only the value's shape: the value may contain more about the user.
                let shape = match other {
                    None => "missing",
                    Some(Value::Object(_)) => "an object",
                    Some(Value::Array(_)) => "a list",
                    Some(_) => "neither text nor a whole number",
                };
                let why = format!("{} is {shape}", self.args.jwt_user_claim);
                return Err(TokenProblem::NoUser.because(why));
            }
        };
        let user = parsed.map_err(|error| TokenProblem::BadUserId.because(error.to_string()))?;
        let groups = match find(&claims, &self.args.jwt_groups_claim) {
            Some(groups) => Groups::Named(groups.clone()),
            None if is_left_out(&claims, &self.args.jwt_groups_claim) => Groups::Unknown,
            None => Groups::Named(Value::Null),
        };
        Ok((user, groups))
    }

    /// Checks that the expected issuer made the token, and made it for this service.
    fn check_origin(&self, claims: &Map<String, Value>) -> Result<(), TokenRefused> {
        let issuer = claims.get("iss");
        if issuer.and_then(Value::as_str) != Some(&self.issuer) {
            let why = format!(
                "iss is {}, JWT_ISSUER is {:?}",
                claim_text(issuer),
                self.issuer
            );
            return Err(TokenProblem::Issuer.because(why));
        }
        let audience = find(claims, &self.args.jwt_audience_claim);
        if strings(audience).any(|name| self.audiences.iter().any(|one| one == name)) {
            return Ok(());
        }
        let names: Vec<_> = claims.keys().map(String::as_str).collect();
        Err(TokenProblem::Audience.because(format!(
            "{} is {}, JWT_AUDIENCE is {:?}; the token has {}",
            self.args.jwt_audience_claim,
            claim_text(audience),
            self.audiences.join(","),
            names.join(", ")
        )))
    }
}

impl Groups {
    pub(crate) fn are_known(&self) -> bool {
        matches!(self, Self::Named(_))
    }

    /// Whether the user is in this group, or `None` if unknown. Keycloak writes a group as a path
    /// (`/vip`).
    pub(crate) fn have(&self, group: &Group) -> Option<bool> {
        let Self::Named(groups) = self else {
            return None;
        };
        Some(
            strings(Some(groups))
                .any(|name| name.strip_prefix('/').unwrap_or(name) == group.as_str()),
        )
    }
}

/// Finds a claim by its name or, if there is none, by a path through objects.
fn find<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        find(claims.get(first)?.as_object()?, rest)
    })
}

/// Whether Entra left the groups out of the token, because the user has too many.
fn is_left_out(claims: &Map<String, Value>, groups: &str) -> bool {
    let names = claims.get("_claim_names");
    names.is_some_and(|names| names.get(groups).is_some())
}

/// Iterates over a string, or over the strings of a list.
fn strings(value: Option<&Value>) -> impl Iterator<Item = &str> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    value.into_iter().chain(list).filter_map(Value::as_str)
}

/// Formats a claim for the log.
fn claim_text(claim: Option<&Value>) -> String {
    claim.map_or("missing".to_owned(), Value::to_string)
}

fn refused(error: &Error) -> TokenRefused {
    let problem = match error.kind() {
        ErrorKind::ExpiredSignature => TokenProblem::Expired,
        ErrorKind::ImmatureSignature => TokenProblem::NotYetValid,
        ErrorKind::InvalidSignature => TokenProblem::Signature,
        ErrorKind::InvalidAlgorithm => TokenProblem::Algorithm,
        _ => TokenProblem::Malformed,
    };
    problem.because(error.to_string())
}

#[cfg(test)]
#[path = "tests/jwt.rs"]
pub(super) mod tests;
