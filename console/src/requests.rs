//! The requests of screens to both services, which send the token and the name of the logged-in
//! operator. The reconciler's routes are called in this process with the same requests and responses
//! as over a connection.

use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use firstcome_shared::http::client::HttpClient;
use firstcome_shared::report::wording::{LONGEST, line};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt as _;

use super::client::HttpRefusal;
use super::page::Page;
use super::text::labelled;

/// Maximum wait for a response of the API.
const PATIENCE: Duration = Duration::from_secs(10);

/// The same for a request with an allow list, which may have 200,000 users.
const LIST_PATIENCE: Duration = Duration::from_secs(25);

/// Maximum number of bytes read of a response. A run may list 10,000 drops.
const BODY: usize = 32 * 1024 * 1024;

impl Page {
    pub(crate) fn has_api(&self) -> bool {
        self.state.services.api.is_some()
    }

    /// Reads from the reconciler.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpRefusal> {
        self.call(Method::GET, path, &Value::Null).await
    }

    /// Changes something through the reconciler.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<T, HttpRefusal> {
        self.call(Method::POST, path, body).await
    }

    /// Calls a route of the reconciler.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, HttpRefusal> {
        let mut request = self.request(&method, path, body)?.map(Body::from);
        // Set the peer, as the server does for a connection.
        if let Some(peer) = self.session.caller.peer {
            request.extensions_mut().insert(peer);
        }
        let routes = self.state.services.reconciler.clone();
        let Ok(answer) = routes.oneshot(request).await;
        read("The reconciler", &method, answer).await
    }

    /// Reads from the API.
    pub(crate) async fn get_from_api<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<T, HttpRefusal> {
        self.api(Method::GET, path, &Value::Null, None).await
    }

    /// Sends a request to the API.
    pub(crate) async fn api<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &Value,
        header: Option<(&'static str, String)>,
    ) -> Result<T, HttpRefusal> {
        let answer = self.send_to_api(&method, path, body, header).await?;
        read("The API", &method, answer).await
    }

    /// Sends a body of plain text to the API, and parses the JSON of its answer.
    pub(crate) async fn api_text<T: DeserializeOwned>(
        &self,
        path: &str,
        text: &str,
    ) -> Result<T, HttpRefusal> {
        let api = self.api_client()?;
        let mut request = self.request(&Method::POST, &api.url(path), &Value::Null)?;
        *request.body_mut() = Bytes::from(text.to_owned());
        let answer = exchange(api, request, LIST_PATIENCE).await?;
        read("The API", &Method::POST, answer).await
    }

    /// Sends a request to the API, and returns when the head of the response has arrived.
    pub(crate) async fn send_to_api(
        &self,
        method: &Method,
        path: &str,
        body: &Value,
        header: Option<(&'static str, String)>,
    ) -> Result<Response<Body>, HttpRefusal> {
        let api = self.api_client()?;
        let mut request = self.request(method, &api.url(path), body)?;
        if let Some((name, value)) = header {
            let value = HeaderValue::from_str(&value).map_err(|error| unreadable(&error.into()))?;
            request.headers_mut().insert(name, value);
        }
        exchange(api, request, PATIENCE).await
    }

    fn api_client(&self) -> Result<&HttpClient, HttpRefusal> {
        let api = self.state.services.api.as_ref();
        api.ok_or_else(|| HttpRefusal::new(StatusCode::NOT_FOUND, NO_API))
    }

    fn request(
        &self,
        method: &Method,
        path: &str,
        body: &Value,
    ) -> Result<Request<Bytes>, HttpRefusal> {
        let caller = &self.session.caller;
        caller
            .request(method, path, body)
            .map_err(|error| unreadable(&error))
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

/// The message if the API does not answer a read.
const NO_ANSWER: &str = "The API did not answer, so this page cannot be shown now";

/// The message if the API does not answer a change.
const MAYBE_DONE: &str =
    "The API did not answer. It may have done it, or not: look, and if not, ask again";

/// The message for a request that needs the API while its address is not known.
const NO_API: &str = "This reconciler does not know the API's address: set API_URL";

/// The message for a read that needs a store which does not answer.
const NEEDS_A_STORE: &str = "This page shows what is in a store that does not answer now. The \
    overview says which one, and shows what is known without it";

/// Parses an answer. One that cannot be parsed is an error, because it is unknown what was done.
async fn read<T: DeserializeOwned>(
    service: &str,
    method: &Method,
    answer: Response<Body>,
) -> Result<T, HttpRefusal> {
    let status = answer.status();
    if *method == Method::GET && status == StatusCode::SERVICE_UNAVAILABLE {
        return Err(HttpRefusal::new(status, NEEDS_A_STORE));
    }
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
    use axum::Router;

    use super::*;
    use crate::client::Backends;
    use crate::page::tests::logged_in;

    #[tokio::test]
    async fn change_but_not_read_without_an_answer_is_reported_as_possibly_made() {
        let nowhere = Some(("http://127.0.0.1:1".to_owned(), None));
        let page = logged_in(Backends::new(Router::new(), nowhere).unwrap()).await;
        let read = page.get_from_api::<Value>("/v1/coupons/1");
        assert_eq!(read.await.unwrap_err().why, NO_ANSWER);
        let body = Value::Null;
        let changed = page.api::<Value>(Method::PATCH, "/v1/coupons/1", &body, None);
        assert_eq!(changed.await.unwrap_err().why, MAYBE_DONE);
        let listed = page.api_text::<Value>("/v1/coupons/1", "kim");
        assert_eq!(listed.await.unwrap_err().why, MAYBE_DONE);
    }
}
