//! Passes that an operator requests at the endpoint or on the command line.

use std::time::Duration;

use firstcome_reconciler::report::Status;
use firstcome_stack::{FaultProxy, ProxyFault};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Fixture, HeldTransaction, Http, LIMIT, OPS_TOKEN, ReconcilerClient, Running, World, eventually,
    eventually_some, shared, status_of,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::drift::support::{CLEAN, DRIFT, dry_run, inject, injector, mailed, pass_ends};

#[tokio::test]
async fn a_pass_requested_without_waiting_can_be_read_later_and_blocks_others() {
    let fixture = Fixture::new("d-409").await;
    let world = &fixture.world;
    fixture.held("Asked", 200, 200).await;
    let slow = Hindered::start(world, &[]).await;
    let id = slow.begin_slow_pass(world).await;
    let refused = slow.daemon.ask(&json!({})).await;
    assert_eq!(
        (refused.status, refused.body["code"].as_str()),
        (409, Some("pass_running")),
        "{refused:?}"
    );
    assert_eq!(refused.body["run_id"], id.as_str());
    assert_eq!(refused.content_type, "application/problem+json");

    let path = format!("/v1/runs/{id}");
    let get = async || Http::send(slow.daemon.http().ops(Method::GET, &path)).await;
    let running = get().await;
    assert_eq!(
        (running.status, &running.body["status"]),
        (200, &json!("running")),
        "{running:?}"
    );
    assert_eq!(running.body["finished_at"], Value::Null);
    let began = "firstcome_pass_start_timestamp_seconds";
    let began = slow.daemon.http().metric(began, &[]).await;
    assert!(began > Some(1e9), "{began:?}");
    slow.proxy.set(ProxyFault::Pass).await.unwrap();
    eventually("the pass ends", LIMIT, async || {
        status_of(world, &id).await.as_deref() == Some("clean")
    })
    .await;
    let ended = get().await;
    assert_eq!(ended.body["status"], "clean");
    assert_eq!(ended.body["trigger"], "endpoint");
    assert_eq!(ended.body["drops"], json!([]), "no drop has findings");
    assert_eq!(
        (
            &ended.body["unlisted"]["drops"],
            &ended.body["unlisted"]["rows"]
        ),
        (&json!(1), &json!(200))
    );
}

#[tokio::test]
async fn runs_are_listed_newest_first_with_findings_page_by_page() {
    let fixture = Fixture::new("d-runs").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Listed", 100, 100).await;
    let daemon = world.daemon().await;
    daemon.reconcile(&json!({})).await;
    let done = inject(world, &coupon, Drift::Unissued, 25).await;
    let run = daemon.reconcile(&json!({})).await;
    assert_eq!(run.status, Status::Repaired);
    daemon.reconcile(&json!({})).await;
    let get = async |path: &str| Http::send(daemon.http().ops(Method::GET, path)).await;

    // The pages of runs have no gap and no overlap.
    let mut ids: Vec<String> = Vec::new();
    loop {
        let before = ids
            .last()
            .map(|id| format!("&before={id}"))
            .unwrap_or_default();
        let page = get(&format!("/v1/runs?limit=2{before}")).await;
        assert_eq!(page.status, 200, "{page:?}");
        let runs = page.body["runs"].as_array().unwrap().clone();
        assert!(runs.len() <= 2);
        if runs.is_empty() {
            break;
        }
        ids.extend(
            runs.iter()
                .map(|run| run["run_id"].as_str().unwrap().to_owned()),
        );
    }
    let all: Vec<String> = world
        .sql
        .query("SELECT id FROM reconcile_runs ORDER BY id DESC")
        .await
        .concat();
    assert_eq!(ids, all);
    assert_eq!(ids[1], run.run_id);

    // The pages of findings.
    let mut people = Vec::new();
    let mut after = String::new();
    loop {
        let page = get(&format!("/v1/runs/{}?limit=10{after}", run.run_id)).await;
        assert_eq!(page.status, 200, "{page:?}");
        let findings = page.body["drops"][0]["findings"]
            .as_array()
            .unwrap()
            .clone();
        assert!(findings.len() <= 10);
        people.extend(
            findings
                .iter()
                .map(|f| f["user_id"].as_str().unwrap().to_owned()),
        );
        match page.body["next_after"].as_i64() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    let mut wanted: Vec<String> = done.people.iter().map(|hit| hit.user.clone()).collect();
    wanted.sort();
    people.sort();
    assert_eq!(people, wanted);

    assert_eq!(get("/v1/runs?limit=many").await.status, 400);
    assert_eq!(
        get("/v1/runs/00000000-0000-0000-0000-000000000000")
            .await
            .status,
        404
    );
    assert_eq!(daemon.ask(&json!({"coupon_id": 424_242})).await.status, 404);
    assert_eq!(
        daemon.ask(&json!({"dry-run": true})).await.status,
        400,
        "a typo must not start a real pass"
    );
    assert_eq!(daemon.http().get("/v1/runs").await.status, 401);
    let wrong = daemon
        .http()
        .request(Method::POST, "/v1/reconcile")
        .bearer_auth(OPS_TOKEN.replace('0', "1"));
    assert_eq!(Http::send(wrong).await.status, 401);
}

#[tokio::test]
async fn the_requester_of_a_pass_is_shown_in_its_mail_and_in_its_run() {
    let fixture = Fixture::new("d-by-name").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("By name", 20, 12).await;
    let daemon = world.daemon().await;
    inject(world, &coupon, Drift::Unissued, 2).await;
    let get = async |path: &str| Http::send(daemon.http().ops(Method::GET, path)).await.body;
    let ask = daemon
        .http()
        .ops(Method::POST, "/v1/reconcile")
        .header("x-operator", "김 Kim".as_bytes());
    let run = Http::send(ask).await;
    assert_eq!(
        (run.status, &run.body["status"], &run.body["asked_by"]),
        (200, &json!("repaired"), &json!("김 Kim"))
    );
    assert_eq!(
        get("/v1/runs?limit=1").await["runs"][0]["asked_by"],
        "김 Kim"
    );
    let path = format!("/v1/runs/{}", run.body["run_id"].as_str().unwrap());
    assert_eq!(get(&path).await["asked_by"], "김 Kim");
    let mail = mailed(world, &["repaired"]).await;
    let words = mail.text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("asked for by 김 Kim"), "{words}");
    // A pass that was requested without a name shows no requester.
    daemon.reconcile(&json!({})).await;
    assert_eq!(
        get("/v1/runs?limit=1").await["runs"][0]["asked_by"],
        Value::Null
    );
}

#[tokio::test]
async fn the_command_line_sets_an_exit_code_and_prints_a_table_or_json() {
    let fixture = Fixture::new("d-cli").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("By hand", 20, 20).await;
    pass_ends(world, &[], CLEAN).await;
    let mut injector = injector(world, &coupon).await;
    injector.make(Drift::Unissued, 2).await.unwrap();
    dry_run(world).await;

    let table = world.start("firstcome-reconciler", &["once"], &[]);
    assert_eq!(table.ended(LIMIT).await, 0, "{}", table.log());
    let shown = table.all_stdout().await;
    for word in ["By hand", "18 → 20", "applied", "unissued", "repaired"] {
        assert!(shown.contains(word), "{word} is not in\n{shown}");
    }
    injector.make(Drift::FailedUnrepairable, 1).await.unwrap();
    pass_ends(world, &[], DRIFT).await;

    // The pass cannot run, because the coupon does not exist, a store is down, or another pass is
    // running.
    let unknown = world.once_with(&["--coupon", "424242"], &[]).await;
    assert_eq!(unknown.code, 2, "{}", unknown.log);
    let nowhere = [
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "0"),
    ];
    assert_eq!(world.once_with(&[], &nowhere).await.code, 2);
    let mut holder = HeldTransaction::begin(&world.sql).await;
    holder
        .run("DO GET_LOCK(LEFT(CONCAT('firstcome-pass:', DATABASE()), 64), 0)")
        .await;
    let busy = world.once_with(&["--wait-seconds", "1"], &[]).await;
    assert_eq!(busy.code, 2, "{}", busy.log);
    assert!(busy.log.contains("another pass is running"), "{}", busy.log);
    holder.commit().await;
    assert_eq!(world.once_with(&[], &[]).await.code, 1);
}

#[tokio::test]
async fn clean_runs_are_deleted_after_their_retention_and_others_are_kept() {
    let fixture = Fixture::new("d-old").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Old", 20, 20).await;
    world.set("FIRSTCOME_TEST_CLEAN_RUNS_KEPT_SECONDS", "3600");
    inject(world, &coupon, Drift::Unissued, 2).await;
    assert_eq!(world.pass().await.status, Status::Repaired);
    let young = world.pass().await;
    // Backdates all runs by two hours.
    let statement = "UPDATE reconcile_runs SET started_at = started_at - INTERVAL 2 HOUR";
    world.sql.query(statement).await;
    // Each deletes what was old when it began, but for the last clean run.
    let second = world.pass().await;
    let last = world.pass().await;
    let kept = |runs: Vec<Vec<String>>| {
        runs.into_iter()
            .map(|mut row| row.remove(0))
            .collect::<Vec<_>>()
    };
    let clean = world
        .sql
        .query("SELECT id FROM reconcile_runs WHERE status = 'clean'")
        .await;
    assert_eq!(
        kept(clean),
        [young.run_id, second.run_id.clone(), last.run_id.clone()],
        "the first one, and the young ones"
    );
    let statement = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'repaired'";
    assert_eq!(world.sql.number(statement).await, 1);
    let statement = "SELECT COUNT(*) FROM reconcile_findings";
    assert_eq!(world.sql.number(statement).await, 2);
    // The first and the last clean run are kept, even if all later passes fail.
    let statement = "UPDATE reconcile_runs SET started_at = started_at - INTERVAL 2 HOUR";
    world.sql.query(statement).await;
    inject(world, &coupon, Drift::FailedUnrepairable, 1).await;
    assert_eq!(world.once_with(&[], &[]).await.code, 1);
    let statement = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'clean' AND NOT dry_run";
    assert_eq!(world.sql.number(statement).await, 2);
}

/// A daemon whose connection to MySQL can be slowed, and whose passes take many small steps.
struct Hindered {
    proxy: FaultProxy,
    daemon: Running<ReconcilerClient>,
}

impl Hindered {
    async fn start(world: &World, env: &[(&str, &str)]) -> Self {
        let mysql = &shared().await.mysql;
        let proxy = mysql.proxy().await.unwrap();
        let url = mysql.database_url_via(&proxy, world.database());
        let mut all = vec![
            ("DATABASE_URL", url.as_str()),
            ("FIRSTCOME_TEST_RECONCILE_PAGE_SLOTS", "10"),
        ];
        all.extend(env);
        let daemon = world.daemon_with(&all).await;
        // Waits for the end of its first pass.
        daemon.reconcile(&json!({})).await;
        Self { proxy, daemon }
    }

    /// Begins a pass that takes seconds, and waits until it is running. Returns its ID.
    async fn begin_slow_pass(&self, world: &World) -> String {
        self.proxy
            .set(ProxyFault::Delay(Duration::from_millis(40)))
            .await
            .unwrap();
        // The request is refused while a scheduled pass is running.
        let reply = eventually_some("the pass is accepted", LIMIT, async || {
            let reply = self.daemon.ask(&json!({"wait": false})).await;
            if reply.status == 202 {
                Ok(reply)
            } else {
                Err(reply.text)
            }
        })
        .await;
        let id = reply.body["run_id"].as_str().unwrap().to_owned();
        assert_eq!(reply.location(), Some(format!("/v1/runs/{id}").as_str()));
        eventually("the pass is running", LIMIT, async || {
            status_of(world, &id).await.as_deref() == Some("running")
        })
        .await;
        id
    }
}
