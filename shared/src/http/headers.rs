//! Reads headers that may occur only once.

use axum::http::header::AsHeaderName;
use axum::http::{HeaderMap, HeaderValue};

/// A header occurred more than once. A proxy in front may have used a different value than this
/// process would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenTwice;

/// Returns the only value of a header, or `None` if the header is absent.
pub fn only_value(
    headers: &HeaderMap,
    name: impl AsHeaderName,
) -> Result<Option<&HeaderValue>, GivenTwice> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (_, Some(_)) => Err(GivenTwice),
        (one, None) => Ok(one),
    }
}
