//! The daemon's HTTP API and page: passes and alerts, and nothing about coupons.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::crash::{FILE, program};
use crate::world::{World, trust, users};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

struct Daemon {
    process: Child,
    address: String,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// A response: its status, its head, and its body.
struct Reply(u16, String, String);

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.2).unwrap()
    }
}

impl Daemon {
    /// Starts a daemon whose schedule comes once a year.
    async fn start(world: &World) -> Self {
        trust(&world.attached(FILE)).await;
        let args = "--listen-addr 127.0.0.1:0 --reconcile-cron @yearly";
        let args: Vec<&str> = args.split(' ').collect();
        let mut daemon = program(world, FILE, &args);
        daemon.env("OPS_TOKEN", TOKEN).stderr(Stdio::null());
        let mut process = daemon.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let listening = lines.find_map(|line| {
            let line = line.unwrap();
            line.strip_prefix("listening on http://").map(str::to_owned)
        });
        let address = listening.unwrap();
        Self { process, address }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Reply {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        let (host, length) = (&self.address, body.len());
        let length = format!("content-length: {length}");
        let first = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close");
        let head = [&[first.as_str()], headers, &[length.as_str(), ""]].concat();
        let head = head.join("\r\n");
        let request = format!("{head}\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Reply(status, head.to_owned(), body.to_owned())
    }

    /// Calls a route of the API.
    async fn api(&self, method: &str, path: &str, body: &Value) -> Reply {
        let token = format!("authorization: Bearer {TOKEN}");
        let headers = [
            token.as_str(),
            "x-operator: kim",
            "content-type: application/json",
        ];
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.ask(method, path, &headers, &body).await
    }

    /// Requests a pass once the previous one has ended.
    async fn pass(&self, body: &Value) -> Reply {
        loop {
            let reply = self.api("POST", "/v1/reconcile", body).await;
            if reply.0 != 409 {
                return reply;
            }
        }
    }

    /// Waits for the pass that every daemon begins with.
    async fn after_first_pass(self) -> Self {
        loop {
            let runs = self.api("GET", "/v1/runs", &Value::Null).await.json();
            if runs["runs"][0]["finished_at"].is_string() {
                return self;
            }
        }
    }

    /// Sends a form of the page.
    async fn form(&self, path: &str, cookie: &str, fields: &str) -> Reply {
        let (origin, cookie) = (
            format!("origin: http://{}", self.address),
            format!("cookie: {cookie}"),
        );
        let kind = "content-type: application/x-www-form-urlencoded";
        self.ask("POST", path, &[&origin, &cookie, kind], fields)
            .await
    }

    async fn page(&self, path: &str, cookie: &str) -> Reply {
        let cookie = format!("cookie: {cookie}");
        self.ask("GET", path, &[&cookie], "").await
    }
}

/// Creates a world in which two users have no row, and a failed event names a user who was never
/// promised a coupon.
async fn world() -> World {
    let world = World::new().await;
    world.add_members("@users", users(0..3)).await;
    world.rows(7, users(2..3)).await;
    world.failed(7, users(9..10)).await;
    let () = world.redis("SET @count 3").await;
    world
}

#[tokio::test]
async fn pass_is_requested_by_the_name_of_its_campaign_and_read_with_its_alerts() {
    let world = world().await;
    let daemon = Daemon::start(&world).await.after_first_pass().await;
    let refused = daemon.ask("POST", "/v1/reconcile", &[], "").await;
    assert_eq!(refused.0, 401);
    for (body, status, said) in [
        (json!({"campaign": "Summer"}), 404, "has no campaign"),
        (json!({"coupon_id": 1}), 400, "coupon_id"),
        (json!({"confirm": true}), 400, "confirm needs campaign"),
    ] {
        let reply = daemon.api("POST", "/v1/reconcile", &body).await;
        assert!(reply.0 == status && reply.2.contains(said), "{}", reply.2);
    }
    let body = json!({"campaign": "Winter"});
    let ran = daemon.pass(&body).await;
    let run = ran.json();
    assert!(ran.0 == 200 && run["status"] == "drift", "{run}");
    assert_eq!(world.numbers().await, [3, 1, 3, 3]);
    let path = format!("/v1/runs/{}", run["run_id"].as_str().unwrap());
    let read = daemon.api("GET", &path, &Value::Null).await.json();
    assert_eq!(read["asked_by"], "kim");
    assert_eq!(read["drops"][0]["coupon_name"], "Winter");
    let body = json!({"wait": false});
    let later = daemon.pass(&body).await;
    let is_begun = later.0 == 202 && later.1.contains("location: /v1/runs/");
    assert!(is_begun, "{}", later.1);
    let alerts = daemon.api("GET", "/v1/alerts", &Value::Null).await.json();
    let alert = &alerts["alerts"][0];
    assert_eq!(alert["kind"], "failed_claim");
    assert_eq!(alert["coupon_name"], "Winter");
    let path = format!("/v1/alerts/{}/acknowledge", alert["id"]);
    let body = json!({"by": "kim"});
    assert_eq!(daemon.api("POST", &path, &body).await.0, 200);
    for path in "/v1/overview /v1/people /v1/failed-claims /v1/coupons/1/drops".split(' ') {
        assert_eq!(daemon.api("GET", path, &Value::Null).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn page_shows_passes_and_alerts_and_no_screen_or_link_about_coupons() {
    let world = world().await;
    let daemon = Daemon::start(&world).await.after_first_pass().await;
    assert_eq!(daemon.pass(&Value::Null).await.0, 200);
    assert_eq!(daemon.page("/runs", "").await.0, 303);
    let fields = format!("name=kim&token={TOKEN}&next=%2F");
    let inside = daemon.form("/login", "", &fields).await;
    let cookie = inside.1.split("set-cookie: ").nth(1).unwrap();
    let cookie = cookie.split(';').next().unwrap();
    assert!(daemon.page("/", cookie).await.1.contains("location: /runs"));
    let alerts = daemon.page("/alerts", cookie).await.2;
    let is_listed = alerts.contains("Winter") && alerts.contains("Acknowledge alert");
    assert!(is_listed, "{alerts}");
    let runs = daemon.page("/runs", cookie).await.2;
    let (_, run) = runs.split_once("href=\"/runs/").unwrap();
    let path = format!("/runs/{}", run.split('"').next().unwrap());
    let run = daemon.page(&path, cookie).await.2;
    let is_shown = run.contains("failed_claim") && run.contains("Winter");
    assert!(is_shown, "{run}");
    let csrf = run.split("name=\"csrf\" value=\"").nth(1).unwrap();
    let csrf = format!("csrf={}", csrf.split('"').next().unwrap());
    let reveal = format!("{path}/reveal");
    let revealed = daemon.form(&reveal, cookie, &csrf).await.2;
    assert!(revealed.contains("user-9"), "{revealed}");
    for screen in [&alerts, &runs, &run, &revealed] {
        let absent = ["/coupons", "/people", "/dead-letters", "href=\"/\""];
        for absent in absent.into_iter().chain(["drop -", "coupon -"]) {
            assert!(!screen.contains(absent), "{absent}: {screen}");
        }
    }
    for path in ["/coupons", "/dead-letters", "/people", "/live"] {
        assert_eq!(daemon.page(path, cookie).await.0, 404, "{path}");
    }
    let fields = format!("{csrf}&how=dry_run");
    let begun = daemon.form("/pass", cookie, &fields).await;
    let is_begun = begun.0 == 303 && begun.1.contains("location: /runs/");
    assert!(is_begun, "{}", begun.1);
    assert_eq!(daemon.form("/logout", cookie, &csrf).await.0, 303);
    assert_eq!(daemon.page("/runs", cookie).await.0, 303, "a copied cookie");
}
