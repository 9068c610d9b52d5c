//! Authentication of a crowd: the header of a gateway, or a JWT for each user.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use jsonwebtoken::{Algorithm, AlgorithmFamily, EncodingKey, Header, encode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use crate::crowd::Crowd;

/// Lifetime of a generated token.
const GOOD_FOR: Duration = Duration::from_secs(6 * 60 * 60);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CrowdAuth {
    /// `X-User-Id`, as a gateway sends it
    TrustedHeader,
    /// `Authorization: Bearer` with a JWT for each user
    Jwt,
}

/// Identity settings, with the same names as in the API.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Identity of the users")]
pub struct CrowdIdentityArgs {
    /// Authentication of users; must match the configuration of the API
    #[arg(long, env = "USER_AUTH", value_enum, default_value = "trusted-header")]
    pub user_auth: CrowdAuth,
    /// File with existing tokens, one per line for each user
    #[arg(long)]
    pub tokens: Option<PathBuf>,
    /// Algorithm for signing tokens
    #[arg(long, env = "JWT_ALGORITHM", default_value = "HS256")]
    pub jwt_algorithm: Algorithm,
    /// Shared secret for signing tokens with HS256, HS384 or HS512
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    pub jwt_secret: Option<SecretString>,
    /// File with the private key for signing tokens with the other algorithms, in PEM format
    #[arg(long, env = "JWT_PRIVATE_KEY_FILE")]
    pub jwt_private_key_file: Option<PathBuf>,
    /// Issuer in the tokens (`iss`)
    #[arg(long, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Audience in the tokens (`aud`)
    #[arg(long, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
}

#[derive(Clone)]
pub enum CrowdIdentity {
    /// The `X-User-Id` header.
    TrustedHeader,
    /// The `Authorization` header. Tokens are signed in advance, so that signing is not part of the
    /// measurement.
    Bearer(Vec<String>),
}

impl fmt::Debug for CrowdIdentity {
    /// Omits the tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TrustedHeader => f.write_str("TrustedHeader"),
            Self::Bearer(tokens) => write!(f, "Bearer({} tokens)", tokens.len()),
        }
    }
}

#[derive(Serialize)]
struct JwtClaims<'a> {
    sub: String,
    exp: u64,
    iat: u64,
    iss: Option<&'a str>,
    aud: Option<&'a str>,
}

impl CrowdIdentity {
    /// Generates or reads the tokens of a crowd.
    ///
    /// # Errors
    ///
    /// Fails if a setting is missing or a file cannot be read. The message contains no secret.
    pub fn new(args: &CrowdIdentityArgs, crowd: &Crowd) -> Result<Self> {
        match (args.user_auth, &args.tokens) {
            (CrowdAuth::TrustedHeader, None) => Ok(Self::TrustedHeader),
            (CrowdAuth::TrustedHeader, Some(_)) => bail!("--tokens is for --user-auth jwt"),
            (CrowdAuth::Jwt, Some(path)) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("{} cannot be read", path.display()))?;
                let tokens: Vec<_> = text
                    .lines()
                    .map(str::trim)
                    .filter(|line| !line.is_empty())
                    .collect();
                let there = tokens.len();
                let wanted = crowd.people();
                ensure!(
                    there >= wanted as usize,
                    "{} has {there} tokens for {wanted} users",
                    path.display()
                );
                Ok(Self::Bearer(
                    tokens
                        .iter()
                        .map(|token| format!("Bearer {token}"))
                        .collect(),
                ))
            }
            (CrowdAuth::Jwt, None) => sign(args, crowd),
        }
    }

    /// Returns the header that identifies a user.
    pub fn header(&self, crowd: &Crowd, person: u32) -> (&'static str, String) {
        match self {
            Self::TrustedHeader => ("x-user-id", crowd.user_id(person)),
            Self::Bearer(tokens) => (
                "authorization",
                tokens.get(person as usize).cloned().unwrap_or_default(),
            ),
        }
    }
}

/// The issuer and the audience of the tokens that [`token`] creates.
const ISSUER: &str = "firstcome-load";
const AUDIENCE: &str = "firstcome";

/// Returns the settings of an API that accepts the tokens of [`token`].
pub fn token_settings(secret: &str) -> [(&'static str, &str); 5] {
    [
        ("USER_AUTH", "jwt"),
        ("JWT_ALGORITHM", "HS256"),
        ("JWT_SECRET", secret),
        ("JWT_ISSUER", ISSUER),
        ("JWT_AUDIENCE", AUDIENCE),
    ]
}

/// Creates the token of one user, signed with a shared secret (HS256).
pub fn token(secret: &str, user: &str) -> Result<String> {
    let iat = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    let exp = iat + GOOD_FOR.as_secs();
    let claims = JwtClaims {
        sub: user.to_owned(),
        exp,
        iat,
        iss: Some(ISSUER),
        aud: Some(AUDIENCE),
    };
    encode(
        &Header::default(),
        &claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )
    .context("a token cannot be signed")
}

fn sign(args: &CrowdIdentityArgs, crowd: &Crowd) -> Result<CrowdIdentity> {
    let key = key(args)?;
    let header = Header::new(args.jwt_algorithm);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let filled = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty());
    let iss = filled(&args.jwt_issuer);
    let aud = filled(&args.jwt_audience);
    let token = |person| -> Result<String> {
        let claims = JwtClaims {
            sub: crowd.user_id(person),
            exp: (now + GOOD_FOR).as_secs(),
            iat: now.as_secs(),
            iss: iss.as_deref(),
            aud: aud.as_deref(),
        };
        Ok(format!(
            "Bearer {}",
            encode(&header, &claims, &key).context("a token cannot be signed")?
        ))
    };
    Ok(CrowdIdentity::Bearer(
        (0..crowd.people()).map(token).collect::<Result<_>>()?,
    ))
}

fn key(args: &CrowdIdentityArgs) -> Result<EncodingKey> {
    let algorithm = args.jwt_algorithm;
    let secret = args
        .jwt_secret
        .as_ref()
        .filter(|secret| !secret.expose_secret().is_empty());
    let file = args
        .jwt_private_key_file
        .as_deref()
        .filter(|path| !path.as_os_str().is_empty());
    let family = algorithm.family();
    if family == AlgorithmFamily::Hmac {
        let secret = secret.with_context(|| {
            format!("--user-auth jwt needs tokens: give --tokens FILE, or JWT_SECRET to sign them with ({algorithm:?})")
        })?;
        return Ok(EncodingKey::from_secret(secret.expose_secret().as_bytes()));
    }
    let file = file.with_context(|| {
        format!("--user-auth jwt needs tokens: give --tokens FILE, or --jwt-private-key-file for {algorithm:?}")
    })?;
    let name = file.display();
    let pem = fs::read(file).with_context(|| format!("{name} cannot be read"))?;
    match family {
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(&pem),
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(&pem),
        _ => EncodingKey::from_ed_pem(&pem),
    }
    .with_context(|| format!("{name} is no private key in PEM form for {algorithm:?}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use jsonwebtoken::{DecodingKey, Validation, decode};

    use super::*;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        identity: CrowdIdentityArgs,
    }

    fn identity(args: &[&str], people: u32) -> Result<CrowdIdentity> {
        let cli = Cli::parse_from([&["rush"], args].concat());
        CrowdIdentity::new(&cli.identity, &Crowd::gather(people, "p-", 1, 1).unwrap())
    }

    #[test]
    fn signs_a_token_for_each_user() {
        let secret = "0123456789abcdef0123456789abcdef";
        let args = [
            "--user-auth",
            "jwt",
            "--jwt-secret",
            secret,
            "--jwt-issuer",
            "me",
            "--jwt-audience",
            "firstcome",
        ];
        let identity = identity(&args, 3).unwrap();
        assert_eq!(format!("{identity:?}"), "Bearer(3 tokens)");
        let (name, value) = identity.header(&Crowd::gather(3, "p-", 1, 1).unwrap(), 2);
        assert_eq!(name, "authorization");
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&["me"]);
        rules.set_audience(&["firstcome"]);
        let token = value.strip_prefix("Bearer ").unwrap();
        let key = DecodingKey::from_secret(secret.as_bytes());
        let claims = decode::<serde_json::Value>(token, &key, &rules)
            .unwrap()
            .claims;
        assert_eq!(claims["sub"], "p-000002");
    }

    #[test]
    fn reports_missing_settings() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "one\ntwo\n\n").unwrap();
        let tokens = file.path().to_str().unwrap();
        for (args, words) in [
            (&["--user-auth", "jwt"][..], "JWT_SECRET"),
            (
                &["--user-auth", "jwt", "--jwt-algorithm", "RS256"],
                "--jwt-private-key-file",
            ),
            (
                &[
                    "--user-auth",
                    "jwt",
                    "--jwt-algorithm",
                    "ES256",
                    "--jwt-private-key-file",
                    tokens,
                ],
                "no private key",
            ),
            (
                &["--user-auth", "jwt", "--tokens", "/nowhere/tokens"],
                "cannot be read",
            ),
            (
                &["--user-auth", "jwt", "--tokens", tokens],
                "2 tokens for 3 users",
            ),
            (&["--tokens", tokens], "--user-auth jwt"),
        ] {
            let error = format!("{:#}", identity(args, 3).unwrap_err());
            assert!(error.contains(words), "{args:?}: {error}");
        }
        assert!(identity(&["--user-auth", "jwt", "--tokens", tokens], 2).is_ok());
    }
}
