//! The daemon's HTTP API and page: passes and alerts, and nothing about coupons.

use firstcome_stack::{eventually, eventually_some};
use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use crate::program::{DAEMON, FILE, LIMIT, Running, World, attach, shop};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

struct Daemon {
    _running: Running,
    /// Follows no redirection and keeps no cookies.
    client: Client,
    base: String,
}

struct Reply {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    fn location(&self) -> &str {
        self.headers[LOCATION].to_str().unwrap()
    }
}

impl Daemon {
    /// Starts a daemon whose schedule comes once a year, and waits for the pass that every daemon
    /// begins with.
    async fn start(shop: &World) -> Self {
        let mut command = attach(shop, FILE, &DAEMON);
        command.args(["--reconcile-cron", "@yearly"]);
        let running = Running::start(command.env("OPS_TOKEN", TOKEN));
        let listening = running.program.lines(["listening on "], LIMIT);
        let [base] = listening.await.unwrap();
        let client = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .timeout(LIMIT)
            .build();
        let daemon = Self {
            _running: running,
            client: client.unwrap(),
            base,
        };
        eventually("the first pass has ended", LIMIT, async || {
            let runs = daemon.api(Method::GET, "/v1/runs", &Value::Null).await;
            runs.json()["runs"][0]["finished_at"].is_string()
        })
        .await;
        daemon
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// Calls a route of the API.
    async fn api(&self, method: Method, path: &str, body: &Value) -> Reply {
        let mut request = self.request(method, path).bearer_auth(TOKEN);
        if !body.is_null() {
            request = request.json(body);
        }
        send(request.header("x-operator", "kim")).await
    }

    /// Requests a pass once the previous one has ended.
    async fn pass(&self, body: &Value) -> Reply {
        eventually_some("no other pass is running", LIMIT, async || {
            let reply = self.api(Method::POST, "/v1/reconcile", body).await;
            if reply.status == 409 {
                return Err(reply.text);
            }
            Ok(reply)
        })
        .await
    }

    /// Sends a form of the page.
    async fn form(&self, path: &str, cookie: &str, fields: String) -> Reply {
        let request = self
            .request(Method::POST, path)
            .header(ORIGIN, &self.base)
            .header(COOKIE, cookie)
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(fields);
        send(request).await
    }

    async fn page(&self, path: &str, cookie: &str) -> Reply {
        send(self.request(Method::GET, path).header(COOKIE, cookie)).await
    }
}

async fn send(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    Reply {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        text: response.text().await.unwrap(),
    }
}

#[tokio::test]
async fn repairs_that_a_run_has_shown_are_confirmed_by_that_run_and_read_with_its_alerts() {
    let shop = shop().await;
    let daemon = Daemon::start(&shop).await;
    let refused = send(daemon.request(Method::POST, "/v1/reconcile")).await;
    assert_eq!(refused.status, 401);
    for (body, status, said) in [
        (json!({"campaign": "Summer"}), 404, "has no campaign"),
        (json!({"coupon_id": 1}), 400, "coupon_id"),
        (json!({"confirm": true}), 400, "confirm"),
    ] {
        let reply = daemon.api(Method::POST, "/v1/reconcile", &body).await;
        assert_eq!(reply.status, status, "{}", reply.text);
        assert!(reply.text.contains(said), "{}", reply.text);
    }
    let body = json!({"campaign": "Winter"});
    let shown = eventually_some("both repairs are planned", LIMIT, async || {
        let run = daemon.pass(&body).await.json();
        let findings = run["drops"][0]["findings"].as_array().unwrap();
        let planned = findings.iter().filter(|it| it["result"] == "planned");
        if planned.count() == 2 {
            return Ok(run);
        }
        Err(run.to_string())
    })
    .await;
    assert_eq!(shown["drops"][0]["coupon_name"], "Winter");
    let path = format!("/v1/runs/{}", shown["run_id"].as_str().unwrap());
    let read = daemon.api(Method::GET, &path, &Value::Null).await.json();
    assert_eq!(read["asked_by"], "kim");
    let alerts = eventually_some("both problems are alerts", LIMIT, async || {
        let alerts = daemon.api(Method::GET, "/v1/alerts", &Value::Null).await;
        let alerts = alerts.json();
        match alerts["alerts"].as_array() {
            Some(all) if all.len() == 2 => Ok(alerts.clone()),
            _ => Err(alerts.to_string()),
        }
    })
    .await;
    let alert = &alerts["alerts"][0];
    assert_eq!(alert["coupon_name"], "Winter");
    let acknowledge = format!("/v1/alerts/{}/acknowledge", alert["id"]);
    let body = json!({"by": "kim"});
    let acknowledged = daemon.api(Method::POST, &acknowledge, &body).await;
    assert_eq!(acknowledged.status, 200, "{}", acknowledged.text);
    let _: i64 = shop.redis("SREM @users user-1").await;
    let confirm = format!("{path}/confirm");
    let body = json!({"coupon_id": shown["drops"][0]["coupon_id"]});
    let confirmed = daemon.api(Method::POST, &confirm, &body).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.text);
    let rows = "SELECT COUNT(*) FROM coupon WHERE user_id IN ('user-0', 'user-1')";
    assert_eq!(shop.number(rows).await, 1, "{}", confirmed.text);
    for path in "/v1/overview /v1/people /v1/failed-claims /v1/coupons/1/drops".split(' ') {
        let absent = daemon.api(Method::GET, path, &Value::Null).await;
        assert_eq!(absent.status, 404, "{path}");
    }
}

#[tokio::test]
async fn page_shows_passes_and_alerts_and_no_screen_or_link_about_coupons() {
    let shop = shop().await;
    let daemon = Daemon::start(&shop).await;
    eventually("the event is named", LIMIT, async || {
        let run = daemon.pass(&Value::Null).await;
        run.text.contains("\"kind\":\"failed_claim\"")
    })
    .await;
    assert_eq!(daemon.page("/runs", "").await.status, 303);
    let fields = format!("name=kim&token={TOKEN}&next=%2F");
    let inside = daemon.form("/login", "", fields).await;
    let cookie = inside.headers[SET_COOKIE].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap();
    assert_eq!(daemon.page("/", cookie).await.location(), "/runs");
    let alerts = eventually_some("the alert is listed", LIMIT, async || {
        let alerts = daemon.page("/alerts", cookie).await.text;
        if alerts.contains("Winter") && alerts.contains("Acknowledge alert") {
            return Ok(alerts);
        }
        Err(alerts)
    })
    .await;
    let runs = daemon.page("/runs", cookie).await.text;
    let (_, run) = runs.split_once("href=\"/runs/").unwrap();
    let path = format!("/runs/{}", run.split('"').next().unwrap());
    let run = daemon.page(&path, cookie).await.text;
    let is_shown = run.contains("failed_claim") && run.contains("Winter");
    assert!(is_shown, "{run}");
    let reveal = format!("{path}/reveal");
    let revealed = daemon.form(&reveal, cookie, String::new()).await.text;
    assert!(revealed.contains("user-99"), "{revealed}");
    for screen in [&alerts, &runs, &run, &revealed] {
        let absent = ["/coupons", "/people", "/dead-letters", "href=\"/\""];
        for absent in absent.into_iter().chain(["drop -", "coupon -"]) {
            assert!(!screen.contains(absent), "{absent}: {screen}");
        }
    }
    for path in ["/coupons", "/dead-letters", "/people", "/live"] {
        assert_eq!(daemon.page(path, cookie).await.status, 404, "{path}");
    }
    let begun = daemon.form("/pass", cookie, "how=dry_run".into()).await;
    assert_eq!(begun.status, 303, "{}", begun.text);
    assert!(begun.location().starts_with("/runs/"));
    let outside = daemon.form("/logout", cookie, String::new()).await;
    assert_eq!(outside.status, 303);
    let cleared = outside.headers[SET_COOKIE].to_str().unwrap();
    assert!(cleared.contains("Max-Age=0"), "{cleared}");
}
