//! Authentication of users: by a header that a gateway sets, or by a signed token. Never by the
//! body or the path.

pub(crate) mod jwt;
pub(crate) mod key_set;
pub(crate) mod problem;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

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
use self::problem::{LOG_EVERY, TokenProblem, TokenRefused};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UserAuth {
    /// `X-User-Id` is trusted: only behind a gateway that sets it and drops the one that clients
    /// send, and that alone can reach this address
    TrustedHeader,
    /// `Authorization: Bearer` with a JWT; the user is its `sub`, or JWT_USER_CLAIM
    Jwt,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Identity")]
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
pub(crate) enum Identity {
    TrustedHeader,
    Jwt {
        verifier: Box<Verifier>,
        /// Lines of the log about refused tokens.
        lines: LineLimit,
    },
}

#[derive(Clone)]
pub(crate) struct Requester {
    pub(crate) user: UserId,
    pub(crate) groups: Groups,
}

/// Why a request does not identify its user.
#[derive(Debug)]
pub(crate) enum Unidentified {
    Refused(Problem),
    Token(TokenRefused),
}

impl From<Problem> for Unidentified {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl Identity {
    pub(crate) fn new(args: &IdentityArgs) -> Result<Self, String> {
        match (args.user_auth, args.jwt.any_setting()) {
            (UserAuth::TrustedHeader, Some(name)) => Err(format!(
                "{name} is set but USER_AUTH=trusted-header ignores it: choose one"
            )),
            (UserAuth::TrustedHeader, None) => Ok(Self::TrustedHeader),
            (UserAuth::Jwt, _) => Ok(Self::Jwt {
                verifier: Verifier::new(&args.jwt)?.into(),
                lines: LineLimit::new(LOG_EVERY),
            }),
        }
    }

    /// Returns what an operator should know about the settings, if the API listens on this address.
    pub(crate) fn warning(&self, listen_addr: SocketAddr) -> Option<String> {
        match self {
            Self::TrustedHeader if listen_addr.ip().is_loopback() => None,
            Self::TrustedHeader => Some(
                "USER_AUTH=trusted-header: clients that reach this address without the gateway can claim as any user".to_owned(),
            ),
            Self::Jwt { verifier, .. } => verifier.warning(),
        }
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

    /// Identifies the user with the keys that are already known.
    pub(crate) fn person(&self, headers: &HeaderMap) -> Result<Requester, Unidentified> {
        let (user, groups) = match self {
            Self::TrustedHeader => (named_by_gateway(headers)?, Groups::Unknown),
            Self::Jwt { verifier, .. } => {
                let missing = || TokenProblem::Missing.because("no bearer token");
                let token = bearer(headers)?.ok_or_else(missing);
                token
                    .and_then(|token| verifier.identify(token))
                    .map_err(Unidentified::Token)?
            }
        };
        Ok(Requester { user, groups })
    }

    /// Like [`Self::person`], but first reads the issuer's keys again if the token names a new one.
    /// Counts refused tokens.
    pub(crate) async fn find_person(&self, headers: &HeaderMap) -> Result<Requester, Problem> {
        let mut found = self.person(headers);
        let unknown_key = |found: &Result<_, Unidentified>| match found {
            Err(Unidentified::Token(token)) => token.unknown_key().map(str::to_owned),
            _ => None,
        };
        if let (Some(name), Some(keys)) = (unknown_key(&found), self.key_set()) {
            keys.read_for(&name).await;
            found = self.person(headers);
            // Do not refuse the token if the keys could not be read: it may be signed with a new
            // one.
            if unknown_key(&found).is_some() && keys.problem().is_some() {
                return Err(Problem::unavailable(
                    "the keys that tokens are signed with can't be read right now; try again",
                ));
            }
        }
        found.map_err(|nobody| match nobody {
            Unidentified::Refused(problem) => problem,
            Unidentified::Token(token) => {
                if let Self::Jwt { lines, .. } = self {
                    problem::record(&token, lines);
                }
                token.into()
            }
        })
    }
}

/// Returns the user named by the gateway. A header that is given twice is refused: one value could
/// come from the gateway and the other from the client.
fn named_by_gateway(headers: &HeaderMap) -> Result<UserId, Problem> {
    let bad = |why: String| Problem::new(Code::BadUserId, why);
    let user = only_value(headers, "x-user-id")
        .map_err(|GivenTwice| bad("X-User-Id is given more than once".into()))?
        .ok_or_else(|| unauthorized("the user is missing: send X-User-Id"))?;
    String::from_utf8_lossy(user.as_bytes())
        .parse()
        .map_err(|error| bad(format!("{error}")))
}

fn unauthorized(detail: impl Into<Cow<'static, str>>) -> Problem {
    Problem::new(Code::Unauthorized, detail)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn accepts_exactly_one_user_header() {
        let ask = |users: &[&'static str]| {
            let of = |user: &&'static str| ("x-user-id", HeaderValue::from_static(user));
            let mut headers = HeaderMap::new();
            for (name, value) in users.iter().map(of) {
                headers.append(name, value);
            }
            let named = named_by_gateway(&headers);
            named.map(String::from).map_err(|problem| problem.code())
        };
        assert_eq!(ask(&["u-37"]), Ok("u-37".into()));
        assert_eq!(ask(&[]), Err("unauthorized"));
        assert_eq!(ask(&["u-1", "u-2"]), Err("bad_user_id"));
    }
}

#[cfg(test)]
#[path = "tests/providers.rs"]
mod providers;
