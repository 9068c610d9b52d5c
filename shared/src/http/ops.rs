//! The operators' tokens, and authentication with them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::extract::invalid;
use super::headers::{GivenTwice, only_value};
use super::problem::Code;
use super::signatures::TokenSigner;
use super::wrong_tokens::WrongTokens;
use super::{Problem, proxies};
use crate::domain::unfit_in_a_name;
use crate::mysql::ops_actions::Operator;

/// Minimum length of a token, in characters.
pub const MIN_TOKEN_CHARS: usize = 32;

/// A secret that requests must send. During a rotation, both the old and the new one are valid.
#[derive(Clone, Default)]
pub struct Tokens(Arc<[SecretString]>);

impl Tokens {
    /// Parses one secret of at least [`MIN_TOKEN_CHARS`] printable ASCII characters, or two
    /// separated by a comma. `name` is the setting's name.
    ///
    /// # Errors
    /// Returns a description of the fault, never with the secret.
    pub fn read(name: &str, secret: &SecretString) -> Result<Self, String> {
        let tokens: Vec<&str> = secret.expose_secret().split(',').collect();
        if tokens.len() > 2 {
            return Err(format!("{name} may hold two tokens by a comma, not more"));
        }
        for token in &tokens {
            let chars = token.len();
            if chars < MIN_TOKEN_CHARS {
                return Err(format!(
                    "{name} has {chars} characters; it needs at least {MIN_TOKEN_CHARS}, for example from `openssl rand -hex 32`"
                ));
            }
            if !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(format!(
                    "{name} may hold printable ASCII characters without spaces only"
                ));
            }
        }
        Ok(Self(tokens.into_iter().map(SecretString::from).collect()))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SecretString> {
        self.0.iter()
    }

    /// Compares all tokens, so that the response time does not reveal which one was close.
    pub fn has(&self, given: &[u8]) -> bool {
        let matches = |token: &SecretString| token.expose_secret().as_bytes().ct_eq(given);
        self.0
            .iter()
            .map(matches)
            .fold(Choice::from(0), |any, one| any | one)
            .into()
    }
}

/// Maximum number of concurrent viewer requests. The remaining MySQL connections are reserved for
/// operators.
const VIEWERS_AT_ONCE: usize = 2;

/// Maximum wait of a viewer's request for its turn.
const VIEWER_PATIENCE: Duration = Duration::from_secs(5);

/// Maximum length of `X-Operator`, in bytes.
const MAX_NAME: usize = 100;

/// The peer address of a request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The tokens that operators' routes require.
#[derive(Clone)]
pub struct OpsToken {
    all: Tokens,
    /// Read-only tokens.
    view: Tokens,
    /// Number of trusted proxies in front, needed to find the client's address.
    proxies: u8,
    wrong: Arc<WrongTokens>,
    viewers: Arc<Semaphore>,
}

/// An invalid token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WrongToken {
    /// The time until another wrong token gets 401 again, if too many wrong tokens came from the
    /// client's network.
    pub retry_after: Option<Duration>,
}

/// The permission of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    All,
    View,
}

impl OpsToken {
    /// Parses one token of at least [`MIN_TOKEN_CHARS`] printable ASCII characters, or two
    /// separated by a comma.
    ///
    /// # Errors
    /// Returns a description of the fault, never with the token.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a secret is given away, not lent"
    )]
    pub fn new(token: SecretString) -> Result<Self, String> {
        let all = Tokens::read("OPS_TOKEN", &token)?;
        let viewers = Arc::new(Semaphore::new(VIEWERS_AT_ONCE));
        Ok(Self {
            all,
            view: Tokens::default(),
            proxies: 0,
            wrong: Arc::default(),
            viewers,
        })
    }

    /// Adds read-only tokens.
    pub fn with_view(self, token: Option<&SecretString>) -> Result<Self, String> {
        let Some(token) = token else { return Ok(self) };
        let view = Tokens::read("OPS_VIEW_TOKEN", token)?;
        if view
            .0
            .iter()
            .any(|token| self.all.has(token.expose_secret().as_bytes()))
        {
            return Err(
                "OPS_VIEW_TOKEN must be another token than OPS_TOKEN: it only reads".into(),
            );
        }
        Ok(Self { view, ..self })
    }

    /// Sets the number of trusted proxies.
    #[must_use]
    pub fn behind(self, proxies: u8) -> Self {
        Self { proxies, ..self }
    }

    /// Returns the client's address, for the record of operators' actions.
    pub fn address(&self, request: &Request) -> Option<IpAddr> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        proxies::client(peer, request.headers(), self.proxies)
    }

    fn allows(&self, given: &str) -> Option<Allowed> {
        let all = self.all.has(given.as_bytes());
        let view = self.view.has(given.as_bytes());
        if all {
            Some(Allowed::All)
        } else if view {
            Some(Allowed::View)
        } else {
            None
        }
    }

    /// Returns the signer for a session that starts with this token, or `None` if the token is
    /// invalid.
    pub fn signer(&self, token: &str) -> Option<TokenSigner> {
        TokenSigner::new(token, self.allows(token)?)
    }

    /// Returns the signers of all valid tokens.
    pub fn signers(&self) -> impl Iterator<Item = TokenSigner> {
        let of = |tokens: &Tokens, allowed| {
            tokens
                .0
                .iter()
                .map(move |token| (token.clone(), allowed))
                .collect::<Vec<_>>()
        };
        let all = of(&self.all, Allowed::All)
            .into_iter()
            .chain(of(&self.view, Allowed::View));
        all.filter_map(|(token, allowed)| TokenSigner::new(token.expose_secret(), allowed))
    }

    /// Returns the permission of a token sent from this address. Counts and logs wrong tokens.
    fn check(&self, token: &str, from: Option<IpAddr>) -> Result<Allowed, WrongToken> {
        self.allows(token).ok_or_else(|| WrongToken {
            retry_after: self.wrong.note(from),
        })
    }

    /// Checks a token entered on the login page, and returns the signer for its session.
    pub fn log_in(&self, token: &str, from: Option<IpAddr>) -> Result<TokenSigner, WrongToken> {
        let allowed = self.check(token, from)?;
        TokenSigner::new(token, allowed).ok_or(WrongToken { retry_after: None })
    }

    /// Waits for a viewer's turn. Returns `None` if too many viewers are waiting.
    async fn viewer_turn(&self) -> Option<OwnedSemaphorePermit> {
        timeout(VIEWER_PATIENCE, Arc::clone(&self.viewers).acquire_owned())
            .await
            .ok()?
            .ok()
    }

    /// Authorizes a request, and returns the operator and the permission.
    fn judge(
        &self,
        method: &Method,
        headers: &HeaderMap,
        from: Option<IpAddr>,
    ) -> Result<(Operator, Allowed), Problem> {
        let wrong = || {
            let detail =
                "this route is for operators: send `Authorization: Bearer` with the OPS_TOKEN";
            Problem::new(Code::Unauthorized, detail)
        };
        let token = bearer(headers)?.ok_or_else(wrong)?;
        let allowed = self.check(token, from).map_err(|WrongToken { retry_after }| match retry_after {
            None => wrong(),
            Some(wait) => {
                let detail = "too many wrong tokens come from your address; the right one is still accepted";
                Problem::new(Code::TooManyRequests, detail).retry_after(wait)
            }
        })?;
        if allowed == Allowed::View && !matches!(*method, Method::GET | Method::HEAD) {
            let detail = "the OPS_VIEW_TOKEN reads and changes nothing; send the OPS_TOKEN";
            return Err(Problem::new(Code::ReadOnly, detail));
        }
        Ok((
            Operator {
                name: name(headers)?,
                token: fingerprint(token),
                from,
            },
            allowed,
        ))
    }
}

/// Returns the token of a request. Duplicate headers are an error, because a proxy in front may
/// have checked the other one.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let value = only_value(headers, header::AUTHORIZATION);
    let value =
        value.map_err(|GivenTwice| invalid("send one Authorization header, not several"))?;
    Ok(value.and_then(bearer_token))
}

/// Returns the token in a value of `Authorization`.
pub fn bearer_token(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn name(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let value = only_value(headers, "x-operator");
    let value = value.map_err(|GivenTwice| invalid("send one X-Operator header, not several"))?;
    let Some(value) = value else { return Ok(None) };
    let bad = || {
        invalid(format!(
            "X-Operator must be your name, 1 to {MAX_NAME} bytes of UTF-8 without control or invisible characters"
        ))
    };
    std::str::from_utf8(value.as_bytes())
        .ok()
        .and_then(operator_name)
        .ok_or_else(bad)
        .map(Some)
}

/// Returns the text as an operator's name, if it is valid.
pub fn operator_name(text: &str) -> Option<String> {
    let is_fit = text.len() <= MAX_NAME && unfit_in_a_name(text).is_none();
    let name = text.trim();
    (is_fit && !name.is_empty()).then(|| name.to_owned())
}

fn fingerprint(token: &str) -> String {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(token).into();
    format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
}

/// Middleware that lets only requests with a sufficient token pass. Handlers find the [`Operator`]
/// and the [`Allowed`] in the extensions.
pub async fn require(State(token): State<OpsToken>, mut request: Request, next: Next) -> Response {
    let from = token.address(&request);
    let headers = request.headers().clone();
    let (operator, allowed) = match token.judge(request.method(), &headers, from) {
        Ok(judged) => judged,
        Err(problem) => return problem.into_response(),
    };
    let _turn = match allowed {
        Allowed::All => None,
        Allowed::View => match token.viewer_turn().await {
            Some(turn) => Some(turn),
            None => {
                return Problem::unavailable("too many viewers ask at a time; try again")
                    .into_response();
            }
        },
    };
    request.extensions_mut().insert(operator);
    request.extensions_mut().insert(allowed);
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use futures_util::FutureExt as _;
    use tower::ServiceExt as _;

    use super::*;

    #[test]
    fn short_tokens_are_refused_without_being_shown() {
        let refused = OpsToken::new("secret".to_owned().into()).err().unwrap();
        assert!(refused.contains("32") && !refused.contains("secret"));
        assert!(OpsToken::new("x y".repeat(20).into()).is_err());
        let a = "a".repeat(32);
        let b = "b".repeat(32);
        for wrong in [
            format!("{a},secret"),
            format!("{a},"),
            format!(",{a}"),
            format!("{a},{b},{a}"),
        ] {
            let refused = OpsToken::new(wrong.clone().into()).err().unwrap();
            assert!(
                !refused.contains("aaa") && !refused.contains("secret"),
                "{wrong}: {refused}"
            );
        }
        let viewed = |view: &str| {
            OpsToken::new(a.clone().into())
                .unwrap()
                .with_view(Some(&view.into()))
                .err()
        };
        assert!(viewed("secret").unwrap().contains("OPS_VIEW_TOKEN"));
        assert!(viewed(&a).unwrap().contains("another token"));
        assert_eq!(viewed(&b), None);
    }

    #[test]
    fn operator_name_is_accepted_only_if_it_is_printable() {
        assert_eq!(operator_name(" 김 Kim ").as_deref(), Some("김 Kim"));
        for unfit in [
            "",
            "  ",
            "Kim\u{202e}",
            "K\u{200b}im",
            "a\nb",
            &"x".repeat(101),
        ] {
            assert_eq!(operator_name(unfit), None, "{unfit:?}");
        }
    }

    #[test]
    fn only_a_complete_token_grants_permission() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|letter| letter.repeat(32));
        let one = OpsToken::new(a.clone().into()).unwrap();
        assert_eq!(one.allows(&a), Some(Allowed::All));
        for wrong in ["", "a", &"a".repeat(31), &"a".repeat(33), &b] {
            assert_eq!(one.allows(wrong), None);
        }
        let two = OpsToken::new(format!("{a},{b}").into())
            .unwrap()
            .with_view(Some(&format!("{c},{d}").into()))
            .unwrap();
        for (token, allowed) in [
            (&a, Allowed::All),
            (&b, Allowed::All),
            (&c, Allowed::View),
            (&d, Allowed::View),
        ] {
            assert_eq!(two.allows(token), Some(allowed));
        }
        assert_eq!(
            (two.allows(&format!("{a},{b}")), two.allows("")),
            (None, None)
        );
    }

    /// Requests an operators' route with this token. Returns the status, and `Retry-After` if
    /// present.
    async fn ask(token: &OpsToken, given: &str, from: &str) -> (u16, Option<u64>) {
        let routes = Router::new()
            .route("/", get(async || ()))
            .layer(from_fn_with_state(token.clone(), require));
        let mut request = Request::get("/")
            .header("authorization", format!("Bearer {given}"))
            .body(Body::empty())
            .unwrap();
        request
            .extensions_mut()
            .insert(Peer(SocketAddr::new(from.parse().unwrap(), 4711)));
        let answer = routes.oneshot(request).await.unwrap();
        let wait = answer
            .headers()
            .get(header::RETRY_AFTER)
            .map(|wait| wait.to_str().unwrap().parse().unwrap());
        (answer.status().as_u16(), wait)
    }

    #[test]
    fn wrong_tokens_are_refused_at_once_and_the_right_one_is_accepted() {
        let right = "a".repeat(32);
        let token = OpsToken::new(right.clone().into()).unwrap();
        let ask_at_once = |given, from| {
            ask(&token, given, from)
                .now_or_never()
                .expect("no token waits")
        };
        for _ in 0..10 {
            assert_eq!(ask_at_once("wrong", "2001:db8::1"), (401, None));
        }
        assert_eq!(
            ask_at_once("wrong", "2001:db8:0:1::1"),
            (401, None),
            "another network"
        );
        for _ in 0..100 {
            let (status, wait) = ask_at_once("wrong", "2001:db8::2");
            assert!(
                status == 429 && wait.is_some_and(|wait| (1..=62).contains(&wait)),
                "{status} {wait:?}"
            );
        }
        assert_eq!(ask_at_once(&right, "2001:db8::2"), (200, None));
    }

    #[tokio::test]
    async fn operator_is_served_when_all_viewer_places_are_taken() {
        let [all, view] = ["a", "b"].map(|letter| letter.repeat(32));
        let token = OpsToken::new(all.clone().into())
            .unwrap()
            .with_view(Some(&view.clone().into()))
            .unwrap();
        let turns = [
            token.viewer_turn().await.unwrap(),
            token.viewer_turn().await.unwrap(),
        ];
        let viewer = ask(&token, &view, "192.0.2.7");
        tokio::pin!(viewer);
        assert!(
            timeout(Duration::from_millis(100), &mut viewer)
                .await
                .is_err(),
            "a viewer waits"
        );
        assert_eq!(
            ask(&token, &all, "192.0.2.7").await,
            (200, None),
            "an operator does not"
        );
        drop(turns);
        assert_eq!(viewer.await, (200, None));
    }
}
