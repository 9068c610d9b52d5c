//! A coupon's revision as its `ETag`, and the conditions on it (RFC 9110). The revision covers the
//! settings of the coupon, but not the remaining slots.

use axum::http::header::{ETAG, IF_MATCH};
use axum::http::{HeaderMap, HeaderName};
use firstcome_shared::http::Problem;
use firstcome_shared::http::headers::{GivenTwice, only_value};
use firstcome_shared::http::problem::Code;

use super::extract::invalid;

pub(super) fn header(revision: u64) -> [(HeaderName, String); 1] {
    [(ETAG, format!("\"{revision}\""))]
}

/// Returns the revision that a change requires, or `None` if any revision is allowed. Accepts a tag
/// exactly as [`header`] writes it, also if a proxy that compresses has made it weak (`W/"7"`): the
/// number alone says which settings the client has read.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let bad = || invalid("If-Match must be one ETag as GET gives it, such as \"7\", or *");
    let Some(value) = only_value(headers, IF_MATCH).map_err(|GivenTwice| bad())? else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(None);
    }
    let tag = text.strip_prefix("W/").unwrap_or(text);
    tag.trim_matches('"')
        .parse()
        .ok()
        .filter(|revision| format!("\"{revision}\"") == tag)
        .ok_or_else(bad)
        .map(Some)
}

/// Builds the 412 response, with the current revision.
pub(super) fn changed_meanwhile(revision: u64) -> Problem {
    let detail =
        "the coupon was changed since you read it; read it again, and nothing was changed here";
    Problem::new(Code::ChangedMeanwhile, detail).with("revision", revision)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn if_match_accepts_one_tag_or_a_star() {
        let read = |values: &[&'static str]| {
            let values = values
                .iter()
                .map(|value| (IF_MATCH, HeaderValue::from_static(value)));
            if_match(&values.collect()).map_err(|problem| problem.code())
        };
        assert_eq!(read(&["\"7\""]), Ok(Some(7)));
        assert_eq!(read(&[" \"0\" "]), Ok(Some(0)));
        assert_eq!(
            read(&["W/\"7\""]),
            Ok(Some(7)),
            "as nginx gives it with gzip"
        );
        assert_eq!((read(&["*"]), read(&[])), (Ok(None), Ok(None)));
        assert_eq!(read(&["\"7\"", "\"7\""]), Err("invalid"));
        for bad in
            "7|W/7|w/\"7\"|W/W/\"7\"|\"07\"|\"+7\"|\"7\", \"8\"||\"x\"|\"18446744073709551616\"|\""
                .split('|')
        {
            assert_eq!(read(&[bad]), Err("invalid"), "{bad:?}");
        }
    }
}
