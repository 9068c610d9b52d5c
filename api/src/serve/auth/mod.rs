//! Authentication of users: by a header that a gateway sets, or by a signed token. Never by the
//! body or the path.

pub(crate) mod gateway;
pub(crate) mod jwt;

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, header};
use clap::{Args, ValueEnum};
use firstcome_shared::coupon::Group;
use firstcome_shared::domain::UserId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::ops::{bearer, bearer_token};
use firstcome_shared::http::problem::Code;
use secrecy::SecretString;

use self::gateway::Gateway;
use self::jwt::key_set::KeySet;
use self::jwt::{JwtArgs, TokenError, Verifier};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UserAuth {
    /// `X-User-Id` is trusted: only behind a gateway that sets it and drops the one that clients
    /// send
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
    /// Secret that the gateway sends as `X-Gateway-Secret`, for USER_AUTH=trusted-header: without
    /// it, any client that reaches this address can claim as any user. At least 32 printable ASCII
    /// characters; two separated by a comma while you replace it
    #[arg(long, env = "TRUSTED_HEADER_SECRET", hide_env_values = true)]
    pub trusted_header_secret: Option<SecretString>,
    #[command(flatten)]
    pub jwt: JwtArgs,
}

/// Identifies the user of a request.
pub(crate) enum Identity {
    TrustedHeader(Gateway),
    Jwt(Arc<Verifier>),
}

#[derive(Clone)]
pub(crate) struct Requester {
    pub(crate) user: UserId,
    pub(crate) groups: Groups,
}

/// The groups of a user. They are read from the token only if a coupon is for a group.
#[derive(Clone)]
pub(crate) struct Groups(Option<(Arc<Verifier>, HeaderValue)>);

impl Groups {
    /// Whether the user is in this group. `None` if unknown: a gateway names no groups, and the
    /// token may have expired since it was verified.
    pub(crate) fn have(&self, group: &Group) -> Option<bool> {
        let (verifier, authorization) = self.0.as_ref()?;
        verifier.names_group(bearer_token(authorization)?, group)
    }
}

pub(crate) enum Unidentified {
    Refused(Problem),
    /// No key with this name is known. The issuer may have added it recently.
    UnknownKey(String),
}

impl From<Problem> for Unidentified {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl Identity {
    pub(crate) fn new(args: &IdentityArgs) -> Result<Self, String> {
        match args.user_auth {
            UserAuth::TrustedHeader => match args.jwt.any_setting() {
                Some(name) => Err(format!(
                    "{name} is set but USER_AUTH=trusted-header ignores it: choose one"
                )),
                None => Gateway::new(args.trusted_header_secret.as_ref()).map(Self::TrustedHeader),
            },
            UserAuth::Jwt => match gateway::given(args.trusted_header_secret.as_ref()) {
                Some(_) => Err(
                    "TRUSTED_HEADER_SECRET is set but USER_AUTH=jwt ignores it: choose one".into(),
                ),
                None => Verifier::new(&args.jwt).map(|verifier| Self::Jwt(Arc::new(verifier))),
            },
        }
    }

    /// Whether users must send a token; otherwise a gateway identifies them.
    pub(crate) fn wants_token(&self) -> bool {
        matches!(self, Self::Jwt(_))
    }

    /// Whether any client of this process can choose the user id.
    pub(crate) fn believes_anybody(&self) -> bool {
        matches!(self, Self::TrustedHeader(gateway) if !gateway.has_secret())
    }

    /// Returns the key set, if keys are read repeatedly while this process runs.
    pub(crate) fn key_set(&self) -> Option<&Arc<KeySet>> {
        match self {
            Self::TrustedHeader(_) => None,
            Self::Jwt(verifier) => verifier.key_set(),
        }
    }

    /// Identifies the user with the keys that are already known.
    pub(crate) fn person(&self, headers: &HeaderMap) -> Result<Requester, Unidentified> {
        let (id, groups) = match self {
            Self::TrustedHeader(gateway) => (gateway.person(headers)?.into_owned(), None),
            Self::Jwt(verifier) => {
                let missing = "the token is missing: send `Authorization: Bearer`";
                let token = bearer(headers)?.ok_or_else(|| unauthorized(missing))?;
                let id = verifier.person(token).map_err(|error| match error {
                    TokenError::Refused(why) => Unidentified::Refused(unauthorized(why)),
                    TokenError::UnknownKey(name) => Unidentified::UnknownKey(name),
                })?;
                let authorization = headers.get(header::AUTHORIZATION).cloned();
                (id, authorization.map(|value| (Arc::clone(verifier), value)))
            }
        };
        let user = id
            .parse()
            .map_err(|error| Problem::new(Code::BadUserId, format!("{error}")))?;
        Ok(Requester {
            user,
            groups: Groups(groups),
        })
    }

    /// Like [`Self::person`], but first reads the issuer's keys again if the token names a new one.
    pub(crate) async fn find_person(&self, headers: &HeaderMap) -> Result<Requester, Problem> {
        let mut found = self.person(headers);
        if let (Err(Unidentified::UnknownKey(name)), Some(keys)) = (&found, self.key_set()) {
            keys.read_for(name).await;
            found = self.person(headers);
        }
        found.map_err(|nobody| match nobody {
            Unidentified::Refused(problem) => problem,
            // Do not refuse the token: it may be signed with a new key.
            Unidentified::UnknownKey(_)
                if self.key_set().is_some_and(|keys| keys.problem().is_some()) =>
            {
                Problem::unavailable(
                    "the keys that tokens are signed with can't be read right now; try again",
                )
            }
            Unidentified::UnknownKey(_) => {
                unauthorized("the token is signed with a key that is not known here")
            }
        })
    }
}

fn unauthorized(detail: &'static str) -> Problem {
    Problem::new(Code::Unauthorized, detail)
}
