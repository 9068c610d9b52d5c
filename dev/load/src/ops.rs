//! A client of the operators' routes: few requests, each on a new connection.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::client::{Call, Connection, Target};

/// HTTP's "409 Conflict": another pass is running.
const CONFLICT: u16 = 409;
const PASS_LIMIT: Duration = Duration::from_secs(60);

/// A service and its ops token.
#[derive(Debug, Clone)]
pub struct Ops {
    pub target: Target,
    /// The ops token. Empty for routes without authentication.
    pub token: String,
}

/// A response whose status is not 2xx.
#[derive(Debug)]
pub struct RefusedRequest {
    path: String,
    pub status: u16,
    body: String,
}

impl RefusedRequest {
    /// Returns the status of a refused request, or `None` for another error.
    pub fn status_of(error: &anyhow::Error) -> Option<u16> {
        error.downcast_ref::<Self>().map(|refused| refused.status)
    }
}

impl fmt::Display for RefusedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} was answered with {}: {}",
            self.path,
            self.status,
            start_of(&self.body)
        )
    }
}

impl Error for RefusedRequest {}

/// Every method except [`Ops::readiness`] fails if the response is not 2xx. The error contains the
/// status and the body.
impl Ops {
    /// Sends a `GET` and parses the response as JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.json(path, None).await
    }

    /// Sends a `GET` and returns the response as text.
    pub async fn get_text(&self, path: &str) -> Result<String> {
        self.text(path, None).await
    }

    /// Sends a `POST` with a JSON body and parses the response as JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.json(path, Some(&serde_json::to_vec(body)?)).await
    }

    /// Returns whether a service is ready, and the body of its response.
    pub async fn readiness(&self) -> Result<(bool, String)> {
        let path = "/readyz";
        match self.call(path, None).await? {
            (200, body) => Ok((true, body)),
            (503, body) => Ok((false, body)),
            (status, body) => Err(RefusedRequest {
                path: path.to_owned(),
                status,
                body,
            }
            .into()),
        }
    }

    /// Creates a coupon with one drop that opens at `opens_at` and stays open for this period.
    pub async fn make_coupon(
        &self,
        name: &str,
        quantity: u32,
        opens_at: DateTime<Utc>,
        lasts: TimeDelta,
    ) -> Result<Value> {
        let body = json!({
            "name": name, "quantity": quantity, "once_per": "coupon", "waiting_list": 0,
            "schedule": {"type": "once", "opens_at": opens_at, "closes_at": opens_at + lasts},
        });
        self.post("/v1/coupons", &body).await
    }

    /// Requests a pass and waits for its end. Waits for a running pass first.
    pub async fn reconcile(&self) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let run = self.post("/v1/reconcile", &json!({"wait": true})).await;
            match run {
                Err(error) if RefusedRequest::status_of(&error) == Some(CONFLICT) => {}
                run => return run,
            }
            ensure!(
                begun.elapsed() < PASS_LIMIT,
                "another pass has been running for {PASS_LIMIT:?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn json(&self, path: &str, body: Option<&[u8]>) -> Result<Value> {
        let text = self.text(path, body).await?;
        let value = serde_json::from_str(&text);
        value.with_context(|| {
            format!(
                "{path} was answered with something that is not JSON: {}",
                start_of(&text)
            )
        })
    }

    async fn text(&self, path: &str, body: Option<&[u8]>) -> Result<String> {
        match self.call(path, body).await? {
            (200..300, body) => Ok(body),
            (status, body) => Err(RefusedRequest {
                path: path.to_owned(),
                status,
                body,
            }
            .into()),
        }
    }

    /// Sends a POST request with the body, or a GET request if there is none.
    async fn call(&self, path: &str, body: Option<&[u8]>) -> Result<(u16, String)> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "application/json"),
        ];
        let call = Call {
            method: if body.is_some() { "POST" } else { "GET" },
            path,
            headers: &headers,
            body: body.unwrap_or_default(),
        };
        let mut connection = Connection::open(&self.target).await?;
        let (status, body) = connection.send(&call).await?;
        Ok((status, String::from_utf8_lossy(body).into_owned()))
    }
}

fn start_of(text: &str) -> String {
    text.chars().take(300).collect()
}
