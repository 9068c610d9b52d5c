//! Passes that an operator requests at the endpoint or on the command line.

use crate::drift::support::dry_run;
use crate::prelude::*;

#[tokio::test]
async fn pass_requested_without_waiting_blocks_others_and_shows_its_findings() {
    let fixture = Fixture::new("d-asked").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Asked", 20, 20).await;
    world.set("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "60000");
    let daemon = world.daemon().await;
    let http = daemon.http();
    inject(world, &coupon, Drift::Unissued, 2).await;
    // The pass waits for a table that another client holds. This wait has no time limit of InnoDB.
    let mut held = HeldTransaction::begin(&world.sql).await;
    held.run("LOCK TABLES issued_coupons WRITE").await;
    let ask = http.ops(Method::POST, "/v1/reconcile");
    let ask = ask.header("x-operator", "김 Kim".as_bytes());
    let begun = Http::send(ask.json(&json!({"wait": false}))).await;
    assert_eq!(begun.status, 202, "{begun:?}");
    let path = begun.location().unwrap().to_owned();
    let running = daemon.get(&path).await.body;
    let state = (&running["status"], &running["finished_at"]);
    assert_eq!(state, (&json!("running"), &Value::Null));
    let refused = daemon.ask(&json!({})).await;
    let found = (refused.status, &refused.body["code"]);
    assert_eq!(found, (409, &json!("pass_running")));
    assert_eq!(refused.body["run_id"], running["run_id"]);
    held.run("UNLOCK TABLES").await;
    eventually("the pass ends", LIMIT, async || {
        daemon.get(&path).await.body["status"] == "repaired"
    })
    .await;
    let ended = daemon.get(&path).await.body;
    let found = (&ended["trigger"], &ended["asked_by"]);
    assert_eq!(found, (&json!("endpoint"), &json!("김 Kim")));
    let first = daemon.get(&format!("{path}?limit=1")).await.body;
    let next = format!("{path}?limit=1&after={}", first["next_after"]);
    let user = |page: &Value| page["drops"][0]["findings"][0]["user_id"].clone();
    let users = [user(&first), user(&daemon.get(&next).await.body)];
    assert!(users[0].is_string() && users[1].is_string() && users[0] != users[1]);
    let csv = Http::send(http.ops(Method::GET, &format!("{path}/findings.csv"))).await;
    assert!(csv.content_type.starts_with("text/csv"), "{csv:?}");
    assert_eq!(csv.text.matches(",unissued,").count(), 2, "{csv:?}");
    let act = "SELECT COUNT(*) FROM ops_actions WHERE action = 'reveal'";
    assert_eq!(world.sql.number(act).await, 1);
    let mail = mailed(world, &["repaired"]).await;
    let words: Vec<&str> = mail.text.split_whitespace().collect();
    assert!(words.join(" ").contains("asked for by 김 Kim"), "{words:?}");

    daemon.reconcile(&json!({})).await;
    let newest = daemon.get("/v1/runs?limit=1").await.body["runs"][0].clone();
    assert_eq!(newest["status"], "clean");
    let before = newest["run_id"].as_str().unwrap();
    let earlier = daemon
        .get(&format!("/v1/runs?limit=1&before={before}"))
        .await
        .body;
    assert_eq!(earlier["runs"][0]["run_id"], running["run_id"]);
    for (path, status) in [
        ("/v1/runs?limit=many", 400),
        ("/v1/runs/00000000-0000-0000-0000-000000000000", 404),
    ] {
        assert_eq!(daemon.get(path).await.status, status, "{path}");
        assert_eq!(http.get(path).await.status, 401, "{path}: without a token");
    }
    for (body, status) in [
        (json!({"coupon_id": 424_242}), 404),
        (json!({"dry-run": true}), 400),
    ] {
        let refused = daemon.ask(&body).await;
        assert_eq!(refused.status, status, "{body}: starts no real pass");
    }
}

#[tokio::test]
async fn the_command_line_sets_an_exit_code_and_prints_a_table_json_or_equal_reports() {
    let fixture = Fixture::new("d-cli").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("By hand", 20, 20).await;
    pass_ends(world, &[], CLEAN).await;
    let mut injector = injector(world, &coupon).await;
    injector.make(Drift::Unissued, 2).await.unwrap();
    dry_run(world).await;
    let folder = tempfile::tempdir().unwrap();
    let reports = ["1", "2"].map(|name| folder.path().join(name).display().to_string());
    for report in &reports {
        world
            .once_with(&["--dry-run", "--report", report], &[])
            .await;
    }
    let [first, second] = reports.map(|file| std::fs::read_to_string(file).unwrap());
    assert_eq!(first, second, "nothing has changed");
    assert_eq!(first.matches(",unissued,").count(), 2, "{first}");
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
    let mut holder = HeldTransaction::begin(&world.sql).await;
    let lock = "DO GET_LOCK(LEFT(CONCAT('firstcome-pass:', DATABASE()), 64), 0)";
    holder.run(lock).await;
    let nowhere = [
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "0"),
    ];
    for (args, env, says) in [
        (&["--coupon", "424242"][..], &[][..], "no such coupon"),
        (&[], &nowhere, "Redis"),
        (&["--wait-seconds", "1"], &[], "another pass is running"),
    ] {
        let once = world.once_with(args, env).await;
        let is_refused = once.code == 2 && once.log.contains(says);
        assert!(is_refused, "{says}: {}", once.log);
    }
}
