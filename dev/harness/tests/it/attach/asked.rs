//! Requests that an operator sends to the daemon over HTTP: a pass while another one runs, and the
//! confirmation of a plan that a pass has shown.

use std::path::Path;

use firstcome_harness::{HeldTransaction, LIMIT, OPS_TOKEN, Process, eventually};
use reqwest::{Client, Method};
use serde_json::{Value, json};

use super::Shop;

/// The HTTP API of a daemon.
struct Api {
    client: Client,
    base: String,
}

impl Api {
    async fn ask(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.base));
        let answer = request.bearer_auth(OPS_TOKEN).json(body).send().await;
        let answer = answer.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap())
    }

    async fn reconcile(&self, body: &Value) -> (u16, Value) {
        self.ask(Method::POST, "/v1/reconcile", body).await
    }

    async fn run(&self, begun: &Value) -> (u16, Value) {
        let path = format!("/v1/runs/{}", begun["run_id"].as_str().unwrap());
        self.ask(Method::GET, &path, &json!({})).await
    }
}

/// Starts a daemon without a scheduled pass, and waits until its first pass has ended.
async fn api(shop: &Shop, file: &Path) -> (Process, Api) {
    let daemon = shop.daemon(file, &[]);
    let base = format!("http://{}", daemon.line("listening on http://").await);
    let runs = "SELECT COUNT(*) FROM reconcile_runs WHERE finished_at IS NOT NULL";
    eventually("the first pass ends", LIMIT, async || {
        shop.world.sql.number(runs).await == 1
    })
    .await;
    let client = Client::builder().no_proxy().build().unwrap();
    (daemon, Api { client, base })
}

#[tokio::test]
async fn a_pass_requested_during_another_is_queued_and_a_third_is_refused() {
    let shop = Shop::new("attach-queued").await;
    let file = shop.file(&shop.stores().await, "");
    shop.sell(0..10).await;
    let (_daemon, api) = api(&shop, &file).await;
    // This lock on their table makes the next pass wait.
    let mut theirs = HeldTransaction::begin(&shop.sql).await;
    theirs.run("LOCK TABLES coupon WRITE").await;
    let (status, first) = api.reconcile(&json!({"wait": false})).await;
    assert_eq!(status, 202, "{first}");
    // The start-up pass may still count as running for a moment.
    eventually("the first pass begins", LIMIT, async || {
        api.run(&first).await.0 == 200
    })
    .await;
    let (status, second) = api
        .reconcile(&json!({"wait": false, "dry_run": true}))
        .await;
    assert_eq!((status, &second["queued"]), (202, &json!(true)), "{second}");
    let (status, why) = api.run(&second).await;
    assert_eq!(status, 503, "{why}");
    let (status, why) = api.reconcile(&json!({"wait": false})).await;
    assert_eq!(status, 409, "{why}");
    theirs.run("UNLOCK TABLES").await;
    eventually("the queued pass ends", LIMIT, async || {
        let (status, run) = api.run(&second).await;
        status == 200 && run["finished_at"].is_string() && run["dry_run"] == true
    })
    .await;
    let (_, first) = api.run(&first).await;
    assert_eq!(first["status"], "clean", "{first}");
}

#[tokio::test]
async fn a_confirmation_applies_only_the_plan_that_was_shown_last() {
    let shop = Shop::new("attach-shown").await;
    let file = shop.file(&shop.stores().await, "mode = 'repair'");
    shop.sell(0..30).await;
    let (_daemon, api) = api(&shop, &file).await;
    // First the counter is deleted. Then a row is added, so that the next pass shows another plan.
    let count = shop.key("count");
    let () = shop.redis(&["DEL", &count]).await;
    let (_, before) = api.reconcile(&json!({"dry_run": true})).await;
    shop.add_row(30).await;
    let (_, shown) = api.reconcile(&json!({})).await;
    let (_, after) = api.reconcile(&json!({"dry_run": true})).await;
    for run in [&before, &after] {
        let findings = &run["drops"][0]["findings"];
        assert_eq!(findings[0]["result"], "planned", "{run}");
    }
    let campaign = json!({"coupon_id": before["drops"][0]["coupon_id"]});
    let confirm = async |run: &Value, body: &Value| {
        let path = format!("/v1/runs/{}/confirm", run["run_id"].as_str().unwrap());
        api.ask(Method::POST, &path, body).await
    };
    let (status, why) = confirm(&before, &campaign).await;
    assert_eq!(status, 412, "{why}");
    let (status, why) = confirm(&after, &json!({"coupon_id": 1})).await;
    assert_eq!(status, 404, "{why}");
    let (status, run) = confirm(&after, &campaign).await;
    assert_eq!(
        (status, &run["status"]),
        (200, &json!("repaired")),
        "{run} {shown}"
    );
    assert_eq!(shop.redis::<Option<i64>>(&["GET", &count]).await, Some(31));
}
