//! The operators' token.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use secrecy::{ExposeSecret as _, SecretString};
use subtle::{Choice, ConstantTimeEq as _};

use super::Problem;

/// Shortest `OPS_TOKEN`, in characters.
pub const MIN_TOKEN_CHARS: usize = 32;

/// The token that ops routes ask for; while it is being replaced, the old and the new one.
#[derive(Clone)]
pub struct OpsToken(Arc<[SecretString]>);

impl OpsToken {
    /// Takes a token of at least [`MIN_TOKEN_CHARS`] printable ASCII characters, or two by a comma.
    ///
    /// # Errors
    /// With what is wrong, never with the token.
    #[allow(clippy::needless_pass_by_value, reason = "a secret is given away, not lent")]
    pub fn new(token: SecretString) -> Result<Self, String> {
        let tokens: Vec<&str> = token.expose_secret().split(',').collect();
        if tokens.len() > 2 {
            return Err("OPS_TOKEN may hold two tokens by a comma, not more".into());
        }
        for token in &tokens {
            let chars = token.len();
            if chars < MIN_TOKEN_CHARS {
                return Err(format!(
                    "OPS_TOKEN has {chars} characters; it needs at least {MIN_TOKEN_CHARS}, for example from `openssl rand -hex 32`"
                ));
            }
            if !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err("OPS_TOKEN may hold printable ASCII characters without spaces only".into());
            }
        }
        Ok(Self(tokens.into_iter().map(SecretString::from).collect()))
    }

    fn matches(&self, given: &str) -> bool {
        // Each is compared, so that the time does not say which one was close.
        let matches = |token: &SecretString| token.expose_secret().as_bytes().ct_eq(given.as_bytes());
        self.0.iter().map(matches).fold(Choice::from(0), |any, one| any | one).into()
    }
}

/// Middleware: lets only requests with `Authorization: Bearer $OPS_TOKEN` pass.
pub async fn require(State(token): State<OpsToken>, request: Request, next: Next) -> Response {
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    if given.is_some_and(|given| token.matches(given)) {
        next.run(request).await
    } else {
        let detail = "this route is for operators: send `Authorization: Bearer` with the OPS_TOKEN";
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_tokens_are_refused_without_telling_them() {
        let refused = OpsToken::new("secret".to_owned().into()).err().unwrap();
        assert!(refused.contains("32") && !refused.contains("secret"));
        assert!(OpsToken::new("x y".repeat(20).into()).is_err());
        let (a, b) = ("a".repeat(32), "b".repeat(32));
        for wrong in [format!("{a},secret"), format!("{a},"), format!(",{a}"), format!("{a},{b},{a}")] {
            let refused = OpsToken::new(wrong.clone().into()).err().unwrap();
            assert!(!refused.contains("aaa") && !refused.contains("secret"), "{wrong}: {refused}");
        }
    }

    #[test]
    fn only_the_whole_token_matches() {
        let token = OpsToken::new("a".repeat(32).into()).unwrap();
        assert!(token.matches(&"a".repeat(32)));
        for wrong in ["", "a", &"a".repeat(31), &"a".repeat(33), &"b".repeat(32)] {
            assert!(!token.matches(wrong));
        }
        let (a, b) = ("a".repeat(32), "b".repeat(32));
        let two = OpsToken::new(format!("{a},{b}").into()).unwrap();
        assert!(two.matches(&a) && two.matches(&b));
        assert!(!two.matches(&format!("{a},{b}")) && !two.matches(""));
    }
}
