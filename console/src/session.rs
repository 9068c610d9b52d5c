//! Log-in sessions as cookies signed with the operators' token. Every reconciler with that token
//! accepts them, even after a restart. Withdrawing the token ends all its sessions.

use std::time::Duration;

use axum::http::header::{COOKIE, ORIGIN};
use axum::http::{HeaderMap, HeaderValue};
use chrono::{DateTime, Utc};
use firstcome_shared::http::ops::{OpsToken, Peer, operator_name};
use firstcome_shared::http::signatures::{Allowed, SignaturePurpose, TokenSigner};
use firstcome_shared::subject::Subject;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Lifetime of a session, regardless of how much it is used.
const LIFETIME: Duration = Duration::from_secs(12 * 3_600);

/// Maximum difference between the clocks of replicas. A session that would last longer than its
/// lifetime plus this is rejected.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3_600);

/// How long a log-out is stored. Longer than the session's remaining lifetime, because a session
/// lasts longer on a replica whose clock is behind.
pub(super) const ENDED_FOR: Duration = Duration::from_secs(2 * 12 * 3_600);

/// The name of the cookie over http and over https. A browser accepts a cookie with the prefix
/// `__Host-` only over https and only from this host.
const NAME: &str = "firstcome-ops";
const SECURE_NAME: &str = "__Host-firstcome-ops";

const OF_SESSION: SignaturePurpose = SignaturePurpose("session");

/// A log-in session.
#[derive(Debug)]
pub(super) struct LoginSession {
    /// The token, as a header value for requests to both services.
    pub(super) authorization: HeaderValue,
    /// The operator's name, which `ops_actions` records.
    pub(super) name: String,
    /// The peer address of the browser's connection.
    pub(super) peer: Option<Peer>,
    pub(super) allowed: Allowed,
    /// 128 random bits that identify the session at log-out.
    pub(super) id: String,
    /// What the passes compare. For a system that is not ours, there are only passes and alerts.
    pub(super) subject: Subject,
    ends: DateTime<Utc>,
}

impl LoginSession {
    pub(super) fn may_change(&self) -> bool {
        self.allowed == Allowed::All
    }

    /// Whether the page has the screens of coupons.
    pub(super) fn has_coupons(&self) -> bool {
        match self.subject {
            Subject::Drop => true,
            Subject::Campaign => false,
        }
    }

    pub(super) fn rest(&self, now: DateTime<Utc>) -> Duration {
        (self.ends - now).to_std().unwrap_or_default()
    }

    /// Returns the session of a request, unless it has expired or its token was withdrawn. Does not
    /// check whether the operator has logged out.
    pub(super) fn from_headers(
        headers: &HeaderMap,
        tokens: &OpsToken,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let session = cookies(headers).find_map(|cookie| Self::read(cookie, tokens))?;
        let is_now = session.ends > now && session.rest(now) <= LIFETIME + CLOCKS_DIFFER;
        is_now.then_some(session)
    }

    fn read(cookie: &str, tokens: &OpsToken) -> Option<Self> {
        let (text, signature) = cookie.rsplit_once('.')?;
        let signer = tokens
            .signers()
            .find(|signer| signer.has_signed(text, OF_SESSION, signature))?;
        let [id, ends, name] = text.split('.').collect::<Vec<_>>().try_into().ok()?;
        let name = operator_name(&percent_decode_str(name).decode_utf8().ok()?)?;
        Some(Self {
            id: id.to_owned(),
            subject: Subject::default(),
            ends: DateTime::from_timestamp(ends.parse().ok()?, 0)?,
            allowed: signer.allowed,
            authorization: signer.authorization,
            name,
            peer: None,
        })
    }
}

/// Begins a session, and returns the value of its cookie: `ID.END.NAME.SIGNATURE`.
pub(super) fn begin(signer: &TokenSigner, name: &str, now: DateTime<Utc>) -> String {
    let id = rand::random::<u128>();
    let ends = (now + LIFETIME).timestamp();
    let text = format!(
        "{id:032x}.{ends}.{}",
        utf8_percent_encode(name, NON_ALPHANUMERIC)
    );
    format!("{text}.{}", signer.sign(OF_SESSION, &text))
}

/// Returns the candidate cookies. Over https, only the cookie with the prefix counts, since other
/// hosts of the domain could set the other one.
fn cookies(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let names = if is_https(headers) {
        &[SECURE_NAME][..]
    } else {
        &[SECURE_NAME, NAME]
    };
    let cookies = headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let pairs = cookies
        .flat_map(|text| text.split(';'))
        .filter_map(|pair| pair.trim().split_once('='));
    pairs
        .filter(|(name, _)| names.contains(name))
        .map(|(_, value)| value)
}

/// Whether the browser uses https. TLS may end at a proxy, so only headers show it.
pub(super) fn is_https(headers: &HeaderMap) -> bool {
    [
        (ORIGIN.as_str(), "https://"),
        ("x-forwarded-proto", "https"),
    ]
    .iter()
    .any(|(name, begin)| {
        headers
            .get(*name)
            .is_some_and(|value| value.as_bytes().starts_with(begin.as_bytes()))
    })
}

/// Returns the `Set-Cookie` header of a session. An empty value ends the session.
pub(super) fn cookie(value: &str, is_https: bool) -> String {
    let (name, secure) = if is_https {
        (SECURE_NAME, "; Secure")
    } else {
        (NAME, "")
    };
    let age = if value.is_empty() {
        0
    } else {
        LIFETIME.as_secs()
    };
    format!("{name}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;
    use chrono::TimeDelta;

    use super::*;

    fn with_cookie(value: &str) -> HeaderMap {
        [(COOKIE, HeaderValue::from_str(value).unwrap())]
            .into_iter()
            .collect()
    }

    #[test]
    fn session_is_valid_until_it_expires_or_its_token_is_withdrawn() {
        let now = Utc::now();
        let [old, new, view] = ["o", "n", "v"].map(|letter| letter.repeat(32));
        let tokens = |all: &str| OpsToken::new(&all.into(), Some(&view.as_str().into())).unwrap();
        let in_rotation = tokens(&format!("{new},{old}"));
        let value = begin(&tokens(&old).log_in(&old, None).unwrap(), "김 K.im; =", now);
        let headers = with_cookie(&format!("other=1; {NAME}={value}"));
        let of = |tokens: &OpsToken, at| LoginSession::from_headers(&headers, tokens, at);

        let [here, elsewhere] =
            [&tokens(&old), &in_rotation].map(|tokens| of(tokens, now).unwrap());
        assert!(here.name == "김 K.im; =" && here.may_change());
        assert_eq!(here.id, elsewhere.id);
        assert!(here.rest(now) <= LIFETIME && here.rest(now) + Duration::from_secs(2) > LIFETIME);
        assert!(of(&in_rotation, now + LIFETIME).is_none());
        assert!(of(&tokens(&new), now).is_none(), "its token was withdrawn");
        let behind = |by| now.checked_sub_signed(by).unwrap();
        assert!(
            of(&in_rotation, behind(TimeDelta::minutes(59))).is_some(),
            "the clock of another replica"
        );
        assert!(
            of(&in_rotation, behind(TimeDelta::minutes(61))).is_none(),
            "no session lasts that long"
        );
        assert!(ENDED_FOR >= LIFETIME + CLOCKS_DIFFER);

        let viewer = begin(&in_rotation.log_in(&view, None).unwrap(), "Lee", now);
        let viewer = LoginSession::from_headers(
            &with_cookie(&format!("{SECURE_NAME}={viewer}")),
            &in_rotation,
            now,
        )
        .unwrap();
        assert!(!viewer.may_change());
    }

    #[test]
    fn altered_or_forged_cookie_or_one_over_https_without_prefix_is_rejected() {
        let now = Utc::now();
        let tokens = OpsToken::new(&"o".repeat(32).into(), None).unwrap();
        let signer = tokens.log_in(&"o".repeat(32), None).unwrap();
        let value = begin(&signer, "Kim", now);
        let (text, signature) = value.rsplit_once('.').unwrap();
        let id = &text[..32];
        let ends = text.split('.').nth(1).unwrap();
        let signed = |text: &str| format!("{text}.{}", signer.sign(OF_SESSION, text));
        for made_up in [
            "",
            "0",
            text,
            &format!("{text}."),
            &format!("{text}.{}", &signature[1..]),
            &format!("{id}.{ends}9.Kim.{signature}"),
            &format!("{id}.{ends}.Lee.{signature}"),
            // Signed for another purpose.
            &format!("{text}.{}", signer.sign(SignaturePurpose("forms"), text)),
            // The value is signed correctly but has another format.
            &signed(id),
            &signed(&format!("{id}.soon.Kim")),
            &signed(&format!("{id}.{ends}.")),
            &signed(&format!("{id}.{ends}.%FF")),
            &signed(&format!("{text}.more")),
        ] {
            assert!(
                LoginSession::from_headers(
                    &with_cookie(&format!("{NAME}={made_up}")),
                    &tokens,
                    now
                )
                .is_none(),
                "{made_up}"
            );
        }
        let mut headers = with_cookie(&format!("{NAME}=0; {SECURE_NAME}={value}"));
        assert!(LoginSession::from_headers(&headers, &tokens, now).is_some());
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        assert!(LoginSession::from_headers(&headers, &tokens, now).is_some());
        let mut headers = with_cookie(&format!("{NAME}={value}"));
        assert!(LoginSession::from_headers(&headers, &tokens, now).is_some());
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        assert!(
            LoginSession::from_headers(&headers, &tokens, now).is_none(),
            "over https without the prefix"
        );
    }

    #[test]
    fn https_is_recognized_by_the_origin_or_by_a_header_of_the_proxy() {
        for (name, value, is_secure) in [
            ("origin", "https://ops.example.com", true),
            ("x-forwarded-proto", "https", true),
            ("origin", "http://ops.example.com:8081", false),
        ] {
            let headers = HeaderMap::from_iter([(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )]);
            assert_eq!(is_https(&headers), is_secure, "{name}: {value}");
        }
    }

    #[test]
    fn cookie_is_http_only_same_site_and_secure_over_https() {
        let [plain, secure] = [false, true].map(|is_https| cookie("1f", is_https));
        for cookie in [&plain, &secure] {
            assert!(
                cookie.contains("=1f; Path=/; HttpOnly; SameSite=Strict; Max-Age=43200"),
                "{cookie}"
            );
        }
        assert!(
            secure.starts_with("__Host-")
                && secure.ends_with("; Secure")
                && !plain.contains("Secure")
        );
        assert!(cookie("", false).contains("Max-Age=0"));
    }
}
