//! Authentication of users: by a header that a gateway sets, or by a signed token. Never by the
//! body or the path.

pub(crate) mod jwt;
pub(crate) mod key_set;
mod problem;
mod signatures;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use clap::{Args, ValueEnum};
use firstcome_shared::domain::UserId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::headers::{GivenTwice, only_value};
use firstcome_shared::http::ops::bearer;
use firstcome_shared::http::problem::Code;
use firstcome_shared::line_limit::LineLimit;

pub(crate) use self::jwt::Groups;
use self::jwt::{JwtArgs, Verifier};
use self::key_set::KeySet;
use self::problem::TokenProblem;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UserAuth {
    /// `X-User-Id` is trusted: only behind a gateway that sets it and drops the one that clients
    /// send, and that alone can reach this address
    TrustedHeader,
    /// `Authorization: Bearer` with a JWT; the user is its `sub`, or JWT_USER_CLAIM
    Jwt,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "UserIdentity")]
pub struct IdentityArgs {
    /// How users are identified. There is no default, because with the wrong one, any client can
    /// claim as any user. `jwt` also needs JWT_ALGORITHM, JWT_ISSUER, JWT_AUDIENCE and a key (see
    /// --help)
    #[arg(long, env = "USER_AUTH", value_enum)]
    pub user_auth: UserAuth,
    #[command(flatten)]
    pub jwt: JwtArgs,
}

/// Identifies the user of a request.
pub(crate) enum UserIdentity {
    TrustedHeader,
    Jwt {
        verifier: Box<Verifier>,
        /// Limits log lines about refused tokens to one a minute for each reason.
        lines: LineLimit,
    },
}

#[derive(Clone)]
pub(crate) struct Requester {
    pub(crate) user: UserId,
    pub(crate) groups: Groups,
}

impl UserIdentity {
    /// Warns if the API trusts a header although clients may reach this address without the
    /// gateway. Returns an error if settings are missing, contradict each other, or would be
    /// ignored.
    pub(crate) fn new(args: &IdentityArgs, listen_addr: SocketAddr) -> Result<Self, String> {
        if args.user_auth == UserAuth::Jwt {
            return Ok(Self::Jwt {
                verifier: Verifier::new(&args.jwt)?.into(),
                lines: LineLimit::new(Duration::from_secs(60)),
            });
        }
        let settings = [
            ("JWT_ALGORITHM", args.jwt.jwt_algorithm.is_some()),
            ("JWT_SECRET", args.jwt.jwt_secret.is_some()),
            ("JWT_JWKS_URL", args.jwt.jwt_jwks_url.is_some()),
            ("JWT_ISSUER", args.jwt.jwt_issuer.is_some()),
            ("JWT_AUDIENCE", args.jwt.jwt_audience.is_some()),
        ];
        if let Some((name, _)) = settings.into_iter().find(|(_, is_set)| *is_set) {
            return Err(format!(
                "{name} is set but USER_AUTH=trusted-header ignores it: choose one"
            ));
        }
        if !listen_addr.ip().is_loopback() {
            tracing::warn!(
                "USER_AUTH=trusted-header: clients that reach this address without the gateway \
                can claim as any user"
            );
        }
        Ok(Self::TrustedHeader)
    }

    /// Whether users must send a token; otherwise a gateway identifies them.
    pub(crate) fn wants_token(&self) -> bool {
        matches!(self, Self::Jwt { .. })
    }

    /// Returns the key set, if keys are read repeatedly while this process runs.
    pub(crate) fn key_set(&self) -> Option<&Arc<KeySet>> {
        match self {
            Self::TrustedHeader => None,
            Self::Jwt { verifier, .. } => verifier.key_set(),
        }
    }

    /// Identifies the user of a request. Refused tokens are counted and logged.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> Result<Requester, Problem> {
        let Self::Jwt { verifier, lines } = self else {
            return Ok(Requester {
                user: named_by_gateway(headers)?,
                groups: Groups::Unknown,
            });
        };
        let found = match bearer(headers)? {
            Some(token) => Box::pin(verifier.identify(token)).await,
            None => Err(TokenProblem::Missing.because("no bearer token")),
        };
        let (user, groups) = found.inspect_err(|refused| refused.record(lines))?;
        Ok(Requester { user, groups })
    }
}

/// Returns the user named by the gateway. A header that is given twice is refused: one value could
/// come from the gateway and the other from the client.
fn named_by_gateway(headers: &HeaderMap) -> Result<UserId, Problem> {
    let bad = |why| Problem::new(Code::BadUserId, why);
    let user = only_value(headers, "x-user-id")
        .map_err(|GivenTwice| bad("X-User-Id is given more than once".to_owned()))?
        .ok_or_else(|| Problem::new(Code::Unauthorized, "the user is missing: send X-User-Id"))?;
    String::from_utf8_lossy(user.as_bytes())
        .parse()
        .map_err(|error| bad(format!("{error}")))
}

#[cfg(test)]
#[path = "tests/providers.rs"]
mod providers;
