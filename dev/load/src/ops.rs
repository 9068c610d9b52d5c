//! A client of the operators' routes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chrono::{TimeDelta, Utc};
use firstcome_harness::{Http, HttpReply};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

const PASS_LIMIT: Duration = Duration::from_secs(60);

/// A service and its ops token.
#[derive(Debug, Clone)]
pub struct Ops {
    http: Http,
    token: String,
}

/// A method fails if the response is not 2xx, with an error that contains the status and the body.
/// The exceptions: [`Ops::is_ready`] returns what other responses mean, [`Ops::reconcile`] repeats
/// a request after a 409, and [`Ops::use_code`] repeats it after a 5xx, and returns false for a code
/// that another order uses.
impl Ops {
    /// The token may be empty for routes without authentication.
    pub fn new(url: &str, token: &str) -> Self {
        Self {
            http: Http::new(url),
            token: token.to_owned(),
        }
    }

    pub async fn get(&self, path: &str) -> Result<Value> {
        succeeded(self.send(path, None).await?).with_context(|| path.to_owned())
    }

    /// Whether a service reports that it is ready.
    pub async fn is_ready(&self) -> Result<bool> {
        let reply = self.send("/readyz", None).await?;
        Ok(reply.status == 200 && reply.body["status"] == "ok")
    }

    /// Whether a coupon can be claimed now.
    pub async fn is_open(&self, coupon: i64) -> Result<bool> {
        let coupon = self.get(&format!("/v1/coupons/{coupon}")).await?;
        Ok(coupon["current_drop"]["state"] == "open")
    }

    /// Creates a coupon with one drop that opens after this pause and stays open for six hours.
    pub async fn make_coupon(&self, name: &str, quantity: u32, pause: TimeDelta) -> Result<i64> {
        let opens_at = Utc::now() + pause;
        let closes_at = opens_at + TimeDelta::hours(6);
        let body = json!({
            "name": name, "quantity": quantity, "once_per": "coupon", "waiting_list": 0,
            "schedule": {"type": "once", "opens_at": opens_at, "closes_at": closes_at},
        });
        let made = succeeded(self.send("/v1/coupons", Some(&body)).await?)?;
        made["id"].as_i64().context("a coupon without an ID")
    }

    /// Requests a pass and waits for its end. Waits for a running pass first.
    pub async fn reconcile(&self) -> Result<Value> {
        let begun = Instant::now();
        let body = json!({"wait": true});
        while begun.elapsed() < PASS_LIMIT {
            let reply = self.send("/v1/reconcile", Some(&body)).await?;
            if reply.status != 409 {
                return succeeded(reply).context("the pass");
            }
            sleep(Duration::from_millis(50)).await;
        }
        bail!("another pass has been running for {PASS_LIMIT:?}")
    }

    /// Uses a code for an order, repeating the request for up to a minute while it gets no answer
    /// or a 5xx. Returns true if the order uses the code, and false if another order does.
    pub async fn use_code(&self, code: &str, reference: &str) -> Result<bool> {
        let begun = Instant::now();
        let body = json!({"reference": reference});
        loop {
            let path = format!("/v1/codes/{code}/use");
            let request = self.http.request(Method::PUT, &path).json(&body);
            let reply = Http::try_send(request.bearer_auth(&self.token)).await;
            match reply {
                Ok(reply) if reply.status == 200 => return Ok(true),
                Ok(reply) if reply.body["code"] == "used" => return Ok(false),
                Ok(reply) if reply.status < 500 => {
                    bail!("{} {:.300}", reply.status, reply.text);
                }
                failed if begun.elapsed() > PASS_LIMIT => {
                    failed?;
                    bail!("{path}: no answer for {PASS_LIMIT:?}");
                }
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Sends a POST request with the body, or a GET request if there is none.
    async fn send(&self, path: &str, body: Option<&Value>) -> Result<HttpReply> {
        let request = match body {
            Some(body) => self.http.request(Method::POST, path).json(body),
            None => self.http.request(Method::GET, path),
        };
        Ok(Http::try_send(request.bearer_auth(&self.token)).await?)
    }
}

fn succeeded(reply: HttpReply) -> Result<Value> {
    let HttpReply { status, text, .. } = &reply;
    ensure!((200..300).contains(status), "{status} {text:.300}");
    Ok(reply.body)
}
