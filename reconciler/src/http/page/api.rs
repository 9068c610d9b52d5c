//! Changes that are the API's to make. The page asks it, with the operators' token and the name
//! under which somebody logged in: what is allowed is decided in one place.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Bytes;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderValue, Method, Request, StatusCode};
use firstcome_shared::http::api_client::CouponApiClient;
use http_body_util::{BodyExt as _, Collected, Limited};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use crate::notify::wording::{LONGEST, line};

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most that is read of an answer, in bytes.
const BODY: usize = 64 * 1024;

/// Why a change was not made, or may not have been.
pub(super) struct ApiRefusal {
    pub(super) status: StatusCode,
    pub(super) why: String,
}

/// The API's own address, and the token for it.
pub struct CouponApi {
    api: CouponApiClient,
    token: SecretString,
}

impl CouponApi {
    /// Takes `API_URL`, and a file of further certificate authorities.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn new(url: &str, ca: Option<PathBuf>, token: SecretString) -> anyhow::Result<Self> {
        Ok(Self {
            api: CouponApiClient::new(url, ca).map_err(anyhow::Error::msg)?,
            token,
        })
    }

    /// Asks for a change in this person's name.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Value,
        operator: &str,
        header: Option<(&'static str, String)>,
    ) -> Result<Value, ApiRefusal> {
        let exchange = async {
            let token = format!("Bearer {}", self.token.expose_secret());
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header(AUTHORIZATION, token);
            let name = HeaderValue::from_bytes(operator.as_bytes()).ok();
            let request = name
                .into_iter()
                .fold(request, |request, name| request.header("x-operator", name));
            let request = header.into_iter().fold(request, |request, (name, value)| {
                request.header(name, value)
            });
            let request = request
                .header(CONTENT_TYPE, "application/json")
                .body(Bytes::from(body.to_string()))?;
            let answer = self.api.send(request).await?;
            let status = answer.status();
            // What was done is done, whether the rest of the answer comes or not.
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
                "The API did not answer. It may have done it, or not: look, and if not, ask again.";
            ApiRefusal {
                status: StatusCode::BAD_GATEWAY,
                why: why.to_owned(),
            }
        })?;
        if status.is_success() {
            return Ok(serde_json::from_slice(&body).unwrap_or_default());
        }
        let problem: Option<Value> = serde_json::from_slice(&body).ok();
        let detail = problem
            .as_ref()
            .and_then(|problem| problem["detail"].as_str())
            .unwrap_or("it does not say why");
        Err(ApiRefusal {
            status,
            why: format!(
                "The API refused: {}.",
                line(detail, LONGEST).trim_end_matches('.')
            ),
        })
    }
}
