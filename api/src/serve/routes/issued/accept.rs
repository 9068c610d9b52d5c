//! Chooses JSON or CSV by `Accept` (RFC 9110).

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;

/// Whether the client prefers CSV. Without a preference, it gets JSON.
pub(super) fn wants_csv(headers: &HeaderMap) -> Result<bool, Problem> {
    let values: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    let ranges = values.join(",");
    if ranges.trim().is_empty() {
        return Ok(false);
    }
    let [json, csv] = ["application/json", "text/csv"].map(|kind| quality(&ranges, kind));
    if json <= 0.0 && csv <= 0.0 {
        let detail = "the response is application/json or text/csv; accept one of them";
        return Err(Problem::new(Code::NotAcceptable, detail));
    }
    Ok(csv > json)
}

/// Returns the quality of a media type, from the most specific range that matches it.
fn quality(ranges: &str, kind: &str) -> f32 {
    let any_of_its_sort = kind
        .split('/')
        .next()
        .map(|sort| format!("{sort}/*"))
        .unwrap_or_default();
    let found = ranges.split(',').filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next()?.to_ascii_lowercase();
        let exactness = [
            String::from("*/*"),
            any_of_its_sort.clone(),
            kind.to_owned(),
        ]
        .iter()
        .position(|n| *n == name)?;
        let quality =
            parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
        Some((exactness, quality.map_or(1.0, |q| q.parse().unwrap_or(0.0))))
    });
    found
        .max_by(|a, b| a.0.cmp(&b.0))
        .map_or(0.0, |(_, quality)| quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chooses_csv_only_if_the_client_prefers_it() {
        for (accept, expected) in [
            (None, Some(false)),
            (Some(""), Some(false)),
            (Some("*/*"), Some(false)),
            (Some("application/json"), Some(false)),
            (Some("text/csv"), Some(true)),
            (Some("TEXT/CSV; charset=utf-8"), Some(true)),
            (Some("text/*"), Some(true)),
            (Some("text/csv, application/json"), Some(false)),
            (Some("text/csv, application/json;q=0.9"), Some(true)),
            (Some("text/csv, */*;q=0.1"), Some(true)),
            (Some("text/csv;q=0, */*"), Some(false)),
            (Some("image/png"), None),
            (Some("text/csv;q=0"), None),
        ] {
            let mut headers = HeaderMap::new();
            headers.extend(accept.map(|accept| (ACCEPT, accept.parse().unwrap())));
            assert_eq!(wants_csv(&headers).ok(), expected, "{accept:?}");
        }
    }
}
