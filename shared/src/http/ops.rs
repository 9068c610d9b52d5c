//! The tokens of operators and shops, and authentication with them.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use metrics::{counter, describe_counter};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::Problem;
use super::extract::invalid;
use super::headers::{GivenTwice, only_value};
use super::problem::Code;
use super::signatures::{Allowed, TokenSigner};
use crate::domain::unfit_in_a_name;
use crate::line_limit::LineLimit;
use crate::model::secrets;
use crate::mysql::ops_actions::Operator;

/// Maximum length of `X-Operator`, in bytes.
const MAX_NAME: usize = 100;

/// The peer address of a request's connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Returns the address of a request's peer, for the record of operators' actions.
pub fn peer(request: &Request) -> Option<IpAddr> {
    request.extensions().get().map(|Peer(peer)| peer.ip())
}

const WRONG_TOKENS: &str = "firstcome_wrong_tokens_total";

/// Describes the counter of wrong tokens, for `/metrics`.
pub(crate) fn describe() {
    describe_counter!(
        WRONG_TOKENS,
        "Requests and log-ins with a wrong token of an operator or a shop"
    );
    counter!(WRONG_TOKENS).absolute(0);
}

/// The tokens of operators and, if set, of shops.
#[derive(Clone)]
pub struct OpsToken {
    tokens: Arc<[(SecretString, Allowed)]>,
    /// Limits the log lines about wrong tokens.
    lines: Arc<LineLimit>,
}

/// Checks the tokens in the text of a setting.
///
/// # Errors
/// Returns a description of the fault, never with the token.
pub fn check_tokens(setting: &str, text: &str) -> Result<(), String> {
    secrets(setting, &text.into()).map(|_| ())
}

impl OpsToken {
    /// Parses `OPS_TOKEN` and `OPS_VIEW_TOKEN`.
    ///
    /// # Errors
    /// Returns a description of the fault, never with the token.
    pub fn new(token: &SecretString, view: Option<&SecretString>) -> Result<Self, String> {
        let none = Self {
            tokens: [].into(),
            lines: Arc::default(),
        };
        let why = "OPS_VIEW_TOKEN must be another token than OPS_TOKEN: it only reads";
        none.with("OPS_TOKEN", Some(token), Allowed::All, "")?.with(
            "OPS_VIEW_TOKEN",
            view,
            Allowed::View,
            why,
        )
    }

    /// Adds `REDEEM_TOKEN`, with which shops use codes.
    ///
    /// # Errors
    /// Returns a description of the fault, never with the token.
    pub fn with_redeem(self, redeem: Option<&SecretString>) -> Result<Self, String> {
        let why = "REDEEM_TOKEN must be another token than those of operators: it only uses codes";
        self.with("REDEEM_TOKEN", redeem, Allowed::Redeem, why)
    }

    /// Adds the tokens of a setting. `why` says why none of them may be a token that is known
    /// already.
    fn with(
        self,
        setting: &str,
        text: Option<&SecretString>,
        allowed: Allowed,
        why: &str,
    ) -> Result<Self, String> {
        let Some(text) = text else {
            return Ok(self);
        };
        let added = secrets(setting, text)?;
        if added
            .iter()
            .any(|token| self.allows(token.expose_secret()).is_some())
        {
            return Err(why.to_owned());
        }
        let mut tokens = self.tokens.to_vec();
        tokens.extend(added.into_iter().map(|token| (token, allowed)));
        Ok(Self {
            tokens: tokens.into(),
            ..self
        })
    }

    /// Compares all tokens, so that the response time does not reveal which one matches.
    fn allows(&self, given: &str) -> Option<Allowed> {
        self.tokens.iter().fold(None, |found, (token, allowed)| {
            let is_given = token.expose_secret().as_bytes().ct_eq(given.as_bytes());
            found.or(bool::from(is_given).then_some(*allowed))
        })
    }

    /// Returns the signers of all operators' tokens.
    pub fn signers(&self) -> impl Iterator<Item = TokenSigner> {
        let all = self
            .tokens
            .iter()
            .filter(|(_, allowed)| *allowed != Allowed::Redeem);
        all.filter_map(|(token, allowed)| TokenSigner::new(token.expose_secret(), *allowed))
    }

    /// Returns the permission of a token sent from this address. Wrong tokens are counted and, at a
    /// limited rate, logged without the token. They cause no delay and no lock-out: a random token
    /// of 32 characters, the shortest that is accepted, cannot be guessed at any speed, and a
    /// lock-out would let any client behind the operators' gateway lock the operators out.
    fn check(&self, token: &str, from: Option<IpAddr>) -> Option<Allowed> {
        let allowed = self.allows(token);
        if allowed.is_none() {
            counter!(WRONG_TOKENS).increment(1);
            if let Some(left_out) = self.lines.allow("wrong_token", Instant::now()) {
                tracing::warn!(?from, left_out, "wrong token");
            }
        }
        allowed
    }

    /// Checks a token entered on the login page, and returns the signer for its session.
    pub fn log_in(&self, token: &str, from: Option<IpAddr>) -> Option<TokenSigner> {
        TokenSigner::new(token, self.check(token, from)?)
    }

    /// Authorizes a request to this kind of route, and returns the operator and the permission.
    fn judge(
        &self,
        request: &Request,
        routes: TokenRoutes,
    ) -> Result<(Operator, Allowed), Problem> {
        let headers = request.headers();
        let from = peer(request);
        let wrong = || Problem::new(Code::Unauthorized, routes.needs());
        let token = bearer(headers)?.ok_or_else(wrong)?;
        let allowed = self.check(token, from).ok_or_else(wrong)?;
        if !routes.admit(allowed, request.method()) {
            return Err(wrong());
        }
        if allowed == Allowed::View && !matches!(*request.method(), Method::GET | Method::HEAD) {
            let detail = "the OPS_VIEW_TOKEN reads and changes nothing; send the OPS_TOKEN";
            return Err(Problem::new(Code::ReadOnly, detail));
        }
        let operator = Operator {
            name: name(headers)?,
            token: fingerprint(token),
            from,
        };
        Ok((operator, allowed))
    }
}

/// Routes that require a token.
#[derive(Debug, Clone, Copy)]
enum TokenRoutes {
    Operators,
    Codes,
}

impl TokenRoutes {
    fn needs(self) -> &'static str {
        match self {
            Self::Operators => {
                "this route is for operators: send `Authorization: Bearer` with the OPS_TOKEN"
            }
            Self::Codes => {
                "this route is for shops: send `Authorization: Bearer` with the REDEEM_TOKEN"
            }
        }
    }

    /// Operators read codes and undo uses, but do not use codes.
    fn admit(self, allowed: Allowed, method: &Method) -> bool {
        match self {
            Self::Operators => allowed != Allowed::Redeem,
            Self::Codes => allowed == Allowed::Redeem || method != Method::PUT,
        }
    }
}

/// Returns the token of a request. Duplicate headers are an error, because a proxy in front may
/// have checked the other one.
pub fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let given = only_value(headers, header::AUTHORIZATION);
    let value =
        given.map_err(|GivenTwice| invalid("send one Authorization header, not several"))?;
    let parts = value.and_then(|value| value.to_str().ok()?.split_once(' '));
    let token = parts.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    Ok(token.map(|(_, token)| token.trim()))
}

fn name(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let value = only_value(headers, "x-operator")
        .map_err(|GivenTwice| invalid("send one X-Operator header, not several"))?;
    let Some(value) = value else { return Ok(None) };
    std::str::from_utf8(value.as_bytes())
        .ok()
        .and_then(operator_name)
        .ok_or_else(|| {
            invalid(format!(
                "X-Operator must be your name, 1 to {MAX_NAME} bytes of UTF-8 without control or \
            invisible characters"
            ))
        })
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
pub async fn require(State(token): State<OpsToken>, request: Request, next: Next) -> Response {
    require_for(TokenRoutes::Operators, &token, request, next).await
}

/// Like [`require`], for the routes with which shops use codes.
pub async fn require_redeem(
    State(token): State<OpsToken>,
    request: Request,
    next: Next,
) -> Response {
    require_for(TokenRoutes::Codes, &token, request, next).await
}

async fn require_for(
    routes: TokenRoutes,
    token: &OpsToken,
    mut request: Request,
    next: Next,
) -> Response {
    let (operator, allowed) = match token.judge(&request, routes) {
        Ok(judged) => judged,
        Err(problem) => return problem.into_response(),
    };
    request.extensions_mut().insert(operator);
    request.extensions_mut().insert(allowed);
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_or_repeated_tokens_are_refused_without_being_shown() {
        let [a, b] = ["a", "b"].map(|letter| letter.repeat(32));
        let refused = |token: &str| OpsToken::new(&token.into(), None).err().unwrap();
        assert!(refused("secret").contains("32"));
        for wrong in [
            "secret".to_owned(),
            "x y".repeat(20),
            format!("{a},secret"),
            format!("{a},"),
            format!(",{a}"),
            format!("{a},{b},{a}"),
        ] {
            let why = refused(&wrong);
            let is_shown = why.contains("aaa") || why.contains("secret") || why.contains("x y");
            assert!(!is_shown, "{wrong}: {why}");
        }
        let viewed = |view: &str| OpsToken::new(&a.clone().into(), Some(&view.into())).err();
        assert!(viewed("secret").unwrap().contains("OPS_VIEW_TOKEN"));
        assert!(viewed(&a).unwrap().contains("another token"));
        assert_eq!(viewed(&b), None);
    }

    #[test]
    fn operator_name_is_trimmed_and_accepted_only_if_it_is_short_and_printable() {
        assert_eq!(operator_name(" 김 Kim ").as_deref(), Some("김 Kim"));
        let long = "x".repeat(101);
        for unfit in ["", "  ", "Kim\u{202e}", "K\u{200b}im", "a\nb", &long] {
            assert_eq!(operator_name(unfit), None, "{unfit:?}");
        }
    }

    #[test]
    fn only_a_complete_token_grants_its_permission() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|letter| letter.repeat(32));
        let one = OpsToken::new(&a.clone().into(), None).unwrap();
        assert_eq!(one.allows(&a), Some(Allowed::All));
        for wrong in ["", "a", &"a".repeat(31), &"a".repeat(33), &b] {
            assert_eq!(one.allows(wrong), None);
        }
        let two =
            OpsToken::new(&format!("{a},{b}").into(), Some(&format!("{c},{d}").into())).unwrap();
        assert_eq!([&a, &b].map(|it| two.allows(it)), [Some(Allowed::All); 2]);
        assert_eq!([&c, &d].map(|it| two.allows(it)), [Some(Allowed::View); 2]);
        assert_eq!(
            [&format!("{a},{b}"), ""].map(|it| two.allows(it)),
            [None; 2]
        );
    }
}
