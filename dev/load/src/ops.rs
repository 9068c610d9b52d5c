//! A client of the operators' routes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono::{TimeDelta, Utc};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

const PASS_LIMIT: Duration = Duration::from_secs(60);

/// A service and its ops token.
#[derive(Debug, Clone)]
pub struct Ops {
    url: String,
    token: String,
    client: Client,
}

/// Every method except [`Ops::is_ready`] fails if the response is not 2xx. The error contains the
/// status and the body.
impl Ops {
    /// The token may be empty for routes without authentication.
    pub fn new(url: &str, token: &str) -> Result<Self> {
        Ok(Self {
            url: url.to_owned(),
            token: token.to_owned(),
            client: Client::builder().no_proxy().build()?,
        })
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        let text = self.get_text(path).await?;
        serde_json::from_str(&text).with_context(|| format!("{path} is no JSON: {text:.300}"))
    }

    pub async fn get_text(&self, path: &str) -> Result<String> {
        let (status, body) = self.send(self.request(path, None)).await?;
        ensure!(status.is_success(), "{path}: {status} {body:.300}");
        Ok(body)
    }

    /// Whether a service reports that it is ready, and works without limits.
    pub async fn is_ready(&self) -> Result<bool> {
        let (status, body) = self.send(self.request("/readyz", None)).await?;
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        Ok(status.is_success() && body["status"] == "ok")
    }

    /// Creates a coupon with one drop that opens after this pause and stays open for six hours.
    pub async fn make_coupon(&self, name: &str, quantity: u32, pause: TimeDelta) -> Result<i64> {
        let opens_at = Utc::now() + pause;
        let closes_at = opens_at + TimeDelta::hours(6);
        let body = json!({
            "name": name, "quantity": quantity, "once_per": "coupon", "waiting_list": 0,
            "schedule": {"type": "once", "opens_at": opens_at, "closes_at": closes_at},
        });
        let (status, made) = self.send(self.request("/v1/coupons", Some(&body))).await?;
        let coupon: Value = serde_json::from_str(&made).unwrap_or_default();
        let id = coupon["id"].as_i64();
        id.with_context(|| format!("{} created no coupon: {status} {made:.300}", self.url))
    }

    /// Requests a pass and waits for its end. Waits for a running pass first.
    pub async fn reconcile(&self) -> Result<Value> {
        let begun = Instant::now();
        let body = json!({"wait": true});
        while begun.elapsed() < PASS_LIMIT {
            let (status, run) = self
                .send(self.request("/v1/reconcile", Some(&body)))
                .await?;
            if status != StatusCode::CONFLICT {
                ensure!(status.is_success(), "the pass: {status} {run:.300}");
                return Ok(serde_json::from_str(&run)?);
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("another pass has been running for {PASS_LIMIT:?}")
    }

    /// Creates a POST request with the body, or a GET request if there is none.
    fn request(&self, path: &str, body: Option<&Value>) -> RequestBuilder {
        let url = format!("{}{path}", self.url);
        match body {
            Some(body) => self.client.post(url).json(body),
            None => self.client.get(url),
        }
    }

    async fn send(&self, request: RequestBuilder) -> Result<(StatusCode, String)> {
        let response = request.bearer_auth(&self.token).send().await?;
        Ok((response.status(), response.text().await?))
    }
}
