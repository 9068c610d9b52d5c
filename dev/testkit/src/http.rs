//! Clients of the two services.

use std::time::Duration;

use firstcome_histories::{Outcome, Recorder};
use firstcome_reconciler::report::Run;
use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::answer::Answer;

/// The operators' token of every world.
pub const OPS_TOKEN: &str = "system-tests-0123456789abcdef0123456789";

/// One answer, whatever it is.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    /// `Content-Type`, empty where there is none.
    pub content_type: String,
    pub headers: HeaderMap,
    /// The body as JSON; `null` where it is none.
    pub body: Value,
    /// The body as text.
    pub text: String,
}

impl Reply {
    pub fn retry_after(&self) -> Option<u32> {
        self.headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()
    }

    pub fn location(&self) -> Option<&str> {
        self.headers.get(LOCATION)?.to_str().ok()
    }
}

/// A service at an address.
#[derive(Debug, Clone)]
pub struct Http {
    client: reqwest::Client,
    base: String,
}

impl Http {
    pub(crate) fn new(base: &str) -> Self {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).no_proxy().build().unwrap();
        Self { client, base: base.to_owned() }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// A request to be completed and given to [`Http::send`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// The same with the operators' token.
    pub fn ops(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(OPS_TOKEN)
    }

    pub async fn try_send(request: RequestBuilder) -> reqwest::Result<Reply> {
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let content_type = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        let text = response.text().await?;
        Ok(Reply { status, content_type, headers, body: serde_json::from_str(&text).unwrap_or(Value::Null), text })
    }

    /// Sends a request whose answer must come.
    pub async fn send(request: RequestBuilder) -> Reply {
        Self::try_send(request).await.expect("an answer")
    }

    /// `GET` of a route that needs no token.
    pub async fn get(&self, path: &str) -> Reply {
        Self::send(self.request(Method::GET, path)).await
    }
}

/// A coupon that was made, with its drops as `GET` gives them.
#[derive(Debug, Clone)]
pub struct Coupon {
    pub id: i64,
    /// The number of its current drop, else of its next.
    pub drop: i64,
    pub body: Value,
}

/// The API. What is claimed through it is recorded.
#[derive(Clone)]
pub struct Api {
    http: Http,
    recorder: Recorder,
}

impl Api {
    pub(crate) fn new(base: &str, recorder: Recorder) -> Self {
        Self { http: Http::new(base), recorder }
    }

    /// For requests that are not as they should be.
    pub fn http(&self) -> &Http {
        &self.http
    }

    pub async fn claim(&self, coupon: i64, user: &str) -> Answer {
        let pending = self.recorder.invoke(u64::try_from(coupon).unwrap_or_default(), None, user);
        match Http::try_send(self.claim_request(coupon, user)).await {
            Ok(reply) => {
                pending.end(Outcome::of_http(reply.status, &reply.body));
                Answer::read(&reply)
            }
            Err(error) => {
                pending.end(Outcome::Unknown(error.to_string()));
                Answer::Unknown(format!("{error:?}"))
            }
        }
    }

    /// The request of [`Api::claim`].
    pub fn claim_request(&self, coupon: i64, user: &str) -> RequestBuilder {
        self.http.request(Method::POST, &format!("/v1/coupons/{coupon}/claims")).header("x-user-id", user)
    }

    pub async fn create_coupon(&self, body: &Value) -> Coupon {
        let reply = Http::send(self.http.ops(Method::POST, "/v1/coupons").json(body)).await;
        assert_eq!(reply.status, 201, "{reply:?}");
        assert!(
            reply.location().is_some_and(|l| l.ends_with(&format!("/v1/coupons/{}", reply.body["id"]))),
            "{reply:?}"
        );
        let drop = ["current_drop", "next_drop"].iter().find_map(|name| reply.body[*name]["id"].as_i64());
        Coupon {
            id: reply.body["id"].as_i64().expect("an id"),
            drop: drop.unwrap_or_else(|| panic!("no drop in {reply:?}")),
            body: reply.body,
        }
    }

    /// Makes a coupon that has been open for long and stays open.
    pub async fn open_coupon(&self, quantity: u32) -> Coupon {
        self.create_coupon(&open_coupon(quantity)).await
    }

    /// The coupon as people see it.
    pub async fn coupon(&self, coupon: i64) -> Value {
        let reply = self.http.get(&format!("/v1/coupons/{coupon}")).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body
    }

    /// An operator changes a coupon.
    pub async fn patch(&self, coupon: i64, change: &Value) -> Reply {
        Http::send(self.http.ops(Method::PATCH, &format!("/v1/coupons/{coupon}")).json(change)).await
    }

    /// What a person holds.
    pub async fn me(&self, coupon: i64, user: &str) -> Value {
        let path = format!("/v1/coupons/{coupon}/claims/me");
        let reply = Http::send(self.http.request(Method::GET, &path).header("x-user-id", user)).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body
    }
}

/// The body of a coupon that has been open for long and stays open.
fn open_coupon(quantity: u32) -> Value {
    json!({
        "name": "Winter coupon", "quantity": quantity, "once_per": "coupon", "waiting_list": 0,
        "schedule": {"type": "once", "opens_at": "2026-01-01T00:00:00Z"},
    })
}

#[derive(Debug, Clone)]
pub struct Reconciler(Http);

impl Reconciler {
    pub(crate) fn new(base: &str) -> Self {
        Self(Http::new(base))
    }

    /// For requests that are not as they should be.
    pub fn http(&self) -> &Http {
        &self.0
    }

    /// `POST /v1/reconcile`, whatever the answer.
    pub async fn ask(&self, body: &Value) -> Reply {
        Http::send(self.0.ops(Method::POST, "/v1/reconcile").json(body)).await
    }

    /// Begins a pass and gives its id. One that runs already is waited for first.
    pub async fn begin(&self) -> String {
        crate::eventually_some("the pass is accepted", crate::LIMIT, async || {
            let reply = self.ask(&json!({"wait": false})).await;
            if reply.status == 409 {
                return Err("another pass runs");
            }
            assert_eq!(reply.status, 202, "{reply:?}");
            let location = reply.location().expect("where to read it");
            Ok(location.rsplit('/').next().unwrap_or_default().to_owned())
        })
        .await
    }

    /// A pass, waited for. One that runs already is waited for first.
    pub async fn reconcile(&self, body: &Value) -> Run {
        crate::eventually_some("the pass is accepted", crate::LIMIT, async || {
            let reply = self.ask(body).await;
            if reply.status == 409 {
                return Err("another pass runs");
            }
            assert_eq!(reply.status, 200, "{reply:?}");
            Ok(serde_json::from_value(reply.body.clone()).unwrap_or_else(|e| panic!("{e}: {reply:?}")))
        })
        .await
    }
}
