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
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    text: [u8; LONGEST],
    length: u8,
}

/// Returns the id of the request that the current task handles.
pub fn current() -> Option<RequestId> {
    CURRENT.try_with(|id| *id).ok()
}

impl RequestId {
    /// Returns the id in the request if there is exactly one and it is valid. Otherwise creates
    /// one.
    pub fn of(headers: &HeaderMap) -> Self {
        let only = only_value(headers, REQUEST_ID).ok().flatten();
        only.and_then(|given| Self::parse(given.as_bytes()))
            .unwrap_or_else(Self::random)
    }

    fn parse(given: &[u8]) -> Option<Self> {
        let is_well_formed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._:=+/@".contains(byte);
        if given.is_empty() || !given.iter().all(is_well_formed) {
            return None;
        }
        let mut text = [0; LONGEST];
        text.get_mut(..given.len())?.copy_from_slice(given);
        Some(Self {
            text,
            length: u8::try_from(given.len()).ok()?,
        })
    }

    fn random() -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; LONGEST];
        let mut number: u64 = rand::random();
        for digit in &mut text[..16] {
            *digit = DIGITS[(number & 15) as usize];
            number >>= 4;
        }
        Self { text, length: 16 }
    }

    pub fn as_str(&self) -> &str {
        let text = self
            .text
            .get(..usize::from(self.length))
            .unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }

    /// Runs `work` with this id as [`current`].
    pub(super) fn within<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self, work)
    }

    pub(super) fn write(&self, headers: &mut HeaderMap) {
        if let Ok(value) = HeaderValue::from_str(self.as_str()) {
            headers.insert(REQUEST_ID, value);
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(given: &[u8]) -> String {
        let headers = HeaderMap::from_iter([(REQUEST_ID, HeaderValue::from_bytes(given).unwrap())]);
        RequestId::of(&headers).as_str().to_owned()
    }

    #[test]
    fn valid_request_id_is_kept_and_any_other_is_replaced() {
        let longest = "x".repeat(LONGEST);
        for good in [
            "1",
            "Root=1-67891233-abcdef012345678912345678",
            "a/b+c=",
            &longest,
        ] {
            assert_eq!(of(good.as_bytes()), good);
        }
        for bad in ["", "a b", "a\"b", "a\\b", "ü", &format!("{longest}x")] {
            let made = of(bad.as_bytes());
            assert!(
                made.len() == 16 && made.bytes().all(|digit| digit.is_ascii_hexdigit()),
                "{bad:?} {made}"
            );
        }
        let two = HeaderMap::from_iter(
            ["one", "two"].map(|id| (REQUEST_ID, HeaderValue::from_static(id))),
        );
        assert_eq!(RequestId::of(&two).as_str().len(), 16);
        let made = || RequestId::of(&HeaderMap::new());
        assert_ne!(made(), made());
    }
}
