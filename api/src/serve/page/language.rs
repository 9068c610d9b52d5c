//! The page's texts in both languages.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_LANGUAGE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Korean,
}

impl Language {
    /// Returns the user's preferred language; English if neither is accepted.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let wishes = headers
            .get(ACCEPT_LANGUAGE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let mut best = (Self::English, 0.0);
        for wish in wishes.split(',') {
            let mut parts = wish.split(';').map(str::trim);
            let language = match parts.next().and_then(|tag| tag.split('-').next()) {
                Some(tag) if tag.eq_ignore_ascii_case("ko") => Self::Korean,
                Some(tag) if tag.eq_ignore_ascii_case("en") => Self::English,
                _ => continue,
            };
            let weight: f32 = parts
                .find_map(|part| part.strip_prefix("q="))
                .map_or(1.0, |q| q.parse().unwrap_or(0.0));
            if weight > best.1 {
                best = (language, weight);
            }
        }
        best.0
    }

    pub(super) fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Korean => "ko",
        }
    }

    /// Returns the text for a key, or an empty text if the table lacks it.
    pub(super) fn word(self, key: &str) -> &'static str {
        WORDS.get(key).map_or("", |[english, korean]| match self {
            Self::English => english,
            Self::Korean => korean,
        })
    }
}

/// Key, English and Korean. `{n}`, `{total}` and `{time}` are filled in.
pub(super) static WORDS: LazyLock<BTreeMap<String, [String; 2]>> = LazyLock::new(|| {
    // A test checks that every word of the page is there.
    serde_json::from_str(include_str!("words.json")).unwrap_or_default()
});

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn chooses_the_accepted_language_with_the_highest_weight() {
        let of = |value: &'static str| {
            let headers = [(ACCEPT_LANGUAGE, HeaderValue::from_static(value))]
                .into_iter()
                .collect();
            Language::of(&headers).tag()
        };
        for korean in [
            "ko",
            "ko-KR,ko;q=0.9,en-US;q=0.8",
            "fr, KO;q=0.2",
            "en;q=0.1, ko;q=0.5",
        ] {
            assert_eq!(of(korean), "ko", "{korean}");
        }
        for english in [
            "",
            "en",
            "fr",
            "*",
            "en-GB, ko;q=0.9",
            "ko;q=0",
            "ko;q=nan",
            "kok",
            "ko;q=x, en;q=0.1",
        ] {
            assert_eq!(of(english), "en", "{english}");
        }
        assert_eq!(Language::of(&HeaderMap::new()), Language::English);
    }
}
