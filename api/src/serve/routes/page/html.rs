//! The page as HTML. Its texts come from operators and from [`WORDS`]; askama escapes both.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use askama::Template;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT_LANGUAGE;
use chrono::{DateTime, Utc};
use firstcome_shared::domain::CouponId;
use firstcome_shared::http::page::Asset;
use firstcome_shared::report::wording::grouped;

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
    /// Returns the first accepted language that the page has, because browsers name the preferred
    /// one first; English if there is none.
    pub(super) fn from_headers(headers: &HeaderMap) -> Self {
        let wishes = headers
            .get(ACCEPT_LANGUAGE)
            .and_then(|wishes| wishes.to_str().ok())
            .unwrap_or_default()
            .to_ascii_lowercase();
        let mut tags = wishes
            .split(',')
            .map(|wish| wish.trim().split(['-', ';']).next());
        match tags.find(|tag| matches!(tag, Some("ko" | "en"))) {
            Some(Some("ko")) => Self::Korean,
            _ => Self::English,
        }
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

/// Keys that the script does not use.
const SERVER_ONLY: [&str; 7] = [
    "quantity",
    "quantity_one",
    "no_script",
    "missing",
    "missing_why",
    "unavailable",
    "unavailable_why",
];

/// The content of a page below its title.
enum PageBody {
    Notice(&'static str),
    /// The data that rarely changes. The script requests the rest.
    Coupon {
        id: CouponId,
        quantity: String,
        /// For browsers without JavaScript.
        opens: Option<DateTime<Utc>>,
        wants_token: bool,
    },
}

#[derive(Template)]
#[template(path = "page.html")]
struct PageHtml<'a> {
    language: Language,
    title: &'a str,
    body: PageBody,
}

/// Renders the page of a coupon.
pub(super) fn coupon(
    coupon: &CouponWithDrops,
    now: DateTime<Utc>,
    language: Language,
    wants_token: bool,
) -> askama::Result<String> {
    let drop = coupon.for_claim(now).map(|one| one.drop);
    let quantity = drop.map_or(coupon.coupon.quantity, |drop| drop.quantity);
    let page = PageHtml {
        language,
        title: &coupon.coupon.name,
        body: PageBody::Coupon {
            id: coupon.coupon.id,
            quantity: match quantity {
                1 => language.word("quantity_one").to_owned(),
                many => {
                    let many = grouped(u64::from(many));
                    language.word("quantity").replace("{n}", &many)
                }
            },
            opens: drop.map(|drop| drop.opens_at),
            wants_token,
        },
    };
    page.render()
}

/// Renders a page with only a notice; `words` is the key of its title.
pub(super) fn notice(words: &str, language: Language) -> askama::Result<String> {
    let page = PageHtml {
        language,
        title: language.word(words),
        body: PageBody::Notice(language.word(&format!("{words}_why"))),
    };
    page.render()
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
    async fn name_of_the_coupon_is_escaped() {
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
        let html = page(&"가".repeat(200), Language::Korean);
        let all = html.len() + SCRIPT.content.len() + STYLE.content.len() + ICON.content.len();
        assert!(all <= 32 * 1024, "{all} bytes");
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
            assert!(!SERVER_ONLY.contains(&key), "page.js says {key}");
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
    fn first_accepted_language_is_chosen() {
        let of = |value: &'static str| {
            let headers = [(ACCEPT_LANGUAGE, HeaderValue::from_static(value))]
                .into_iter()
                .collect();
            Language::from_headers(&headers).tag()
        };
        for korean in ["ko", "ko-KR,ko;q=0.9,en-US;q=0.8", "fr, KO;q=0.2"] {
            assert_eq!(of(korean), "ko", "{korean}");
        }
        for english in ["", "en", "fr", "*", "en-GB, ko;q=0.9", "kok"] {
            assert_eq!(of(english), "en", "{english}");
        }
        assert_eq!(Language::from_headers(&HeaderMap::new()), Language::English);
    }
}
