//! Trusts a gateway that identifies users and authenticates itself with a secret.

use axum::http::HeaderMap;
use firstcome_shared::domain::UserId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::headers::{GivenTwice, only_value};
use firstcome_shared::http::ops::Tokens;
use firstcome_shared::http::problem::Code;
use secrecy::SecretString;

use super::unauthorized;

const USER_HEADER: &str = "x-user-id";
const SECRET_HEADER: &str = "x-gateway-secret";

/// Clients that send the secret count as the gateway. If no secret is set, all clients do.
#[derive(Default)]
pub(crate) struct Gateway(Option<Tokens>);

impl Gateway {
    pub(super) fn new(secret: Option<&SecretString>) -> Result<Self, String> {
        let tokens = secret.map(|secret| Tokens::read("TRUSTED_HEADER_SECRET", secret));
        Ok(Self(tokens.transpose()?))
    }

    pub(super) fn has_secret(&self) -> bool {
        self.0.is_some()
    }

    /// Returns the user named by the gateway. A header that is given twice is refused: one value
    /// could come from the gateway and the other from the client.
    pub(super) fn person(&self, headers: &HeaderMap) -> Result<UserId, Problem> {
        if let Some(secret) = &self.0 {
            let given = only_value(headers, SECRET_HEADER)
                .map_err(|GivenTwice| unauthorized("X-Gateway-Secret is given more than once"))?;
            if !given.is_some_and(|given| secret.has(given.as_bytes())) {
                return Err(unauthorized(
                    "the request did not come through the gateway: X-Gateway-Secret is missing or wrong",
                ));
            }
        }
        let bad = |why: String| Problem::new(Code::BadUserId, why);
        let user = only_value(headers, USER_HEADER)
            .map_err(|GivenTwice| bad("X-User-Id is given more than once".into()))?
            .ok_or_else(|| unauthorized("the user is missing: send X-User-Id"))?;
        String::from_utf8_lossy(user.as_bytes())
            .parse()
            .map_err(|error| bad(format!("{error}")))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn ask(gateway: &Gateway, given: &[(&'static str, &str)]) -> Result<String, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in given {
            headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        gateway
            .person(&headers)
            .map(String::from)
            .map_err(|problem| problem.code())
    }

    #[test]
    fn accepts_exactly_one_user_header() {
        let gateway = Gateway::default();
        assert_eq!(ask(&gateway, &[(USER_HEADER, "u-37")]), Ok("u-37".into()));
        assert_eq!(ask(&gateway, &[]), Err("unauthorized"));
        assert_eq!(
            ask(&gateway, &[(USER_HEADER, "u-1"), (USER_HEADER, "u-2")]),
            Err("bad_user_id")
        );
    }

    #[test]
    fn refuses_requests_without_the_gateway_secret() {
        let [old, new] = ["a", "b"].map(|letter| letter.repeat(32));
        let gateway = Gateway::new(Some(&format!("{old},{new}").into())).unwrap();
        for secret in [&old, &new] {
            assert_eq!(
                ask(&gateway, &[(USER_HEADER, "u-1"), (SECRET_HEADER, secret)]),
                Ok("u-1".into())
            );
        }
        for wrong in [
            "",
            &old[1..],
            &format!("{old}a"),
            &format!("{old},{new}"),
            &"c".repeat(32),
        ] {
            assert_eq!(
                ask(&gateway, &[(USER_HEADER, "u-1"), (SECRET_HEADER, wrong)]),
                Err("unauthorized"),
                "{wrong}"
            );
        }
        assert_eq!(ask(&gateway, &[(USER_HEADER, "u-1")]), Err("unauthorized"));
        let twice = [
            (USER_HEADER, "u-1"),
            (SECRET_HEADER, &*old),
            (SECRET_HEADER, &*old),
        ];
        assert_eq!(ask(&gateway, &twice), Err("unauthorized"));
        assert_eq!(
            ask(&gateway, &[(SECRET_HEADER, &old)]),
            Err("unauthorized"),
            "no user header"
        );
        let weak = Gateway::new(Some(&"hunter2".into())).err().unwrap();
        assert!(
            weak.contains("TRUSTED_HEADER_SECRET has 7 characters") && !weak.contains("hunter2"),
            "{weak}"
        );
    }
}
