//! Parts that the pages of both services share: asset files, and security headers.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, header::HeaderName};
use axum::response::{IntoResponse as _, Response};

use super::Problem;
use crate::hash::hash64;

/// An asset file that is part of the program. Its name contains a hash of its content, so that
/// browsers can cache it forever and never use an old version.
pub struct Asset {
    /// `page-0123456789abcdef.css`
    pub name: String,
    pub content: &'static str,
    content_type: &'static str,
}

impl Asset {
    pub fn new(stem: &str, extension: &str, content: &'static str) -> Self {
        let content_type = match extension {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "application/octet-stream",
        };
        Self {
            name: format!("{stem}-{:016x}.{extension}", hash64(content)),
            content,
            content_type,
        }
    }

    /// Responds to a request for a file. While programs are replaced, one process may serve a page
    /// and another its files. A process that does not have the requested version returns its own,
    /// uncacheable.
    pub fn serve(all: &[&Self], file: &str) -> Result<Response, Problem> {
        let no_file = || Problem::not_found("there is no such file");
        let wanted = stem_and_extension(file).ok_or_else(no_file)?;
        let mut assets = all.iter();
        let asset = assets
            .find(|asset| stem_and_extension(&asset.name) == Some(wanted))
            .ok_or_else(no_file)?;
        let caching = if asset.name == file {
            "public, max-age=31536000, immutable"
        } else {
            "no-store"
        };
        let headers = [(CONTENT_TYPE, asset.content_type), (CACHE_CONTROL, caching)];
        Ok((headers, asset.content).into_response())
    }
}

fn stem_and_extension(name: &str) -> Option<(&str, &str)> {
    Some((name.split_once('-')?.0, name.rsplit_once('.')?.1))
}

/// Sets the security headers of a page. `content` is the content security policy.
pub fn secure(response: &mut Response, content: &'static str, referrer: &'static str) {
    let headers: [(HeaderName, &'static str); 3] = [
        (CONTENT_SECURITY_POLICY, content),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, referrer),
    ];
    response
        .headers_mut()
        .extend(headers.map(|(name, value)| (name, HeaderValue::from_static(value))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asset_is_cached_forever_only_under_its_own_hash() {
        let script = Asset::new("page", "js", "1");
        let style = Asset::new("page", "css", "a {}");
        let all = [&script, &style];
        let caching = |file: &str| {
            let found = Asset::serve(&all, file).ok()?;
            Some(found.headers()[CACHE_CONTROL].clone())
        };
        let own = caching(&style.name).unwrap();
        assert_eq!(own, "public, max-age=31536000, immutable");
        let other_version = caching("page-0000000000000000.css");
        assert_eq!(other_version.unwrap(), "no-store");
        for other in ["", "page", "page-0.html", "other.css", "..%2fpage-0.css"] {
            assert_eq!(caching(other), None, "{other:?}");
        }
    }
}
