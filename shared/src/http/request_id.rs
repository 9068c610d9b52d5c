//! Request ids: returned in the `x-request-id` of each response, and logged with each line about
//! the request.

use std::fmt;

use axum::http::{HeaderMap, HeaderName, HeaderValue};

use super::headers::only_value;

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum length of an id accepted from a request.
const LONGEST: usize = 64;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// A request id: letters, digits, and characters without a special meaning in text or JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(HeaderValue);

/// Returns the id of the request that the current task handles.
pub fn current() -> Option<RequestId> {
    CURRENT.try_with(RequestId::clone).ok()
}

impl RequestId {
    /// Returns the id in the request if there is exactly one and it is valid. Otherwise creates
    /// one.
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let only = only_value(headers, REQUEST_ID).ok().flatten();
        only.filter(|given| {
            (1..=LONGEST).contains(&given.len())
                && given
                    .as_bytes()
                    .iter()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._:=+/@".contains(byte))
        })
        .map_or_else(Self::random, |given| Self(given.clone()))
    }

    fn random() -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        // `format!` would cost more, and every request needs an id.
        let digits = rand::random::<[u8; 16]>().map(|byte| DIGITS[usize::from(byte % 16)]);
        Self(HeaderValue::from_bytes(&digits).unwrap_or(HeaderValue::from_static("-")))
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// Runs `work` with this id as [`current`].
    pub(super) fn within<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    pub(super) fn write(self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.0);
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(given: &[u8]) -> String {
        let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(given).unwrap())]);
        RequestId::from_headers(&headers).as_str().to_owned()
    }

    #[test]
    fn valid_request_id_is_kept_and_any_other_is_replaced() {
        let longest = "x".repeat(LONGEST);
        let amazon = "Root=1-67891233-abcdef012345678912345678";
        for good in ["1", amazon, "a/b+c=", &longest] {
            assert_eq!(accepted(good.as_bytes()), good);
        }
        for bad in ["", "a b", "a\"b", "a\\b", "ü", &format!("{longest}x")] {
            let made = accepted(bad.as_bytes());
            let is_hex = made.bytes().all(|digit| digit.is_ascii_hexdigit());
            assert!(made.len() == 16 && is_hex, "{bad:?} {made}");
        }
        let two = HeaderMap::from_iter(
            ["one", "two"].map(|id| (REQUEST_ID, HeaderValue::from_static(id))),
        );
        assert_eq!(RequestId::from_headers(&two).as_str().len(), 16);
        let made = || RequestId::from_headers(&HeaderMap::new());
        assert_ne!(made(), made());
    }
}
