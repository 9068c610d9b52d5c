//! The page as HTML. Its texts come from operators and from [`WORDS`]; askama escapes both.

use askama::Template;
use axum::http::StatusCode;
use chrono::{DateTime, SecondsFormat, Utc};
use firstcome_shared::domain::CouponId;

use super::assets::{ICON, SCRIPT, STYLE};
use super::language::{Language, WORDS};
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageNotice {
    Missing,
    Unavailable,
}

impl PageNotice {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Missing => StatusCode::NOT_FOUND,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
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
    let opens = drop.map(|drop| {
        let written = drop.opens_at.format("%Y-%m-%d %H:%M UTC").to_string();
        (
            drop.opens_at.to_rfc3339_opts(SecondsFormat::Secs, true),
            written,
        )
    });
    let page = CouponPageHtml {
        language,
        id: coupon.coupon.id,
        name: &coupon.coupon.name,
        quantity: language.word("quantity").replace("{n}", &grouped(quantity)),
        opens,
        wants_token,
        words: WORDS
            .keys()
            .map(|key| (key.as_str(), language.word(key)))
            .collect(),
        script: &SCRIPT.name,
        style: &STYLE.name,
        icon: &ICON.name,
    };
    page.render()
}

pub(super) fn notice(notice: PageNotice, language: Language) -> askama::Result<String> {
    let (title, sentence) = match notice {
        PageNotice::Missing => ("missing", "missing_why"),
        PageNotice::Unavailable => ("unavailable", "unavailable_why"),
    };
    NoticePage {
        language,
        title: language.word(title),
        sentence: language.word(sentence),
        style: &STYLE.name,
        icon: &ICON.name,
    }
    .render()
}

/// Groups digits as in `1,000,000`, the format of both languages.
fn grouped(number: u32) -> String {
    let digits = number.to_string();
    let groups: Vec<_> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(String::from_utf8_lossy)
        .collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
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
                notice(PageNotice::Missing, language)
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
}
