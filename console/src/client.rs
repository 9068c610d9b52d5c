//! Client of the two HTTP APIs, which sends the token and the name of the logged-in operator. The
//! reconciler's routes are called in this process with the same requests and responses as over a
//! connection.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use firstcome_notifier::wording::{LONGEST, capital, line};
use firstcome_shared::http::api_client::CouponApiClient;
use firstcome_shared::http::ops::Peer;
use http_body_util::{BodyExt as _, Collected, Limited};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tower::ServiceExt as _;

/// Maximum wait for a response of the API.
const PATIENCE: Duration = Duration::from_secs(10);

/// Maximum number of bytes read of a response. A run may list 10,000 drops.
const BODY: usize = 32 * 1024 * 1024;

/// The operator on whose behalf a request is sent.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    pub(crate) authorization: HeaderValue,
    /// The name that `ops_actions` records.
    pub(crate) name: Option<String>,
    /// The address of the browser.
    pub(crate) peer: Option<Peer>,
    pub(crate) forwarded_for: Vec<HeaderValue>,
}

impl Credentials {
    /// Returns credentials of the program itself, with this token.
    pub(crate) fn program(authorization: HeaderValue) -> Self {
        Self {
            authorization,
            name: None,
            peer: None,
            forwarded_for: Vec::new(),
        }
    }

    fn request(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Request<Bytes>> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(AUTHORIZATION, &self.authorization);
        if let Some(name) = &self.name {
            request = request.header("x-operator", HeaderValue::from_bytes(name.as_bytes())?);
        }
        for value in &self.forwarded_for {
            request = request.header("x-forwarded-for", value);
        }
        let body = if body.is_null() {
            Bytes::new()
        } else {
            request = request.header(CONTENT_TYPE, "application/json");
            Bytes::from(body.to_string())
        };
        Ok(request.body(body)?)
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
        Self {
            status,
            why: why.into(),
        }
    }

    /// Returns the reason with a capital letter and a full stop.
    pub(crate) fn sentence(&self) -> String {
        format!("{}.", capital(&self.why).trim_end_matches('.'))
    }
}

/// Encodes a part of a path.
pub(crate) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Builds a query string of these parameters, without empty ones.
pub(crate) fn query(parameters: &[(&str, &str)]) -> String {
    let given = parameters.iter().filter(|(_, value)| !value.is_empty());
    let pairs: Vec<String> = given
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    if pairs.is_empty() {
        String::new()
    } else {
        format!("?{}", pairs.join("&"))
    }
}

/// The clients of both services.
pub(crate) struct Backends {
    /// The routes of the reconciler.
    reconciler: Router,
    /// The API, if `API_URL` is set.
    api: Option<CouponApiClient>,
}

impl Backends {
    /// Creates the clients from the reconciler's routes, `API_URL` and a file of additional
    /// certificate authorities.
    pub(crate) fn new(
        reconciler: Router,
        api: Option<(String, Option<PathBuf>)>,
    ) -> anyhow::Result<Self> {
        let api = api
            .map(|(url, ca)| CouponApiClient::new(&url, ca).map_err(anyhow::Error::msg))
            .transpose()?;
        Ok(Self { reconciler, api })
    }

    pub(crate) fn has_api(&self) -> bool {
        self.api.is_some()
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        caller: &Credentials,
        path: &str,
    ) -> Result<T, HttpRefusal> {
        self.ask_reconciler(caller, Method::GET, path, &Value::Null)
            .await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        caller: &Credentials,
        path: &str,
        body: &Value,
    ) -> Result<T, HttpRefusal> {
        self.ask_reconciler(caller, Method::POST, path, body).await
    }

    async fn ask_reconciler<T: DeserializeOwned>(
        &self,
        caller: &Credentials,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Result<T, HttpRefusal> {
        let exchange = async {
            let mut request = caller.request(method, path, body)?.map(Body::from);
            // Set the peer, as the server does for a connection.
            if let Some(peer) = caller.peer {
                request.extensions_mut().insert(peer);
            }
            let answer = self.reconciler.clone().oneshot(request).await?;
            let status = answer.status();
            let body = to_bytes(answer.into_body(), BODY).await?;
            anyhow::Ok((status, body))
        };
        let (status, body) = exchange.await.map_err(|error| unreadable(&error))?;
        if !status.is_success() {
            return Err(HttpRefusal::new(status, detail(&body)));
        }
        serde_json::from_slice(&body).map_err(|error| unreadable(&error.into()))
    }

    /// Sends a request to the API.
    pub(crate) async fn ask_api<T: DeserializeOwned + Default>(
        &self,
        caller: &Credentials,
        method: Method,
        path: &str,
        body: &Value,
        header: Option<(&'static str, String)>,
    ) -> Result<T, HttpRefusal> {
        let api = self
            .api
            .as_ref()
            .ok_or_else(|| HttpRefusal::new(StatusCode::NOT_FOUND, NO_API))?;
        let exchange = async {
            let mut request = caller.request(method, path, body)?;
            // Forward the browser's address as a proxy does. The API uses it depending on
            // OPS_TRUSTED_PROXIES.
            if let Some(Peer(browser)) = caller.peer {
                let address = HeaderValue::from_str(&browser.ip().to_string())?;
                request.headers_mut().append("x-forwarded-for", address);
            }
            if let Some((name, value)) = header {
                request
                    .headers_mut()
                    .insert(name, HeaderValue::from_str(&value)?);
            }
            let answer = api.send(request).await?;
            let status = answer.status();
            // The action is already complete, even if the rest of the response does not arrive.
            let body = Limited::new(answer.into_body(), BODY).collect().await;
            anyhow::Ok((status, body.map(Collected::to_bytes).unwrap_or_default()))
        };
        let answer = tokio::time::timeout(PATIENCE, exchange)
            .await
            .context("no answer in time")
            .flatten();
        let (status, body) = answer.map_err(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "the API did not answer the operations page"
            );
            let why =
                "The API did not answer. It may have done it, or not: look, and if not, ask again";
            HttpRefusal::new(StatusCode::BAD_GATEWAY, why)
        })?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&body).unwrap_or_default());
        }
        let why = if status == StatusCode::UNAUTHORIZED {
            "The API does not accept the token of this session: log in with the token that it has"
                .to_owned()
        } else {
            format!("The API refused: {}", detail(&body))
        };
        Err(HttpRefusal::new(status, why))
    }
}

/// The message for a submitted form that the page does not offer without the API's address.
pub(crate) const NO_API: &str =
    "This reconciler does not know the API's address: set API_URL, or use firstcome-api coupon";

fn detail(body: &[u8]) -> String {
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    let detail = problem
        .as_ref()
        .and_then(|problem| problem["detail"].as_str())
        .unwrap_or("it does not say why");
    line(detail, LONGEST).trim_end_matches('.').to_owned()
}

fn unreadable(error: &anyhow::Error) -> HttpRefusal {
    tracing::error!(
        error = format!("{error:#}"),
        "an answer of the reconciler could not be read"
    );
    let why = "The reconciler gave an answer that this page cannot read; its log says more";
    HttpRefusal::new(StatusCode::BAD_GATEWAY, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_omits_empty_parameters_and_encodes_all_characters() {
        assert_eq!(query(&[("page", ""), ("reason", "")]), "");
        assert_eq!(
            query(&[("page", "2"), ("drop_id", ""), ("reason", "few & odd")]),
            "?page=2&reason=few%20%26%20odd"
        );
        assert_eq!(encoded(".."), "%2E%2E");
    }
}
