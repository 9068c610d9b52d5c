//! The clients of the two HTTP APIs, and the reason if a request is refused or gets no answer.

use std::path::PathBuf;

use axum::Router;
use axum::http::StatusCode;
use firstcome_shared::http::client::HttpClient;
use firstcome_shared::report::wording::capital;
use firstcome_shared::tls::TlsServer;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

/// Why a request was rejected or got no response.
#[derive(Debug)]
pub(crate) struct HttpRefusal {
    pub(crate) status: StatusCode,
    /// The reason. The last full stop may be missing.
    pub(crate) why: String,
}

impl HttpRefusal {
    pub(crate) fn new(status: StatusCode, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { status, why }
    }

    /// Rejects what was typed into a form.
    pub(crate) fn typed(why: &str) -> Self {
        let refused = Self::new(StatusCode::BAD_REQUEST, why);
        let why = format!("{} Nothing was done", refused.sentence());
        Self::new(refused.status, why)
    }

    /// Returns the reason with a capital letter and a full stop.
    pub(crate) fn sentence(&self) -> String {
        let why = capital(&self.why);
        if why.ends_with('.') { why } else { why + "." }
    }
}

/// Encodes a part of a path.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Builds a query string of these parameters, without empty ones.
pub(crate) fn query(parameters: &[(&str, &str)]) -> String {
    let given = parameters.iter().filter(|(_, value)| !value.is_empty());
    let pairs = given
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect::<Vec<_>>()
        .join("&");
    if pairs.is_empty() {
        pairs
    } else {
        format!("?{pairs}")
    }
}

/// The clients of both services.
pub(crate) struct Backends {
    /// The routes of the reconciler.
    pub(crate) reconciler: Router,
    /// The API, if `API_URL` is set.
    pub(crate) api: Option<HttpClient>,
}

impl Backends {
    /// Creates the clients from the reconciler's routes, `API_URL` and a file of additional
    /// certificate authorities.
    pub(crate) fn new(
        reconciler: Router,
        api: Option<(String, Option<PathBuf>)>,
    ) -> anyhow::Result<Self> {
        let api = api
            .map(|(url, ca)| HttpClient::new(TlsServer::Api, &url, ca))
            .transpose()
            .map_err(anyhow::Error::msg)?;
        Ok(Self { reconciler, api })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_omits_empty_parameters_and_encodes_all_but_letters_and_digits() {
        assert_eq!(query(&[("page", ""), ("reason", "")]), "");
        assert_eq!(
            query(&[("page", "2"), ("drop_id", ""), ("reason", "few & odd")]),
            "?page=2&reason=few%20%26%20odd"
        );
        assert_eq!(encoded(".."), "%2E%2E");
    }

    #[test]
    fn reason_becomes_a_sentence_and_keeps_its_full_stops() {
        for (why, sentence) in [
            ("no drop is open", "No drop is open."),
            ("No drop is open.", "No drop is open."),
            ("not a name such as . or ..", "Not a name such as . or .."),
        ] {
            let refusal = HttpRefusal::new(StatusCode::BAD_REQUEST, why);
            assert_eq!(refusal.sentence(), sentence);
        }
    }
}
