//! Signed tokens (RFC 7519). A setting fixes the algorithm, which is never taken from the token.
//! Issuer, audience, `exp` and the user are required.

mod claims;
pub(crate) mod key_set;
mod keys;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use firstcome_shared::config::{path, ssl_cert_file};
use firstcome_shared::coupon::Group;
use firstcome_shared::http::fetch::HttpSource;
use firstcome_shared::tls::Store;
use firstcome_shared::tuning::Tuning;
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, TokenData, Validation, decode, decode_header,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use self::claims::TokenClaims;
use self::key_set::{KeySet, KeySource};

/// Settings of tokens, for `USER_AUTH=jwt`.
#[derive(Debug, Clone, Default, Args)]
pub struct JwtArgs {
    /// The one algorithm that tokens are signed with; it is never taken from the token
    #[arg(long, env = "JWT_ALGORITHM", value_parser = PossibleValuesParser::new(ALGORITHMS).try_map(|name| name.parse::<Algorithm>()))]
    pub jwt_algorithm: Option<Algorithm>,
    /// Shared secret of at least 32 bytes, for HS256 (48 for HS384, 64 for HS512)
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<SecretString>,
    /// PEM file of the one public key, for the other algorithms
    #[arg(long, env = "JWT_PUBLIC_KEY_FILE", value_parser = path)]
    pub jwt_public_key_file: Option<PathBuf>,
    /// File with the issuer's public keys as a JWK Set, read again every five minutes
    #[arg(long, env = "JWT_JWKS_FILE", value_parser = path)]
    pub jwt_jwks_file: Option<PathBuf>,
    /// Address of the issuer's public keys as a JWK Set, read every five minutes: `https://…`, or
    /// `http://…` within a private network. SSL_CERT_FILE names further certificate authorities
    #[arg(long, env = "JWT_JWKS_URL", hide_env_values = true)]
    pub jwt_jwks_url: Option<String>,
    /// Interval between two reads of a JWK Set. A token that names an unknown key causes an
    /// immediate read, at most every ten seconds.
    #[arg(skip = Tuning::KeysRefreshSeconds.or(300_u32))]
    pub jwt_jwks_refresh_seconds: u32,
    /// Required issuer of the token (`iss`)
    #[arg(long, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Required audience of the token (`aud`)
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// Token claim that holds the user id (default: `sub`)
    #[arg(long, env = "JWT_USER_CLAIM")]
    pub jwt_user_claim: Option<String>,
    /// Token claim that holds the user's groups, a string or a list of strings, for coupons of a
    /// group (default: `groups`)
    #[arg(long, env = "JWT_GROUPS_CLAIM")]
    pub jwt_groups_claim: Option<String>,
}

/// The default claims with the user and with their groups.
const USER_CLAIM: &str = "sub";
const GROUPS_CLAIM: &str = "groups";

const ALGORITHMS: [&str; 12] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256",
    "ES384", "EdDSA",
];

/// Tolerated difference between the issuer's clock and this one.
const LEEWAY_SECONDS: u64 = 30;

impl JwtArgs {
    /// Returns the name of one of these settings that is set, if any is.
    pub(crate) fn any_setting(&self) -> Option<&'static str> {
        let texts = [
            ("JWT_ISSUER", &self.jwt_issuer),
            ("JWT_AUDIENCE", &self.jwt_audience),
            ("JWT_USER_CLAIM", &self.jwt_user_claim),
            ("JWT_GROUPS_CLAIM", &self.jwt_groups_claim),
        ];
        let others = [("JWT_ALGORITHM", self.jwt_algorithm.is_some())];
        let texts = texts.map(|(name, text)| (name, filled(text.as_ref()).is_some()));
        others
            .into_iter()
            .chain(self.key_settings())
            .chain(texts)
            .find_map(|(name, is_given)| is_given.then_some(name))
    }

    /// Lists the settings that give the location of keys, and whether each is set.
    fn key_settings(&self) -> [(&'static str, bool); 4] {
        [
            ("JWT_SECRET", self.secret().is_some()),
            (
                "JWT_PUBLIC_KEY_FILE",
                filled_path(self.jwt_public_key_file.as_ref()).is_some(),
            ),
            (
                "JWT_JWKS_FILE",
                filled_path(self.jwt_jwks_file.as_ref()).is_some(),
            ),
            ("JWT_JWKS_URL", filled(self.jwt_jwks_url.as_ref()).is_some()),
        ]
    }

    // An empty value counts as not set: Compose files pass unset variables as empty values.
    fn secret(&self) -> Option<&SecretString> {
        self.jwt_secret
            .as_ref()
            .filter(|secret| !secret.expose_secret().is_empty())
    }
}

fn filled(text: Option<&String>) -> Option<&String> {
    text.filter(|text| !text.is_empty())
}

fn filled_path(path: Option<&PathBuf>) -> Option<&Path> {
    path.map(PathBuf::as_path)
        .filter(|path| !path.as_os_str().is_empty())
}

pub(crate) struct Verifier {
    keys: Keys,
    rules: Validation,
    user_claim: String,
    groups_claim: String,
}

enum Keys {
    One(DecodingKey),
    Set(Arc<KeySet>),
}

/// Why a token was refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TokenError {
    Refused(&'static str),
    /// No key with this name is known. The issuer may have added it recently.
    UnknownKey(String),
}

const NOT_VALID: TokenError =
    TokenError::Refused("the token is invalid or has expired; get a new one");

impl Verifier {
    /// Returns an error if settings are missing or contradict each other. The error does not
    /// contain the secret.
    pub(crate) fn new(args: &JwtArgs) -> Result<Self, String> {
        let algorithm = args
            .jwt_algorithm
            .ok_or("USER_AUTH=jwt needs JWT_ALGORITHM, such as RS256")?;
        let keys = keys(algorithm, args)?;
        let required = |name: &str, text: Option<&String>, of: &str| {
            let missing = || {
                format!("USER_AUTH=jwt needs {name}: without it, a token {of} would be accepted")
            };
            filled(text).cloned().ok_or_else(missing)
        };
        let mut rules = Validation::new(algorithm);
        rules.leeway = LEEWAY_SECONDS;
        rules.validate_nbf = true;
        rules.set_issuer(&[required(
            "JWT_ISSUER",
            args.jwt_issuer.as_ref(),
            "of any issuer",
        )?]);
        rules.set_audience(&[required(
            "JWT_AUDIENCE",
            args.jwt_audience.as_ref(),
            "that was meant for others",
        )?]);
        rules.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claim = |given: Option<&String>, usual: &str| {
            filled(given).map_or(usual, String::as_str).to_owned()
        };
        Ok(Self {
            keys,
            rules,
            user_claim: claim(args.jwt_user_claim.as_ref(), USER_CLAIM),
            groups_claim: claim(args.jwt_groups_claim.as_ref(), GROUPS_CLAIM),
        })
    }

    /// Returns the key set if keys are read repeatedly, from a file or a URL.
    pub(crate) fn key_set(&self) -> Option<&Arc<KeySet>> {
        match &self.keys {
            Keys::One(_) => None,
            Keys::Set(set) => Some(set),
        }
    }

    /// Returns the user of a token.
    pub(crate) fn person(&self, token: &str) -> Result<String, TokenError> {
        let decoded = self.decode(token)?;
        // RFC 7515: a token with `crit` must be refused by a service that does not understand its
        // extensions.
        if decoded.header.crit.is_some() {
            return Err(TokenError::Refused(
                "the token requires extensions that this service does not support",
            ));
        }
        // RFC 7519 requires a single string. The library would accept a list that contains the
        // issuer.
        if !decoded.claims.0.get("iss").is_some_and(Value::is_string) {
            return Err(NOT_VALID);
        }
        match decoded.claims.0.get(&self.user_claim) {
            Some(Value::String(person)) => Ok(person.clone()),
            _ => Err(TokenError::Refused(
                "the token does not name the user as a string",
            )),
        }
    }

    /// Whether a token names this group, or `None` if the token can no longer be verified.
    /// [`Verifier::person`] has already accepted the token. It is verified again only here, because
    /// only coupons for a group need its groups.
    pub(crate) fn names_group(&self, token: &str, group: &Group) -> Option<bool> {
        // The token may have expired since then.
        let claims = self.decode(token).ok()?.claims;
        Some(match claims.0.get(&self.groups_claim) {
            Some(Value::String(name)) => name == group.as_str(),
            // Elements of the list that are not strings are not groups.
            Some(Value::Array(names)) => names
                .iter()
                .any(|name| name.as_str() == Some(group.as_str())),
            _ => false,
        })
    }

    fn decode(&self, token: &str) -> Result<TokenData<TokenClaims>, TokenError> {
        let refused = |error: Error| {
            tracing::debug!(%error, "a token was refused");
            NOT_VALID
        };
        let set = match &self.keys {
            Keys::One(key) => return decode(token, key, &self.rules).map_err(refused),
            Keys::Set(set) => set,
        };
        let header = decode_header(token).map_err(refused)?;
        if !self.rules.algorithms.contains(&header.alg) {
            return Err(refused(ErrorKind::InvalidAlgorithm.into()));
        }
        match (set.find(header.kid.as_deref()), header.kid) {
            (Some(key), _) => decode(token, &key, &self.rules).map_err(refused),
            (None, Some(name)) => Err(TokenError::UnknownKey(name)),
            (None, None) => Err(TokenError::Refused(
                "the token does not name the key that it is signed with (kid)",
            )),
        }
    }
}

fn keys(algorithm: Algorithm, args: &JwtArgs) -> Result<Keys, String> {
    let given: Vec<&str> = args
        .key_settings()
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect();
    if let [first, second, ..] = given[..] {
        return Err(format!("{first} and {second} are both set: choose one"));
    }
    let is_shared = algorithm.family() == AlgorithmFamily::Hmac;
    match (
        args.secret(),
        filled_path(args.jwt_public_key_file.as_ref()),
    ) {
        (Some(secret), _) if is_shared => {
            return Ok(Keys::One(keys::shared_secret(algorithm, secret)?));
        }
        _ if is_shared => return Err(format!("JWT_ALGORITHM={algorithm:?} needs JWT_SECRET")),
        (_, Some(path)) => return Ok(Keys::One(keys::public_key(algorithm, path)?)),
        _ => {}
    }
    let file =
        filled_path(args.jwt_jwks_file.as_ref()).map(|path| KeySource::File(path.to_owned()));
    let source = match (file, filled(args.jwt_jwks_url.as_ref())) {
        (Some(file), _) => file,
        (None, Some(url)) => KeySource::Url(HttpSource::new(Store::Jwks, url, ssl_cert_file())?),
        (None, None) => {
            return Err(format!(
                "JWT_ALGORITHM={algorithm:?} needs JWT_JWKS_URL, JWT_JWKS_FILE or JWT_PUBLIC_KEY_FILE"
            ));
        }
    };
    if matches!(&source, KeySource::Url(source) if !source.is_encrypted()) {
        tracing::warn!(
            "JWT_JWKS_URL is http://: anybody on the network path can give this process other keys"
        );
    }
    let refresh = Duration::from_secs(args.jwt_jwks_refresh_seconds.into());
    Ok(Keys::Set(Arc::new(KeySet::new(source, algorithm, refresh))))
}

#[cfg(test)]
mod tests;
