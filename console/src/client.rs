//! Client of the two HTTP APIs, which sends the token and the name of the logged-in operator. The
//! reconciler's routes are called in this process with the same requests and responses as over a
//! connection.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use firstcome_shared::http::client::HttpClient;
use firstcome_shared::http::ops::Peer;
use firstcome_shared::report::wording::{LONGEST, capital, line};
use firstcome_shared::tls::Store;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt as _;

use super::text::labelled;

/// Maximum wait for a response of the API.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same for a request with an allow list, which may have 200,000 users.
const LIST_PATIENCE: Duration = Duration::from_secs(25);

/// Maximum number of bytes read of a response. A run may list 10,000 drops.
const BODY: usize = 32 * 1024 * 1024;

/// The operator on whose behalf a request is sent.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) authorization: HeaderValue,
    /// The name that `ops_actions` records.
    pub(crate) name: String,
    /// The address of the browser.
    pub(crate) peer: Option<Peer>,
}

impl Credentials {
    fn request(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Request<Bytes>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, &self.authorization)
            .header("x-operator", HeaderValue::from_bytes(self.name.as_bytes())?);
        if body.is_null() {
            return Ok(request.body(Bytes::new())?);
        }
        let request = request.header(CONTENT_TYPE, "application/json");
        Ok(request.body(Bytes::from(body.to_string()))?)
    }
}

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
        Self::new(StatusCode::BAD_REQUEST, format!("{why} Nothing was done"))
    }

    /// The same for a form, if something could not be read before its change.
    pub(crate) fn before_a_change(self) -> Self {
        let why = format!("{} Nothing was changed", self.sentence());
        Self::new(self.status, why)
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
    reconciler: Router,
    /// The API, if `API_URL` is set.
    api: Option<HttpClient>,
}

impl Backends {
    /// Creates the clients from the reconciler's routes, `API_URL` and a file of additional
    /// certificate authorities.
    pub(crate) fn new(
        reconciler: Router,
        api: Option<(String, Option<PathBuf>)>,
    ) -> anyhow::Result<Self> {
        let api = api
            .map(|(url, ca): (String, _)| HttpClient::new(Store::Api, &url, ca))
            .transpose()
            .map_err(anyhow::Error::msg)?;
        Ok(Self { reconciler, api })
    }

    pub(crate) fn has_api(&self) -> bool {
        self.api.is_some()
    }

    /// Calls a route of the reconciler.
    pub(crate) async fn call_reconciler<T: DeserializeOwned>(
        &self,
        caller: &Credentials,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, HttpRefusal> {
        let exchange = async {
            let mut request = caller.request(method.clone(), path, body)?.map(Body::from);
            // Set the peer, as the server does for a connection.
            if let Some(peer) = caller.peer {
                request.extensions_mut().insert(peer);
            }
            anyhow::Ok(self.reconciler.clone().oneshot(request).await?)
        };
        let answer = exchange.await.map_err(|error| unreadable(&error))?;
        if method == Method::GET && answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            return Err(HttpRefusal::new(answer.status(), NEEDS_A_STORE));
        }
        read("The reconciler", answer).await
    }

    /// Sends a request to the API.
    pub(crate) async fn call_api<T: DeserializeOwned>(
        &self,
        caller: &Credentials,
        method: Method,
        path: &str,
        body: &Value,
        header: Option<(&'static str, String)>,
    ) -> Result<T, HttpRefusal> {
        let answer = self.send_to_api(caller, method, path, body, header).await?;
        read("The API", answer).await
    }

    /// Reads from the API.
    pub(crate) async fn get_from_api<T: DeserializeOwned>(
        &self,
        caller: &Credentials,
        path: &str,
    ) -> Result<T, HttpRefusal> {
        let sent = self.send_to_api(caller, Method::GET, path, &Value::Null, None);
        let answer = sent.await?;
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            return Err(HttpRefusal::new(answer.status(), NEEDS_A_STORE));
        }
        read("The API", answer).await
    }

    /// Sends a body of plain text to the API, and parses the JSON of its answer.
    pub(crate) async fn post_text_to_api<T: DeserializeOwned>(
        &self,
        caller: &Credentials,
        path: &str,
        text: &str,
    ) -> Result<T, HttpRefusal> {
        let api = self
            .api
            .as_ref()
            .ok_or_else(|| HttpRefusal::new(StatusCode::NOT_FOUND, NO_API))?;
        let mut request = caller
            .request(Method::POST, &api.url(path), &Value::Null)
            .map_err(|error| unreadable(&error))?;
        *request.body_mut() = Bytes::from(text.to_owned());
        read("The API", exchange(api, request, LIST_PATIENCE).await?).await
    }

    /// Sends a request to the API, and returns when the head of the response has arrived.
    pub(crate) async fn send_to_api(
        &self,
        caller: &Credentials,
        method: Method,
        path: &str,
        body: &Value,
        header: Option<(&'static str, String)>,
    ) -> Result<Response<Body>, HttpRefusal> {
        let api = self
            .api
            .as_ref()
            .ok_or_else(|| HttpRefusal::new(StatusCode::NOT_FOUND, NO_API))?;
        let mut request = caller
            .request(method, &api.url(path), body)
            .map_err(|error| unreadable(&error))?;
        if let Some((name, value)) = header {
            let value = HeaderValue::from_str(&value).map_err(|error| unreadable(&error.into()))?;
            request.headers_mut().insert(name, value);
        }
        exchange(api, request, PATIENCE).await
    }
}

/// Sends a request, and returns when the head of the response has arrived.
async fn exchange(
    api: &HttpClient,
    request: Request<Bytes>,
    patience: Duration,
) -> Result<Response<Body>, HttpRefusal> {
    let is_read = request.method() == Method::GET;
    let sent = async { anyhow::Ok(api.send(request).await?.map(Body::new)) };
    let answer = tokio::time::timeout(patience, sent).await;
    answer
        .context("no answer in time")
        .flatten()
        .map_err(|error| {
            let error = format!("{error:#}");
            tracing::warn!(error, "the API did not answer the operations page");
            let why = if is_read { NO_ANSWER } else { MAYBE_DONE };
            HttpRefusal::new(StatusCode::BAD_GATEWAY, why)
        })
}

/// The message of a page that only shows what the API has.
const NO_ANSWER: &str = "The API did not answer, so this page cannot be shown now";

const MAYBE_DONE: &str =
    "The API did not answer. It may have done it, or not: look, and if not, ask again";

/// The message for a submitted form that the page does not offer without the API's address.
pub(crate) const NO_API: &str = "This reconciler does not know the API's address: set API_URL";

/// The message of a page that only shows what a store has.
const NEEDS_A_STORE: &str = "This page shows what is in a store that does not answer now. The \
    overview says which one, and shows what is known without it";

/// Reads an answer. An answer that cannot be read is an error, because it is unknown what was done.
async fn read<T: DeserializeOwned>(
    service: &str,
    answer: Response<Body>,
) -> Result<T, HttpRefusal> {
    let status = answer.status();
    let body = to_bytes(answer.into_body(), BODY)
        .await
        .map_err(|error| unreadable(&error.into()))?;
    if status.is_success() {
        let body = if body.is_empty() { b"null" } else { &body[..] };
        return serde_json::from_slice(body).map_err(|error| unreadable(&error.into()));
    }
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let detail = labelled(&line(
        problem["detail"].as_str().unwrap_or("it does not say why"),
        LONGEST,
    ));
    let why = match (service, status) {
        ("The API", StatusCode::UNAUTHORIZED) => {
            "The API does not accept the token of this session: log in with the token that it has"
                .to_owned()
        }
        ("The API", _) => format!("The API refused: {detail}"),
        _ => detail,
    };
    Err(HttpRefusal::new(status, why))
}

fn unreadable(error: &anyhow::Error) -> HttpRefusal {
    let error = format!("{error:#}");
    tracing::error!(error, "an answer of a service could not be read");
    let why = "The service gave an answer that this page cannot read; its log says more";
    HttpRefusal::new(StatusCode::BAD_GATEWAY, why)
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

    #[tokio::test]
    async fn only_a_change_that_got_no_answer_may_have_been_made() {
        let nowhere = Some(("http://127.0.0.1:1".to_owned(), None));
        let services = Backends::new(Router::new(), nowhere).unwrap();
        let caller = Credentials {
            authorization: HeaderValue::from_static("Bearer token"),
            name: "Kim".to_owned(),
            peer: None,
        };
        let read = services.get_from_api::<Value>(&caller, "/v1/coupons/1");
        assert_eq!(read.await.unwrap_err().why, NO_ANSWER);
        let body = Value::Null;
        let changed =
            services.call_api::<Value>(&caller, Method::PATCH, "/v1/coupons/1", &body, None);
        assert_eq!(changed.await.unwrap_err().why, MAYBE_DONE);
        let listed = services.post_text_to_api::<Value>(&caller, "/v1/coupons/1", "kim");
        assert_eq!(listed.await.unwrap_err().why, MAYBE_DONE);
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
