//! Clients of the two services.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Timelike as _, Utc};
use firstcome_reconciler::report::Run;
use parking_lot::Mutex;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::reply::HttpReply;
use crate::{LIMIT, eventually, eventually_some};
use firstcome_oracle::{RecordedOutcome, Recorder};

/// The operators' token, which every world uses.
pub const OPS_TOKEN: &str = "system-tests-0123456789abcdef0123456789";

/// The key that signs claim messages.
pub const SIGNING_KEY: &str = "system-tests-0123456789abcdef9876543210";

/// A client of the service at an address.
#[derive(Debug, Clone)]
pub struct Http {
    client: reqwest::Client,
    base: String,
}

impl Http {
    pub fn new(base: &str) -> Self {
        Self::patient(base, Duration::from_secs(60))
    }

    /// Creates a client with this timeout for responses.
    pub fn patient(base: &str, patience: Duration) -> Self {
        // Much shorter than the server's idle timeout. Otherwise a request could be sent on a
        // connection that is closing.
        let idle = Duration::from_secs(5);
        let client = reqwest::Client::builder()
            .timeout(patience)
            .pool_idle_timeout(idle)
            .no_proxy()
            .build()
            .unwrap();
        Self {
            client,
            base: base.to_owned(),
        }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Builds a request that the caller completes and passes to [`Http::send`].
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// Like [`Self::request`], with the operators' token.
    pub fn ops(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path).bearer_auth(OPS_TOKEN)
    }

    pub async fn try_send(request: RequestBuilder) -> reqwest::Result<HttpReply> {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let content_type = headers
            .get(CONTENT_TYPE)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        let text = response.text().await?;
        Ok(HttpReply {
            status,
            content_type,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        })
    }

    /// Sends a request. The test fails if no response arrives.
    pub async fn send(request: RequestBuilder) -> HttpReply {
        Self::try_send(request).await.expect("an answer")
    }

    /// Sends a `GET` to a route without authentication.
    pub async fn get(&self, path: &str) -> HttpReply {
        Self::send(self.request(Method::GET, path)).await
    }

    /// Sums a metric over the lines with all of these labels. `None` if there is no such line.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let text = self.get("/metrics").await.text;
        let lines = text
            .lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with(['{', ' ']));
        let wanted = lines.filter(|rest| labels.iter().all(|label| rest.contains(label)));
        let values: Vec<f64> = wanted
            .map(|rest| rest.rsplit(' ').next().unwrap().parse().unwrap())
            .collect();
        (!values.is_empty()).then(|| values.iter().sum())
    }
}

/// A coupon that was created, with its drops as `GET` returns them.
#[derive(Debug, Clone)]
pub struct MadeCoupon {
    pub id: i64,
    /// The ID of its current drop, or of the next one.
    pub drop: i64,
    pub body: Value,
}

/// A client of the API that records its claims, returns, revocations and changes of allow lists.
#[derive(Clone)]
pub struct ApiClient {
    http: Http,
    recorder: Recorder,
    peers: StartedApis,
}

/// The APIs of a world: those that it has started, and those that a test has created a client for.
pub(crate) type StartedApis = Arc<Mutex<Vec<Http>>>;

impl ApiClient {
    pub(crate) fn new(base: &str, recorder: Recorder, peers: StartedApis) -> Self {
        let http = Http::new(base);
        peers.lock().push(http.clone());
        Self {
            http,
            recorder,
            peers,
        }
    }

    /// Creates a client of the API at an address, with this timeout for responses.
    pub fn patient(base: &str, patience: Duration, recorder: Recorder) -> Self {
        Self {
            http: Http::patient(base, patience),
            recorder,
            peers: StartedApis::default(),
        }
    }

    /// Returns this client for a different address.
    #[must_use]
    pub fn moved_to(&self, base: &str) -> Self {
        Self {
            http: Http {
                base: base.to_owned(),
                ..self.http.clone()
            },
            recorder: self.recorder.clone(),
            peers: self.peers.clone(),
        }
    }

    /// Returns the plain client, for requests that deviate from the contract.
    pub fn http(&self) -> &Http {
        &self.http
    }

    /// Waits until the API runs and could admit users.
    pub async fn until_ready(&self) {
        eventually("the API is ready", LIMIT, async || {
            is_ready(&self.http).await
        })
        .await;
    }

    /// Claims until this user is promised a slot. Returns the drop and the slot.
    pub async fn until_promised(&self, coupon: i64, user: &str) -> (i64, u32) {
        let what = format!("{user} is promised a slot");
        eventually_some(&what, LIMIT, async || {
            let answer = self.claim(coupon, user).await;
            answer.promised().ok_or_else(|| format!("{answer:?}"))
        })
        .await
    }

    /// Claims until the answer is not 503, which a busy machine may cause: a claim that is stored
    /// after its deadlines is not promised. A retry is always safe.
    pub async fn until_answered(&self, coupon: i64, user: &str) -> Answer {
        let what = format!("{user} is answered");
        eventually_some(&what, LIMIT, async || {
            match self.claim(coupon, user).await {
                refused @ Answer::Problem(503, _) => Err(format!("{refused:?}")),
                answer => Ok(answer),
            }
        })
        .await
    }

    /// Sends a claim. An answer outside the contract fails the test.
    pub async fn claim(&self, coupon: i64, user: &str) -> Answer {
        self.try_claim(coupon, None, user).await.unwrap()
    }

    /// Sends a claim. `drop` is the coupon's open drop for the history, if known. The error is an
    /// answer outside the contract.
    pub async fn try_claim(
        &self,
        coupon: i64,
        drop: Option<i64>,
        user: &str,
    ) -> Result<Answer, String> {
        let id = |number: i64| u64::try_from(number).unwrap_or_default();
        let pending = self.recorder.invoke(id(coupon), drop.map(id), user);
        match Http::try_send(self.claim_request(coupon, user)).await {
            Ok(reply) => {
                pending.end(RecordedOutcome::of_http(reply.status, &reply.body));
                Answer::of(&reply)
            }
            Err(error) => {
                pending.end(RecordedOutcome::Unknown(error.to_string()));
                Ok(Answer::Unknown(format!("{error:?}")))
            }
        }
    }

    /// Gives back a user's coupon. The result is the drop and slot (`None` for a place on the
    /// waiting list), or the refusal.
    pub async fn give_back(&self, coupon: i64, user: &str) -> Result<(i64, Option<u32>), Answer> {
        let path = format!("/v1/coupons/{coupon}/claims/me");
        let request = self
            .http
            .request(Method::DELETE, &path)
            .header("x-user-id", user);
        self.revoking(coupon, user, false, request).await
    }

    /// Revokes a user's claim as an operator. The result is the drop and slot (`None` for a place
    /// on the waiting list), or the refusal.
    pub async fn revoke(
        &self,
        coupon: i64,
        user: &str,
        body: &Value,
    ) -> Result<(i64, Option<u32>), Answer> {
        let path = format!("/v1/coupons/{coupon}/people/{user}/revoke");
        let again = body["may_claim_again"] == true;
        let request = self.http.ops(Method::POST, &path).json(body);
        self.revoking(coupon, user, again, request).await
    }

    async fn revoking(
        &self,
        coupon: i64,
        user: &str,
        again: bool,
        request: RequestBuilder,
    ) -> Result<(i64, Option<u32>), Answer> {
        let id = u64::try_from(coupon).unwrap_or_default();
        let pending = self.recorder.revoking(id, None, user, again);
        let reply = match Http::try_send(request).await {
            Ok(reply) => reply,
            Err(error) => {
                pending.end(RecordedOutcome::Unknown(error.to_string()));
                return Err(Answer::Unknown(format!("{error:?}")));
            }
        };
        let body = &reply.body;
        pending.end(RecordedOutcome::of_http(reply.status, body));
        match body["drop_id"].as_i64() {
            Some(drop) if reply.status == 200 && body["status"] == "revoked" => {
                let slot = body["slot"].as_u64();
                Ok((drop, slot.and_then(|slot| slot.try_into().ok())))
            }
            _ => Err(Answer::of(&reply).unwrap_or_else(Answer::Unknown)),
        }
    }

    pub fn claim_request(&self, coupon: i64, user: &str) -> RequestBuilder {
        self.http
            .request(Method::POST, &format!("/v1/coupons/{coupon}/claims"))
            .header("x-user-id", user)
    }

    /// Creates a coupon, and waits until every ready API of the world looks up users in it. Until
    /// then a reconciler that runs may be comparing the coupon, and claims get 503.
    pub async fn create_coupon(&self, body: &Value) -> MadeCoupon {
        let made = self
            .try_create_coupon(body)
            .await
            .unwrap_or_else(|reply| panic!("{reply}"));
        let apis = self.peers.lock().clone();
        for api in &apis {
            let what = format!("{} admits users to coupon {}", api.base(), made.id);
            eventually(&what, LIMIT, async || {
                !is_ready(api).await
                    || look_up(api, made.id, "nobody-has-claimed")
                        .await
                        .is_ok_and(|reply| reply.status != 503)
            })
            .await;
        }
        made
    }

    /// Creates a coupon. Returns an error if no response arrives, or if the response is not a 201
    /// with the IDs of the coupon and a drop.
    pub async fn try_create_coupon(&self, body: &Value) -> Result<MadeCoupon, String> {
        let reply = Http::try_send(self.http.ops(Method::POST, "/v1/coupons").json(body)).await;
        let reply = reply.map_err(|error| error.to_string())?;
        let drop = ["current_drop", "next_drop"]
            .iter()
            .find_map(|name| reply.body[*name]["id"].as_i64());
        let (Some(id), Some(drop), 201) = (reply.body["id"].as_i64(), drop, reply.status) else {
            return Err(format!("no coupon was made: {reply:?}"));
        };
        let path = format!("/v1/coupons/{id}");
        assert!(
            reply.location().is_some_and(|at| at.ends_with(&path)),
            "{reply:?}"
        );
        let body = reply.body;
        Ok(MadeCoupon { id, drop, body })
    }

    /// Creates a coupon that opened long ago and stays open.
    pub async fn open_coupon(&self, quantity: u32) -> MadeCoupon {
        self.create_coupon(&coupon_body("Winter coupon", quantity, 0))
            .await
    }

    /// Reads the coupon as users see it.
    pub async fn coupon(&self, coupon: i64) -> Value {
        let reply = self.http.get(&format!("/v1/coupons/{coupon}")).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body
    }

    /// Changes a coupon as an operator.
    pub async fn patch(&self, coupon: i64, change: &Value) -> HttpReply {
        self.try_patch(coupon, change).await.expect("an answer")
    }

    /// Like [`Self::patch`], but fails unless the change succeeds.
    pub async fn change(&self, coupon: i64, change: &Value) {
        let reply = self.patch(coupon, change).await;
        assert_eq!(reply.status, 200, "{reply:?}");
    }

    /// Like [`Self::patch`], but returns an error if no response arrives.
    pub async fn try_patch(&self, coupon: i64, change: &Value) -> Result<HttpReply, String> {
        let request = self
            .http
            .ops(Method::PATCH, &format!("/v1/coupons/{coupon}"))
            .json(change);
        Http::try_send(request)
            .await
            .map_err(|error| error.to_string())
    }

    /// Adds users to a coupon's allow list, or removes them, as an operator. Returns an error if no
    /// response arrives.
    pub async fn try_list(
        &self,
        coupon: i64,
        people: &[String],
        on: bool,
    ) -> Result<HttpReply, String> {
        let number = u64::try_from(coupon).unwrap_or_default();
        let pending: Vec<_> = people
            .iter()
            .map(|person| self.recorder.listing(number, person, on))
            .collect();
        let path = format!(
            "/v1/coupons/{coupon}/allow-list/{}",
            if on { "add" } else { "remove" }
        );
        let reply =
            Http::try_send(self.http.ops(Method::POST, &path).body(people.join("\n"))).await;
        let outcome = match &reply {
            Ok(reply) => RecordedOutcome::of_list_change(reply.status, &reply.body),
            Err(error) => RecordedOutcome::Unknown(error.to_string()),
        };
        for one in pending {
            one.end(outcome.clone());
        }
        reply.map_err(|error| error.to_string())
    }

    /// Reads a user's own claim.
    pub async fn me(&self, coupon: i64, user: &str) -> Value {
        let reply = self.try_me(coupon, user).await.expect("an answer");
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.body
    }

    /// Like [`Self::me`], but accepts any response, and returns an error if none arrives.
    pub async fn try_me(&self, coupon: i64, user: &str) -> Result<HttpReply, String> {
        look_up(&self.http, coupon, user)
            .await
            .map_err(|error| error.to_string())
    }
}

async fn look_up(api: &Http, coupon: i64, user: &str) -> reqwest::Result<HttpReply> {
    let path = format!("/v1/coupons/{coupon}/claims/me");
    Http::try_send(api.request(Method::GET, &path).header("x-user-id", user)).await
}

/// Whether an API runs and could admit users.
async fn is_ready(api: &Http) -> bool {
    Http::try_send(api.request(Method::GET, "/readyz"))
        .await
        .is_ok_and(|reply| reply.status == 200)
}

/// Returns the body of a coupon that opened long ago and stays open.
pub fn coupon_body(name: &str, quantity: u32, waiting_list: u32) -> Value {
    json!({
        "name": name, "quantity": quantity, "once_per": "coupon", "waiting_list": waiting_list,
        "schedule": {"type": "once", "opens_at": "2026-01-01T00:00:00Z"},
    })
}

/// Returns the body of a daily coupon with a drop on each of this many days. The first one is today
/// in a time zone whose midnight is hours away, and each is open for the whole day.
pub fn daily_body(quantity: u32, days: i64) -> Value {
    let now = Utc::now();
    let is_near_midnight = !(6..18).contains(&now.hour());
    let (zone, ahead) = if is_near_midnight {
        ("Pacific/Kiritimati", 14)
    } else {
        ("UTC", 0)
    };
    let today = (now + TimeDelta::hours(ahead)).date_naive();
    let mut body = coupon_body("Daily", quantity, 0);
    body["schedule"] = json!({
        "type": "daily", "time_zone": zone, "opens": "00:00", "closes": "00:00",
        "first_day": today, "last_day": today + TimeDelta::days(days - 1),
    });
    body
}

#[derive(Debug, Clone)]
pub struct ReconcilerClient(Http);

impl ReconcilerClient {
    pub fn new(base: &str) -> Self {
        Self(Http::new(base))
    }

    /// Returns the plain client, for requests that deviate from the contract.
    pub fn http(&self) -> &Http {
        &self.0
    }

    /// Sends a `GET` to a route of operators, and returns any response.
    pub async fn get(&self, path: &str) -> HttpReply {
        Http::send(self.0.ops(Method::GET, path)).await
    }

    /// Sends `POST /v1/reconcile`, and returns any response.
    pub async fn ask(&self, body: &Value) -> HttpReply {
        Http::send(self.0.ops(Method::POST, "/v1/reconcile").json(body)).await
    }

    /// Begins a pass and returns its ID. Waits for a running pass first.
    pub async fn begin(&self) -> String {
        let reply = self.accepted(&json!({"wait": false}), 202).await;
        let location = reply.location().expect("a Location header");
        location.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// Runs a pass to its end. Waits for a running pass first.
    pub async fn reconcile(&self, body: &Value) -> Run {
        let reply = self.accepted(body, 200).await;
        serde_json::from_value(reply.body.clone()).unwrap_or_else(|e| panic!("{e}: {reply:?}"))
    }

    async fn accepted(&self, body: &Value, status: u16) -> HttpReply {
        eventually_some("the pass is accepted", LIMIT, async || {
            let reply = self.ask(body).await;
            if reply.status == 409 {
                return Err("another pass runs");
            }
            assert_eq!(reply.status, status, "{reply:?}");
            Ok(reply)
        })
        .await
    }
}
