//! Changes that are the API's to make. The page asks it, with the operators' token and the name
//! under which somebody logged in: what is allowed is decided in one place.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::http::{HeaderValue, Method, StatusCode};
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
    http: reqwest::Client,
    base: String,
    token: SecretString,
}

impl CouponApi {
    /// Takes `http://host:port`.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn new(base: &str, token: SecretString) -> anyhow::Result<Self> {
        let base = base.trim_end_matches('/').to_owned();
        ensure!(
            base.starts_with("http://") && base.parse::<reqwest::Url>().is_ok_and(|url| url.path() == "/"),
            "API_URL must be http://host:port, the API's own address, not that of a gateway with TLS"
        );
        let client =
            reqwest::Client::builder().timeout(PATIENCE).no_proxy().redirect(reqwest::redirect::Policy::none());
        Ok(Self { http: client.build().context("API_URL")?, base, token })
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
        let request = self.http.request(method, format!("{}{path}", self.base)).bearer_auth(self.token.expose_secret());
        let name = HeaderValue::from_bytes(operator.as_bytes()).ok();
        let request = name.into_iter().fold(request, |request, name| request.header("x-operator", name));
        let request = header.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        let answer = request.header("content-type", "application/json").body(body.to_string()).send().await;
        let mut answer = answer.map_err(|error| {
            tracing::warn!(error = %error.without_url(), "the API did not answer the operations page");
            let why = "The API did not answer. It may have done it, or not: look, and if not, ask again.";
            ApiRefusal { status: StatusCode::BAD_GATEWAY, why: why.to_owned() }
        })?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = answer.chunk().await
            && body.len() < BODY
        {
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(serde_json::from_slice(&body).unwrap_or_default());
        }
        let problem: Option<Value> = serde_json::from_slice(&body).ok();
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str()).unwrap_or("it does not say why");
        Err(ApiRefusal { status, why: format!("The API refused: {}.", line(detail, LONGEST).trim_end_matches('.')) })
    }
}
