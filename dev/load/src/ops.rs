//! A client of the operators' routes: few requests, each on a connection of its own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::client::{Call, Connection, Target};

/// HTTP's "409 Conflict": another pass runs.
const CONFLICT: u16 = 409;
const PASS_LIMIT: Duration = Duration::from_secs(60);

/// A service and the token it wants.
#[derive(Debug, Clone)]
pub struct Ops {
    pub target: Target,
    /// The ops token; empty for routes that want none.
    pub token: String,
}

impl Ops {
    /// `GET`, read as JSON.
    pub async fn get(&self, path: &str) -> Result<Value> {
        parse(self.call("GET", path, b"").await?, path)
    }

    /// `POST` with a JSON body, read as JSON.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        parse(self.call("POST", path, &serde_json::to_vec(body)?).await?, path)
    }

    /// `POST` with a JSON body, whatever the status; an answer that is not JSON is `null`.
    pub async fn try_post(&self, path: &str, body: &Value) -> Result<(u16, Value)> {
        let (status, body) = self.call("POST", path, &serde_json::to_vec(body)?).await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    /// `GET`, as text, whatever the status.
    pub async fn get_text(&self, path: &str) -> Result<(u16, String)> {
        let (status, body) = self.call("GET", path, b"").await?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Makes a coupon with one drop, open from `opens_at` for so long; gives the answer.
    pub async fn make_coupon(
        &self,
        name: &str,
        quantity: u32,
        opens_at: DateTime<Utc>,
        lasts: TimeDelta,
    ) -> Result<(u16, Value)> {
        let body = json!({
            "name": name, "quantity": quantity, "once_per": "coupon", "waiting_list": 0,
            "schedule": {"type": "once", "opens_at": opens_at, "closes_at": opens_at + lasts},
        });
        self.try_post("/v1/coupons", &body).await
    }

    /// Has the reconciler make a pass and waits for it; one that runs already is waited for first.
    pub async fn reconcile(&self) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let (status, run) = self.try_post("/v1/reconcile", &json!({"wait": true})).await?;
            if status != CONFLICT {
                return Ok(run);
            }
            ensure!(begun.elapsed() < PASS_LIMIT, "another pass runs for {PASS_LIMIT:?}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn call(&self, method: &'static str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let call = Call { method, path, headers: &headers, body };
        let mut connection = Connection::open(&self.target).await?;
        let (status, body) = connection.send(&call).await?;
        Ok((status, body.to_vec()))
    }
}

fn parse((status, body): (u16, Vec<u8>), path: &str) -> Result<Value> {
    if !is_success(status) {
        bail!("{path} was answered with {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).with_context(|| format!("{path} was answered with something that is not JSON"))
}

/// Whether a status says yes.
pub fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}
