//! The page as HTML. Its texts come from operators and from [`WORDS`]; askama escapes both.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use askama::Template;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT_LANGUAGE;
use chrono::{DateTime, SecondsFormat, Utc};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::page::Asset;

use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;

pub(super) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page", "js", include_str!("page.js")));
pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page", "css", include_str!("page.css")));
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("page", "svg", include_str!("page.svg")));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Korean,
}

impl Language {
    /// Returns the first accepted language, because browsers name the preferred one first; English
    /// if neither is accepted.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let wishes = headers.get(ACCEPT_LANGUAGE);
        let wishes = wishes
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let of_wish = |wish: &str| match wish.trim().split(['-', ';']).next()? {
            tag if tag.eq_ignore_ascii_case("ko") => Some(Self::Korean),
            tag if tag.eq_ignore_ascii_case("en") => Some(Self::English),
            _ => None,
        };
        wishes.split(',').find_map(of_wish).unwrap_or(Self::English)
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

#[derive(Template)]
#[template(path = "page.html")]
struct CouponPageHtml<'a> {
    language: Language,
    id: CouponId,
    name: &'a str,
    quantity: String,
    /// The opening as a timestamp and as text, for browsers without JavaScript.
    opens: Option<(String, String)>,
    wants_token: bool,
    words: Vec<(&'static str, &'static str)>,
    script: &'a str,
    style: &'a str,
    icon: &'a str,
}

#[derive(Template)]
#[template(path = "notice.html")]
struct NoticePage<'a> {
    language: Language,
    title: &'a str,
    sentence: &'a str,
    style: &'a str,
    icon: &'a str,
}

/// Renders the page of a coupon, with the data that rarely changes. Its script requests the rest.
pub(super) fn coupon(
    coupon: &CouponWithDrops,
    now: DateTime<Utc>,
    language: Language,
    wants_token: bool,
) -> askama::Result<String> {
    let drop = coupon.for_claim(now).map(|one| one.drop);
    let quantity = drop.map_or(coupon.coupon.quantity, |drop| drop.quantity);
    let opens = drop.map(|drop| drop.opens_at);
    let opens = opens.map(|at| {
        let instant = at.to_rfc3339_opts(SecondsFormat::Secs, true);
        (instant, at.format("%Y-%m-%d %H:%M UTC").to_string())
    });
    let word = |key: &'static String| (key.as_str(), language.word(key));
    let page = CouponPageHtml {
        language,
        id: coupon.coupon.id,
        name: &coupon.coupon.name,
        quantity: language.word("quantity").replace("{n}", &grouped(quantity)),
        opens,
        wants_token,
        words: WORDS.keys().map(word).collect(),
        script: &SCRIPT.name,
        style: &STYLE.name,
        icon: &ICON.name,
    };
    page.render()
}

/// Renders a page with only a notice; `words` is the key of its title.
pub(super) fn notice(words: &str, language: Language) -> askama::Result<String> {
    NoticePage {
        language,
        title: language.word(words),
        sentence: language.word(&format!("{words}_why")),
        style: &STYLE.name,
        icon: &ICON.name,
    }
    .render()
}

/// Groups digits as in `1,000,000`, the format of both languages.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    let groups: Vec<_> = groups.map(String::from_utf8_lossy).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;
    use crate::serve::catalogue::coupon_with_drops::tests::{at, coupon as with_drops};

    fn page(name: &str, language: Language) -> String {
        let mut one = with_drops(&[(10, 20)]);
        one.coupon.settings.name = name.into();
        coupon(&one, at(0), language, true).unwrap()
    }

    #[tokio::test]
    async fn escapes_the_name_of_the_coupon() {
        let html = page(
            "<script>alert(1)</script>\" onload='x' & {n} </main>",
            Language::English,
        );
        assert_eq!(html.matches("<script").count(), 1, "{html}");
        for raw in ["alert(1)</script>", "\" onload", "' &"] {
            assert!(!html.contains(raw), "{raw}: {html}");
        }
        assert_eq!(html.matches("</main>").count(), 1, "{html}");
        assert!(html.contains("&#60;script&#62;alert(1)"), "{html}");
    }

    #[tokio::test]
    async fn page_is_small_and_has_no_inline_or_foreign_content() {
        let html = page(&"<".repeat(200), Language::Korean);
        for forbidden in [
            "style=",
            "onclick",
            "onload",
            "http:",
            "https:",
            "javascript:",
        ] {
            assert!(!html.contains(forbidden), "{forbidden}: {html}");
        }
        let all = html.len() + SCRIPT.content.len() + STYLE.content.len() + ICON.content.len();
        assert!(all <= 32_000, "{all} bytes");
    }

    #[tokio::test]
    async fn both_languages_have_all_words_of_the_page() {
        for language in [Language::English, Language::Korean] {
            let html = page("Winter", language);
            assert!(
                html.contains(&format!("<html lang=\"{}\"", language.tag())),
                "{html}"
            );
            assert!(
                html.contains(language.word("no_script")) && html.contains("1970-01-01 00:10 UTC"),
                "{html}"
            );
            assert!(
                notice("missing", language)
                    .unwrap()
                    .contains(language.word("missing"))
            );
        }
        let used = SCRIPT
            .content
            .split("say(\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next());
        let mut uses = 0;
        for key in used {
            assert!(WORDS.contains_key(key), "page.js says {key}");
            uses += 1;
        }
        assert!(uses > 20, "{uses}");
        for (key, [english, korean]) in &*WORDS {
            assert!(!english.is_empty() && !korean.is_empty(), "{key}");
            let places =
                |text: &str| ["{n}", "{total}", "{time}"].map(|place| text.contains(place));
            assert_eq!(places(english), places(korean), "{key}");
        }
    }

    #[test]
    fn groups_digits_of_large_numbers() {
        assert_eq!(
            [0, 999, 1_000, 1_000_000].map(grouped),
            ["0", "999", "1,000", "1,000,000"]
        );
    }

    #[test]
    fn chooses_the_first_accepted_language() {
        let of = |value: &'static str| {
            let headers = [(ACCEPT_LANGUAGE, HeaderValue::from_static(value))]
                .into_iter()
                .collect();
            Language::of(&headers).tag()
        };
        for korean in ["ko", "ko-KR,ko;q=0.9,en-US;q=0.8", "fr, KO;q=0.2"] {
            assert_eq!(of(korean), "ko", "{korean}");
        }
        for english in ["", "en", "fr", "*", "en-GB, ko;q=0.9", "kok"] {
            assert_eq!(of(english), "en", "{english}");
        }
        assert_eq!(Language::of(&HeaderMap::new()), Language::English);
    }
}
