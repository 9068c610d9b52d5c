//! Lists of user ids in request bodies.

use axum::extract::{FromRequest, Request};
use axum::http::header;
use firstcome_shared::domain::UserId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::json::without_mark;

use crate::serve::routes::extract::{MAX_LIST_BYTES, body, invalid};
use crate::serve::state::App;
use crate::user_list::{self, UserList};

/// Maximum number of users in one request. One script processes them, and blocks Redis for some
/// milliseconds.
pub(super) const MAX_PEOPLE: usize = 10_000;

pub(crate) struct PeopleBody(pub(super) UserList);

impl FromRequest<App> for PeopleBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &App) -> Result<Self, Problem> {
        let media_type = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let is_json = media_type.is_some_and(|value| {
            value
                .trim_start()
                .to_ascii_lowercase()
                .starts_with("application/json")
        });
        let bytes = body(request, MAX_LIST_BYTES).await?;
        people(&bytes, is_json).map(Self).map_err(invalid)
    }
}

/// Parses a text, or a JSON array (no ID begins with `[`). A body declared as JSON must be an
/// array. Otherwise, `null` would be read as an ID of four letters.
fn people(bytes: &[u8], is_json: bool) -> Result<UserList, String> {
    let bytes = without_mark(bytes);
    let list = if is_json || bytes.trim_ascii_start().starts_with(b"[") {
        json(bytes)?
    } else {
        user_list::parse(bytes)?
    };
    if (1..=MAX_PEOPLE).contains(&list.lines) {
        return Ok(list);
    }
    Err(format!(
        "give 1 to {MAX_PEOPLE} ids in one request, not {}; send more in parts",
        list.lines
    ))
}

fn json(bytes: &[u8]) -> Result<UserList, String> {
    // Leave out the parser's message, which repeats values of the body.
    let ids: Vec<String> = serde_json::from_slice(bytes).map_err(|error| {
        format!(
            "the body is not a JSON array of strings: line {}, column {}",
            error.line(),
            error.column()
        )
    })?;
    let parse = |(at, id): (usize, String)| {
        id.parse::<UserId>()
            .map_err(|error| format!("id {}: {error}", at + 1))
    };
    let ids: Result<Vec<_>, _> = ids.into_iter().enumerate().map(parse).collect();
    Ok(UserList::new(ids?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_is_a_text_or_a_json_array() {
        for body in [
            "a\nb",
            "[\"a\", \"b\"]",
            " \n [\"a\",\"b\",\"a\"]\n",
            "\u{feff}[\"a\",\"b\"]",
        ] {
            let list = people(body.as_bytes(), false).unwrap();
            let ids: Vec<_> = list.users.iter().map(UserId::as_str).collect();
            assert_eq!(ids, ["a", "b"], "{body:?}");
        }
        for (body, says) in [
            ("[\"a\", \"b c\"]", "id 2: "),
            (
                "[\"a\", 7]",
                "not a JSON array of strings: line 1, column 7",
            ),
            ("[\"a\"", "not a JSON array"),
            ("[]", "1 to 10000"),
            ("", "1 to 10000"),
            ("\n", "1 to 10000"),
            ("user_id\n", "1 to 10000"),
        ] {
            let refused = people(body.as_bytes(), false).unwrap_err();
            assert!(refused.contains(says), "{body:?}: {refused}");
        }
    }

    #[test]
    fn json_body_must_be_an_array() {
        assert_eq!(people(b"null", false).map(|list| list.lines), Ok(1));
        for body in ["null", "a", "\"a\"", "7", "{}", ""] {
            assert!(
                people(body.as_bytes(), true)
                    .unwrap_err()
                    .contains("not a JSON array"),
                "{body:?}"
            );
        }
    }

    #[test]
    fn limits_a_request_to_ten_thousand_ids() {
        let body = |people: usize| {
            (0..people)
                .map(|n| format!("u-{n}\n"))
                .collect::<Vec<_>>()
                .concat()
        };
        let read = |ids: usize| people(body(ids).as_bytes(), false);
        assert_eq!(read(10_000).unwrap().users.len(), 10_000);
        assert!(read(10_001).unwrap_err().contains("10001"));
    }
}
