//! The requests of screens to both services, which send the token and the name of the logged-in
//! operator. The reconciler's routes are called in this process with the same requests and responses
//! as over a connection.

use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Method, Request, Response, StatusCode};
use firstcome_shared::report::wording::{LONGEST, line};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt as _;

use super::client::HttpRefusal;
use super::coupon::labelled;
use super::page::ConsolePage;

/// Maximum wait for a response of the API, which takes its time for a long allow list.
const PATIENCE: Duration = Duration::from_secs(25);

/// Maximum number of bytes read of a response. A run may list 10,000 drops.
const BODY: usize = 32 * 1024 * 1024;

/// The body of a request.
#[derive(Clone, Copy)]
pub(crate) enum SentBody<'a> {
    Nothing,
    Json(&'a Value),
    Text(&'a str),
}

/// A header of a request.
pub(crate) struct SentHeader {
    pub(crate) name: &'static str,
    pub(crate) value: String,
}

impl ConsolePage {
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpRefusal> {
        self.call(Method::GET, path, SentBody::Nothing).await
    }

    /// Changes something through the reconciler.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<T, HttpRefusal> {
        self.call(Method::POST, path, SentBody::Json(body)).await
    }

    /// Calls a route of the reconciler.
    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        sent: SentBody<'_>,
    ) -> Result<T, HttpRefusal> {
        let mut request = self.request(method, path, sent, None)?.map(Body::from);
        // Set the peer, as the server does for a connection.
        if let Some(peer) = self.session.peer {
            request.extensions_mut().insert(peer);
        }
        let routes = self.state.services.reconciler.clone();
        let Ok(answer) = routes.oneshot(request).await;
        read(answer).await
    }

    pub(crate) async fn get_from_api<T: DeserializeOwned>(
        &self,
        path: &str,
    ) -> Result<T, HttpRefusal> {
        self.api(Method::GET, path, SentBody::Nothing, None).await
    }

    /// Sends a request to the API.
    pub(crate) async fn api<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        sent: SentBody<'_>,
        header: Option<SentHeader>,
    ) -> Result<T, HttpRefusal> {
        read(self.send_to_api(method, path, sent, header).await?).await
    }

    /// Sends a request to the API, and returns when the head of the response has arrived.
    pub(crate) async fn send_to_api(
        &self,
        method: Method,
        path: &str,
        sent: SentBody<'_>,
        header: Option<SentHeader>,
    ) -> Result<Response<Body>, HttpRefusal> {
        let known = self.state.services.api.as_ref();
        let api = known.ok_or_else(|| HttpRefusal::new(StatusCode::SERVICE_UNAVAILABLE, NO_API))?;
        let is_read = method == Method::GET;
        let request = self.request(method, &api.url(path), sent, header)?;
        let sent = async { anyhow::Ok(api.send(request).await?.map(Body::new)) };
        let answer = tokio::time::timeout(PATIENCE, sent).await;
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

    /// Builds a request on the operator's behalf.
    fn request(
        &self,
        method: Method,
        path: &str,
        sent: SentBody<'_>,
        header: Option<SentHeader>,
    ) -> Result<Request<Bytes>, HttpRefusal> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, &self.session.authorization)
            .header("x-operator", self.session.name.as_bytes());
        if let Some(header) = header {
            request = request.header(header.name, header.value);
        }
        let body = match sent {
            SentBody::Nothing => Bytes::new(),
            SentBody::Text(text) => text.to_owned().into(),
            SentBody::Json(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                body.to_string().into()
            }
        };
        request
            .body(body)
            .map_err(|error| unreadable(&error.into()))
    }
}

/// The message if the API does not answer a read.
const NO_ANSWER: &str = "The API did not answer, so this page cannot be shown now";

/// The message if the API does not answer a change.
const MAYBE_DONE: &str =
    "The API did not answer. It may have done it, or not: look, and if not, ask again";

/// The message for a request that needs the API while its address is not known.
const NO_API: &str = "This reconciler does not know the API's address: set API_URL";

/// Parses an answer. One that cannot be parsed is an error, because it is unknown what was done.
async fn read<T: DeserializeOwned>(answer: Response<Body>) -> Result<T, HttpRefusal> {
    let status = answer.status();
    let body = to_bytes(answer.into_body(), BODY)
        .await
        .map_err(|error| unreadable(&error.into()))?;
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|error| unreadable(&error.into()));
    }
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("it does not say why");
    let why = labelled(&line(detail, LONGEST));
    Err(HttpRefusal::new(status, why))
}

fn unreadable(error: &anyhow::Error) -> HttpRefusal {
    let error = format!("{error:#}");
    tracing::error!(error, "a request of the operations page failed");
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
        let listed = SentBody::Text("kim");
        let changed = page.api::<Value>(Method::PATCH, "/v1/coupons/1", listed, None);
        assert_eq!(changed.await.unwrap_err().why, MAYBE_DONE);
    }
}
