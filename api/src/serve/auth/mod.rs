//! Authentication of people: by a header that a gateway sets, or by a signed token. Never by the
//! body or the path.

pub(crate) mod jwt;

use std::borrow::Cow;
use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use clap::{Args, ValueEnum};
use firstcome_shared::coupon::Group;
use firstcome_shared::domain::UserId;
use firstcome_shared::http::Problem;

use self::jwt::{JwtArgs, Verifier};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UserAuth {
    /// `X-User-Id` is believed: only behind a gateway that sets it and drops what clients send
    TrustedHeader,
    /// `Authorization: Bearer` with a JWT; the person is its `sub`
    Jwt,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Identity")]
pub struct IdentityArgs {
    /// How people are told apart; there is no default, because the wrong one lets anybody be
    /// anybody
    #[arg(long, env = "USER_AUTH", value_enum)]
    pub user_auth: UserAuth,
    #[command(flatten)]
    pub jwt: JwtArgs,
}

/// Says who a request is from.
pub(crate) enum Identity {
    TrustedHeader,
    Jwt(Arc<Verifier>),
}

/// A person, and what says of which groups they are.
#[derive(Clone)]
pub(crate) struct Requester {
    pub(crate) user: UserId,
    pub(crate) groups: Groups,
}

/// The groups of a person. The token is read for them only where a coupon is for a group.
#[derive(Clone)]
pub(crate) struct Groups(Option<(Arc<Verifier>, HeaderValue)>);

impl Groups {
    /// Whether the person is of this group; `None` where that is not known: a gateway's header says
    /// nothing of groups, and a token may have ended a moment ago.
    pub(crate) fn have(&self, group: &Group) -> Option<bool> {
        self.0.as_ref().and_then(|(verifier, authorization)| verifier.names_group(authorization, group))
    }
}

const USER_HEADER: &str = "x-user-id";

impl Identity {
    pub(crate) fn new(args: &IdentityArgs) -> Result<Self, String> {
        match args.user_auth {
            UserAuth::TrustedHeader => match args.jwt.any_setting() {
                Some(name) => Err(format!("{name} is set but USER_AUTH=trusted-header ignores it: choose one")),
                None => Ok(Self::TrustedHeader),
            },
            UserAuth::Jwt => Verifier::new(&args.jwt).map(|verifier| Self::Jwt(Arc::new(verifier))),
        }
    }

    /// Whether a person must bring a token; else a gateway names the person.
    pub(crate) fn wants_token(&self) -> bool {
        matches!(self, Self::Jwt(_))
    }

    pub(crate) fn person(&self, headers: &HeaderMap) -> Result<Requester, Problem> {
        let (id, groups) = match self {
            Self::TrustedHeader => (only_one(headers)?.into_owned(), None),
            Self::Jwt(verifier) => {
                let id = verifier.subject(headers).map_err(unauthorized)?;
                let authorization = headers.get(header::AUTHORIZATION).cloned();
                (id, authorization.map(|value| (Arc::clone(verifier), value)))
            }
        };
        let user = id.parse().map_err(|error| Problem::bad_request("bad_user_id", format!("{error}")))?;
        Ok(Requester { user, groups: Groups(groups) })
    }
}

/// The one value of the header. Of two, one could be the gateway's and the other the client's own.
fn only_one(headers: &HeaderMap) -> Result<Cow<'_, str>, Problem> {
    let mut values = headers.get_all(USER_HEADER).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(unauthorized("say who this is for: X-User-Id is missing")),
        (Some(_), Some(_)) => Err(Problem::bad_request("bad_user_id", "X-User-Id is given more than once")),
        (Some(value), None) => Ok(String::from_utf8_lossy(value.as_bytes())),
    }
}

fn unauthorized(detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(values: &[&str]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(USER_HEADER, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        Identity::TrustedHeader.person(&headers).map(|requester| requester.user.to_string()).map_err(|p| p.code())
    }

    #[test]
    fn the_header_is_believed_once_and_only_in_the_form_of_a_user_id() {
        assert_eq!(person(&["u-37"]), Ok("u-37".into()));
        assert_eq!(person(&[]), Err("unauthorized"));
        assert_eq!(person(&["u-1", "u-2"]), Err("bad_user_id"));
        for bad in ["", "a b", "a,b", "ü", &"x".repeat(65)] {
            assert_eq!(person(&[bad]), Err("bad_user_id"), "{bad:?}");
        }
    }
}
