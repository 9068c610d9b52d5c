//! Lists of user ids in request bodies.

use std::collections::HashSet;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use firstcome_shared::domain::UserId;
use firstcome_shared::http::Problem;

use crate::serve::routes::extract::{MAX_LIST_BYTES, invalid, too_large};
use crate::serve::state::App;

/// Maximum number of users in one request. One script processes them, and blocks Redis for some
/// milliseconds.
pub(super) const MAX_PEOPLE: usize = 10_000;

/// User ids without duplicates.
pub(crate) struct PeopleBody(pub(super) Vec<UserId>);

impl FromRequest<App> for PeopleBody {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
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
        let bytes = Bytes::from_request(request, app)
            .await
            .map_err(|rejection| match rejection.status() {
                StatusCode::PAYLOAD_TOO_LARGE => too_large(MAX_LIST_BYTES),
                _ => invalid("the body could not be read"),
            })?;
        people(&bytes, is_json).map(Self).map_err(invalid)
    }
}

/// Parses one ID per line, or a JSON array (no ID begins with `[`). A body declared as JSON must be
/// an array. Otherwise, `null` would be read as an ID of four letters.
fn people(bytes: &[u8], is_json: bool) -> Result<Vec<UserId>, String> {
    let is_json = is_json || bytes.trim_ascii_start().starts_with(b"[");
    let (ids, place): (Vec<String>, _) = if is_json {
        // Leave out the parser's message, which repeats values of the body.
        let ids = serde_json::from_slice(bytes).map_err(|error| {
            format!(
                "the body is not a JSON array of strings: line {}, column {}",
                error.line(),
                error.column()
            )
        });
        (ids?, "id")
    } else {
        let text = String::from_utf8_lossy(bytes);
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let lines = if text.is_empty() {
            Vec::new()
        } else {
            text.split('\n').collect()
        };
        (
            lines
                .into_iter()
                .map(|line| line.strip_suffix('\r').unwrap_or(line).to_owned())
                .collect(),
            "line",
        )
    };
    if ids.is_empty() || ids.len() > MAX_PEOPLE {
        return Err(format!(
            "give 1 to {MAX_PEOPLE} ids in one request, not {}; send more in parts",
            ids.len()
        ));
    }
    let parse = |(at, id): (usize, String)| {
        id.parse::<UserId>()
            .map_err(|error| format!("{place} {}: {error}", at + 1))
    };
    let ids: HashSet<UserId> = ids
        .into_iter()
        .enumerate()
        .map(parse)
        .collect::<Result<_, _>>()?;
    Ok(ids.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: impl AsRef<[u8]>) -> Result<Vec<String>, String> {
        let mut ids: Vec<String> = people(body.as_ref(), false)?
            .into_iter()
            .map(String::from)
            .collect();
        ids.sort_unstable();
        Ok(ids)
    }

    #[test]
    fn parses_ids_one_per_line_or_from_a_json_array() {
        for body in [
            "a\nb",
            "a\nb\n",
            "a\r\nb\r\n",
            "b\na\na\n",
            "[\"a\", \"b\"]",
            " \n [\"b\",\"a\",\"a\"]\n",
        ] {
            assert_eq!(read(body), Ok(vec!["a".into(), "b".into()]), "{body:?}");
        }
        assert_eq!(
            read("a|b:c=d+e@f.g_h-1"),
            Ok(vec!["a|b:c=d+e@f.g_h-1".into()])
        );
    }

    #[test]
    fn one_invalid_id_rejects_the_list_and_is_located() {
        let bytes = |bytes: &[u8]| read(bytes).unwrap_err();
        for (body, said) in [
            ("a\nb c\nd", "line 2: "),
            ("a\n\nb", "line 2: "),
            ("a\nb\n\n", "line 3: "),
            ("\u{feff}a", "line 1: "),
            ("a\t", "line 1: "),
            ("a,b", "line 1: "),
            ("[\"a\", \"b c\"]", "id 2: "),
            (
                "[\"a\", 7]",
                "not a JSON array of strings: line 1, column 7",
            ),
            ("[\"a\"", "not a JSON array"),
            ("[]", "1 to 10000"),
            ("", "1 to 10000"),
            ("\n", "1 to 10000"),
            (&format!("a\n{}", "x".repeat(65)), "line 2: "),
        ] {
            assert!(
                bytes(body.as_bytes()).contains(said),
                "{body:?}: {}",
                bytes(body.as_bytes())
            );
        }
        for odd in [
            &b"a\n\xff\n"[..],
            b"a\nb\0\n",
            b"a\n\xe2\x82\n",
            "a\nü\n".as_bytes(),
        ] {
            assert!(bytes(odd).starts_with("line 2: "), "{odd:?}");
        }
        let secret = bytes(b"a\nalice@example.com secret\n");
        assert!(
            !secret.contains("alice"),
            "the error repeats an id: {secret}"
        );
    }

    #[test]
    fn json_body_must_be_an_array() {
        assert_eq!(people(b"null", false).map(|ids| ids.len()), Ok(1));
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
        assert_eq!(read(body(10_000)).unwrap().len(), 10_000);
        assert!(read(body(10_001)).unwrap_err().contains("10001"));
    }
}
