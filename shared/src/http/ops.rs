//! The operators' tokens, and who asks with one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq as _};

use super::extract::invalid;
use super::headers::{GivenTwice, only_value};
use super::problem::Code;
use super::{Problem, proxies};
use crate::domain::unfit_in_a_name;
use crate::mysql::ops_actions::Operator;

/// Shortest token, in characters.
pub const MIN_TOKEN_CHARS: usize = 32;

/// A secret that requests bring; while it is being replaced, the old and the new one.
#[derive(Clone, Default)]
pub struct Tokens(Arc<[SecretString]>);

impl Tokens {
    /// Takes a secret of at least [`MIN_TOKEN_CHARS`] printable ASCII characters, or two by a
    /// comma. `name` is the setting's.
    ///
    /// # Errors
    /// With what is wrong, never with the secret.
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
                return Err(format!("{name} may hold printable ASCII characters without spaces only"));
            }
        }
        Ok(Self(tokens.into_iter().map(SecretString::from).collect()))
    }

    /// Each is compared, so that the time does not say which one was close.
    pub fn has(&self, given: &[u8]) -> bool {
        let matches = |token: &SecretString| token.expose_secret().as_bytes().ct_eq(given);
        self.0.iter().map(matches).fold(Choice::from(0), |any, one| any | one).into()
    }
}

/// Longest `X-Operator`, in bytes.
const MAX_NAME: usize = 100;

/// The other end of a request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The tokens that ops routes ask for.
#[derive(Clone)]
pub struct OpsToken {
    all: Tokens,
    /// With these one may read, and change nothing.
    view: Tokens,
    /// How many proxies in front are believed where a request comes from.
    proxies: u8,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    All,
    View,
}

impl OpsToken {
    /// Takes a token of at least [`MIN_TOKEN_CHARS`] printable ASCII characters, or two by a comma.
    ///
    /// # Errors
    /// With what is wrong, never with the token.
    #[allow(clippy::needless_pass_by_value, reason = "a secret is given away, not lent")]
    pub fn new(token: SecretString) -> Result<Self, String> {
        Ok(Self { all: Tokens::read("OPS_TOKEN", &token)?, view: Tokens::default(), proxies: 0 })
    }

    /// The same, and others that only read.
    pub fn with_view(self, token: Option<&SecretString>) -> Result<Self, String> {
        let Some(token) = token else { return Ok(self) };
        let view = Tokens::read("OPS_VIEW_TOKEN", token)?;
        if view.0.iter().any(|token| self.all.has(token.expose_secret().as_bytes())) {
            return Err("OPS_VIEW_TOKEN must be another token than OPS_TOKEN: it only reads".into());
        }
        Ok(Self { view, ..self })
    }

    /// The same, behind so many trusted proxies.
    #[must_use]
    pub fn behind(self, proxies: u8) -> Self {
        Self { proxies, ..self }
    }

    /// Where a request comes from, as it is recorded.
    pub fn address(&self, request: &Request) -> Option<IpAddr> {
        let peer = request.extensions().get::<Peer>().map(|peer| peer.0.ip());
        proxies::client(peer, request.headers(), self.proxies)
    }

    fn allows(&self, given: &str) -> Option<Allowed> {
        let (all, view) = (self.all.has(given.as_bytes()), self.view.has(given.as_bytes()));
        if all {
            Some(Allowed::All)
        } else if view {
            Some(Allowed::View)
        } else {
            None
        }
    }

    /// Who logs in at a page, under this name, and what they may do; `None` for a token that allows
    /// nothing.
    pub fn log_in(&self, token: &str, name: String, from: Option<IpAddr>) -> Option<(Operator, Allowed)> {
        let allowed = self.allows(token)?;
        Some((Operator { name: Some(name), token: fingerprint(token), from }, allowed))
    }

    /// Who asks, where the request may be worked.
    fn judge(&self, request: &Request) -> Result<Operator, Problem> {
        let token = bearer(request.headers())?;
        let allowed = token.and_then(|token| self.allows(token)).zip(token);
        let (allowed, token) = allowed.ok_or_else(|| {
            let detail = "this route is for operators: send `Authorization: Bearer` with the OPS_TOKEN";
            Problem::new(Code::Unauthorized, detail)
        })?;
        if allowed == Allowed::View && !matches!(*request.method(), Method::GET | Method::HEAD) {
            let detail = "the OPS_VIEW_TOKEN reads and changes nothing; send the OPS_TOKEN";
            return Err(Problem::new(Code::ReadOnly, detail));
        }
        let from = self.address(request);
        Ok(Operator { name: name(request.headers())?, token: fingerprint(token), from })
    }
}

/// The token that a request brings. Of two, a proxy in front may have checked the other one.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let value = only_value(headers, header::AUTHORIZATION);
    let value = value.map_err(|GivenTwice| invalid("send one Authorization header, not several"))?;
    Ok(value.and_then(bearer_token))
}

/// The token in a value of `Authorization`.
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
    std::str::from_utf8(value.as_bytes()).ok().and_then(operator_name).ok_or_else(bad).map(Some)
}

/// The name of an operator, if the text can be one.
pub fn operator_name(text: &str) -> Option<String> {
    let (is_fit, name) = (text.len() <= MAX_NAME && unfit_in_a_name(text).is_none(), text.trim());
    (is_fit && !name.is_empty()).then(|| name.to_owned())
}

fn fingerprint(token: &str) -> String {
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(token).into();
    format!("{:08x}", u32::from_be_bytes([a, b, c, d]))
}

/// Middleware: lets only requests with a token pass that allows them; handlers find the
/// [`Operator`] in the extensions.
pub async fn require(State(token): State<OpsToken>, mut request: Request, next: Next) -> Response {
    match token.judge(&request) {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
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
        let viewed = |view: &str| OpsToken::new(a.clone().into()).unwrap().with_view(Some(&view.into())).err();
        assert!(viewed("secret").unwrap().contains("OPS_VIEW_TOKEN"));
        assert!(viewed(&a).unwrap().contains("another token"));
        assert_eq!(viewed(&b), None);
    }

    #[test]
    fn an_operator_s_name_shows_as_it_is() {
        assert_eq!(operator_name(" 김 Kim ").as_deref(), Some("김 Kim"));
        for unfit in ["", "  ", "Kim\u{202e}", "K\u{200b}im", "a\nb", &"x".repeat(101)] {
            assert_eq!(operator_name(unfit), None, "{unfit:?}");
        }
    }

    #[test]
    fn only_a_whole_token_allows_anything() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|letter| letter.repeat(32));
        let one = OpsToken::new(a.clone().into()).unwrap();
        assert_eq!(one.allows(&a), Some(Allowed::All));
        for wrong in ["", "a", &"a".repeat(31), &"a".repeat(33), &b] {
            assert_eq!(one.allows(wrong), None);
        }
        let two =
            OpsToken::new(format!("{a},{b}").into()).unwrap().with_view(Some(&format!("{c},{d}").into())).unwrap();
        for (token, allowed) in [(&a, Allowed::All), (&b, Allowed::All), (&c, Allowed::View), (&d, Allowed::View)] {
            assert_eq!(two.allows(token), Some(allowed));
        }
        assert_eq!((two.allows(&format!("{a},{b}")), two.allows("")), (None, None));
    }
}
