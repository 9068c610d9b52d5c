//! A coupon's revision as its `ETag`, and the conditions on it (RFC 9110). The revision covers the
//! settings of the coupon, but not the remaining slots.

use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse as _, Response};
use firstcome_shared::http::Problem;
use firstcome_shared::http::headers::{GivenTwice, only_value};
use firstcome_shared::http::problem::Code;

use super::extract::invalid;

pub(in crate::serve) fn of(revision: u64) -> [(HeaderName, String); 1] {
    [(ETAG, format!("\"{revision}\""))]
}

/// Returns the revision that a change requires, or `None` if any revision is allowed.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let bad = || invalid("If-Match must be one ETag as GET gives it, such as \"7\", or *");
    let Some(value) = only_value(headers, IF_MATCH).map_err(|GivenTwice| bad())? else {
        return Ok(None);
    };
    let text = value.to_str().ok().map(str::trim).ok_or_else(bad)?;
    if text == "*" {
        return Ok(None);
    }
    revision(text).ok_or_else(bad).map(Some)
}

/// Parses a strong tag exactly as [`of`] writes it.
fn revision(tag: &str) -> Option<u64> {
    let digits = tag.strip_prefix('"')?.strip_suffix('"')?;
    digits
        .parse()
        .ok()
        .filter(|revision: &u64| revision.to_string() == digits)
}

/// Builds the 412 response, with the current revision.
pub(super) fn changed_meanwhile(revision: u64) -> Response {
    let detail =
        "the coupon was changed since you read it; read it again, and nothing was changed here";
    let problem = Problem::new(Code::ChangedMeanwhile, detail);
    (of(revision), problem.with("revision", revision)).into_response()
}

/// Whether the client already has this revision. Weak tags match, as the standard requires.
pub(in crate::serve) fn is_known(headers: &HeaderMap, revision: u64) -> bool {
    let tags = headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value: &HeaderValue| value.to_str().ok());
    let own = format!("\"{revision}\"");
    tags.flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        values
            .iter()
            .map(|value| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn if_match_accepts_one_strong_tag_or_a_star() {
        let read = |values: &[&'static str]| {
            if_match(&with(&IF_MATCH, values)).map_err(|problem| problem.code())
        };
        assert_eq!(read(&["\"7\""]), Ok(Some(7)));
        assert_eq!(read(&[" \"0\" "]), Ok(Some(0)));
        assert_eq!((read(&["*"]), read(&[])), (Ok(None), Ok(None)));
        assert_eq!(read(&["\"7\"", "\"7\""]), Err("invalid"));
        for bad in
            "7|W/\"7\"|\"07\"|\"+7\"|\"7\", \"8\"||\"x\"|\"18446744073709551616\"|\"".split('|')
        {
            assert_eq!(read(&[bad]), Err("invalid"), "{bad:?}");
        }
    }

    #[test]
    fn if_none_match_matches_any_of_several_tags() {
        for values in [
            &["\"7\""] as &[&'static str],
            &["W/\"7\""],
            &["\"6\", \"7\""],
            &["\"6\"", "\"7\""],
            &["*"],
        ] {
            assert!(is_known(&with(&IF_NONE_MATCH, values), 7), "{values:?}");
        }
        for values in [&["\"6\""] as &[&'static str], &["7"], &["\"77\""], &[]] {
            assert!(!is_known(&with(&IF_NONE_MATCH, values), 7), "{values:?}");
        }
    }
}
