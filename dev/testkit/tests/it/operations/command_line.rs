//! `firstcome-api coupon …` as an operator types it.

use firstcome_testkit::{
    ApiClient, Fixture, LIMIT, World, all_issued, coupon_body, eventually, people, rush,
};
use serde_json::{Value, json};

struct Said {
    code: i32,
    out: String,
    log: String,
}

async fn coupon(world: &World, api: &ApiClient, args: &[&str]) -> Said {
    coupon_with(world, &[("API_URL", api.http().base())], args).await
}

async fn coupon_with(world: &World, env: &[(&str, &str)], args: &[&str]) -> Said {
    let all: Vec<&str> = ["coupon"].iter().chain(args).copied().collect();
    let process = world.start("firstcome-api", &all, env);
    let code = process.ended(LIMIT).await;
    let out = process.all_stdout().await;
    assert!(
        out.lines().all(|line| line.chars().count() <= 80)
            || args.contains(&"--json")
            || args.contains(&"--csv"),
        "{out}"
    );
    Said {
        code,
        out,
        log: process.log(),
    }
}

#[tokio::test]
async fn a_coupon_is_created_watched_changed_and_closed_by_the_command_line() {
    let fixture = Fixture::new("cli").await;
    let world = &fixture.world;
    let api = &*fixture.api;
    let daily = [
        "create",
        "--name",
        "Winter · 겨울",
        "--quantity",
        "3",
        "--once-per",
        "drop",
        "--time-zone",
        "Asia/Seoul",
        "--opens",
        "00:00",
        "--closes",
        "00:00",
        "--first-day",
        "2026-01-01",
    ];
    let is_opening = |line: &&str| line.contains(" 00:00 +09:00  ");
    let preview = coupon(world, api, &[&daily[..], &["--preview"]].concat()).await;
    assert_eq!(preview.code, 0, "{}", preview.log);
    assert_eq!(
        preview.out.lines().filter(is_opening).count(),
        10,
        "{}",
        preview.out
    );
    let begun = preview
        .out
        .lines()
        .position(|line| line.contains("it opens at once"));
    assert_eq!(
        begun,
        Some(3),
        "today's drop is created too: {}",
        preview.out
    );
    assert_eq!(
        world.sql.number("SELECT COUNT(*) FROM coupons").await,
        0,
        "nothing is created"
    );
    let made = coupon(world, api, &daily).await;
    assert_eq!(made.code, 0, "{}", made.log);
    assert!(
        made.out.contains("Winter · 겨울") && made.out.contains("Asia/Seoul"),
        "{}",
        made.out
    );
    assert_eq!(
        made.out.lines().filter(is_opening).count(),
        10,
        "{}",
        made.out
    );
    let all: Vec<Value> =
        serde_json::from_str(&coupon(world, api, &["list", "--json"]).await.out).unwrap();
    let id = all[0]["id"].to_string();
    let drop = all[0]["current_drop"]["id"].as_i64().unwrap();
    let number = all[0]["id"].as_i64().unwrap();
    rush(&[api], number, &people(3), 3).await;
    all_issued(world, drop, 3).await;

    let run = async |args: &[&str]| {
        let said = coupon(world, api, args).await;
        assert_eq!(said.code, 0, "{args:?}: {}", said.log);
        said.out
    };
    // The remaining number is half a second old at most.
    eventually("the list says that none is left", LIMIT, async || {
        run(&["list"]).await.contains("0 of 3")
    })
    .await;
    assert!(run(&["pause", &id]).await.contains("PAUSED"));
    assert!(!run(&["resume", &id]).await.contains("PAUSED"));
    assert!(run(&["raise", &id, "5"]).await.contains("2 of 5"));
    let lines = run(&["winners", &id, "--json"]).await;
    let winners: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        winners
            .iter()
            .map(|row| row["slot"].as_i64().unwrap())
            .collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let table = run(&["winners", &id]).await;
    let csv = run(&["winners", &id, "--csv"]).await;
    for row in &winners {
        let code = row["code"].as_str().unwrap();
        assert!(table.contains(code) && csv.contains(code), "{table}\n{csv}");
    }
    let user = winners[0]["user_id"].as_str().unwrap();
    for _ in 0..2 {
        assert!(
            run(&["revoke", &id, user, "--reason", "fraud", "--by", "Kim"])
                .await
                .contains("slot 1 of drop")
        );
    }
    let revoked = run(&[
        "revoke",
        &id,
        user,
        "--reason",
        "fraud",
        "--operator",
        "Kim",
        "--json",
    ])
    .await;
    assert_eq!(
        serde_json::from_str::<Value>(&revoked).unwrap()["status"],
        "revoked"
    );
    let edited = run(&[
        "edit",
        &id,
        "--name",
        "Spring",
        "--waiting-list",
        "7",
        "--json",
    ])
    .await;
    let edited: Value = serde_json::from_str(&edited).unwrap();
    assert_eq!(
        (&edited["name"], &edited["waiting_list"]),
        (&json!("Spring"), &json!(7))
    );
    let asked = coupon(world, api, &["close", &id]).await;
    assert!(
        asked.code == 1 && asked.log.contains("\"Spring\"") && asked.log.contains("--yes"),
        "{}",
        asked.log
    );
    assert_eq!(
        world
            .sql
            .number("SELECT COUNT(*) FROM drops WHERE closed_early")
            .await,
        0,
        "nothing is closed yet"
    );
    assert!(run(&["close", &id, "--yes"]).await.contains("closed"));
    assert!(run(&["show", &id]).await.contains("opens next"));
    let operator = coupon_with(
        world,
        &[("API_URL", api.http().base())],
        &["pause", &id, "--operator", "김 Kim"],
    )
    .await;
    assert_eq!(operator.code, 0, "{}", operator.log);
    let last = "SELECT operator FROM ops_actions ORDER BY id DESC LIMIT 1";
    assert_eq!(world.sql.query(last).await, [["김 Kim"]]);
}

#[tokio::test]
async fn errors_are_one_sentence_and_an_exit_code() {
    let fixture = Fixture::new("cli-wrong").await;
    let world = &fixture.world;
    let base = fixture.api.http().base();
    let id = fixture.api.open_coupon(3).await.id.to_string();
    let daily = json!({"type": "daily", "time_zone": "Asia/Seoul", "opens": "15:00", "closes": "18:00", "first_day": "2100-01-01"});
    let mut body = coupon_body("Later", 3, 0);
    body["schedule"] = daily;
    let later = fixture.api.create_coupon(&body).await.id.to_string();
    let preview = [
        "create",
        "--name",
        "x",
        "--opens-at",
        "2100-01-01T00:00:00Z",
        "--preview",
    ];
    let of_none = [&preview[..], &["--quantity", "0"]].concat();
    let in_seul = [
        "create",
        "--name",
        "x",
        "--quantity",
        "1",
        "--opens",
        "15:00",
        "--closes",
        "18:00",
        "--first-day",
    ];
    let in_seul = [
        &in_seul[..],
        &["2100-01-01", "--preview", "--time-zone", "Asia/Seul"],
    ]
    .concat();
    let good = ("API_URL", base);
    let nobody = ("API_URL", "http://127.0.0.1:1");
    let tls = ("API_URL", "ftp://x");
    for (env, args, code, says) in [
        (
            vec![good],
            vec!["show", "4711"],
            1,
            "there is no coupon 4711",
        ),
        (vec![good], vec!["raise", &id, "2"], 1, "larger number"),
        (
            vec![good],
            vec![
                "create",
                "--name",
                "x",
                "--quantity",
                "1",
                "--opens-at",
                "soon",
            ],
            1,
            "instant",
        ),
        (
            vec![nobody],
            vec![
                "create",
                "--name",
                "x",
                "--quantity",
                "1",
                "--opens-at",
                "soon",
                "--preview",
            ],
            1,
            "instant",
        ),
        (
            vec![good],
            vec!["revoke", &id, "a|b", "--reason", "x", "--by", "x"],
            1,
            "no claim of this person",
        ),
        (
            vec![good],
            vec!["revoke", &id, "..", "--reason", "x", "--by", "x"],
            1,
            "no claim of this person",
        ),
        (
            vec![good],
            vec!["revoke", &id, "u-1", "--reason", "x"],
            2,
            "--by",
        ),
        (
            vec![good, ("OPS_TOKEN", "wrong")],
            vec!["pause", &id],
            1,
            "set it as the API has it",
        ),
        (
            vec![good, ("OPS_TOKEN", "")],
            vec!["pause", &id],
            2,
            "set OPS_TOKEN",
        ),
        (
            vec![nobody],
            of_none,
            1,
            "quantity must be a whole number from 1",
        ),
        (vec![nobody], in_seul, 1, "did you mean Asia/Seoul?"),
        (vec![good], vec!["close", &later], 1, "--last-day"),
        (vec![good], vec!["close", &later, "--yes"], 1, "--last-day"),
        (vec![good], vec!["edit", &later], 2, "--last-day"),
        (vec![nobody], vec!["list"], 2, "API_URL"),
        (vec![tls], vec!["list"], 2, "http://"),
        (vec![good], vec!["create", "--name", "x"], 2, "--quantity"),
    ] {
        let said = coupon_with(world, &env, &args).await;
        assert_eq!(
            (said.code, said.out.as_str()),
            (code, ""),
            "{args:?}: {}",
            said.log
        );
        assert!(said.log.contains(says), "{args:?}: {}", said.log);
    }
}

#[tokio::test]
async fn an_allow_list_is_sent_in_parts_shown_and_searched() {
    let fixture = Fixture::new("cli-allow").await;
    let world = &fixture.world;
    let api = &*fixture.api;
    let at = "2026-01-01T00:00:00Z";
    let create = [
        "create",
        "--name",
        "x",
        "--quantity",
        "3",
        "--opens-at",
        at,
        "--allow",
        "list",
        "--json",
    ];
    let made: Value = serde_json::from_str(&coupon(world, api, &create).await.out).unwrap();
    let id = made["id"].to_string();
    let number = made["id"].as_i64().unwrap();
    assert_eq!(made["allow"], "list");
    let path = std::env::temp_dir().join(format!("{}-people", world.database()));
    let file = path.to_str().unwrap();
    let write = |people: &str| std::fs::write(file, people).unwrap();
    let all: String = (0..10_001)
        .map(|n| format!("u-{n}\r\n"))
        .collect::<Vec<_>>()
        .concat();
    write(&all);
    let added = coupon(world, api, &["allow", &id, "--add", file]).await;
    assert_eq!(
        added.out, "10001 added of 10001 lines; 10001 people are on the list",
        "{}",
        added.log
    );
    let again = coupon(world, api, &["allow", &id, "--add", file, "--json"]).await;
    let again: Value = serde_json::from_str(&again.out).unwrap();
    assert_eq!(
        (&again["changed"], &again["people"]),
        (&Value::from(0), &Value::from(10_001))
    );
    let shown = coupon(world, api, &["allow", &id, "--show"]).await;
    assert_eq!(shown.out.lines().count(), 10_001);
    let pages = coupon(world, api, &["allow", &id, "--show", "--json"])
        .await
        .out;
    let pages: Vec<Value> = pages
        .lines()
        .map(|page| serde_json::from_str(page).unwrap())
        .collect();
    assert_eq!(
        (pages.len(), &pages[1]["people"], &pages[1]["ids"][0]),
        (2, &Value::from(10_001), &Value::from("u-9999"))
    );
    assert!(
        coupon(world, api, &["allow", &id, "--find", "u-10000"])
            .await
            .out
            .contains("is on the list")
    );
    assert!(
        coupon(world, api, &["allow", &id, "--find", "u|+="])
            .await
            .out
            .contains("is not on the list")
    );
    write("u-0\nu-1");
    assert!(
        coupon(world, api, &["allow", &id, "--remove", file])
            .await
            .out
            .starts_with("2 removed of 2 lines; 9999")
    );
    assert!(
        api.claim(number, "u-0").await.is("not_allowed")
            && api.claim(number, "u-2").await.is_accepted()
    );
    write(&format!("{}no id\n", "u-1\n".repeat(5_001)));
    let refused = coupon(world, api, &["allow", &id, "--add", file]).await;
    assert!(
        refused.code == 1 && refused.log.contains("lines 5001 to 5002: line 2: "),
        "{}",
        refused.log
    );
    assert!(
        coupon(world, api, &["show", &id])
            .await
            .out
            .contains("only for list")
    );
    let everybody = coupon(world, api, &["allow", &id, "--only", "everybody", "--json"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&everybody.out).unwrap()["allow"],
        Value::Null,
        "{}",
        everybody.log
    );
    assert!(api.claim(number, "u-0").await.is_accepted());
    let emptied = coupon(world, api, &["allow", &id, "--empty", "--operator", "Kim"]).await;
    assert_eq!(
        emptied.out, "10000 removed; nobody is on the list",
        "{}",
        emptied.log
    );
    let last = "SELECT operator FROM ops_actions ORDER BY id DESC LIMIT 1";
    assert_eq!(world.sql.query(last).await, [["Kim"]]);
    assert_eq!(coupon(world, api, &["allow", &id, "--show"]).await.out, "");
    let again = coupon(world, api, &["allow", &id, "--empty", "--json"]).await;
    assert_eq!(
        serde_json::from_str::<Value>(&again.out).unwrap()["changed"],
        0,
        "{}",
        again.log
    );
    write("");
    for (args, code, says) in [
        (["--add", file], 2, "no line"),
        (["--add", "-"], 2, "no line"),
        (["--add", "/nowhere"], 2, "cannot be read"),
        (["--only", "group:vip"], 1, "USER_AUTH=jwt"),
    ] {
        let said = coupon(world, api, &["allow", &id, args[0], args[1]]).await;
        assert!(
            said.code == code && said.log.contains(says),
            "{args:?}: {} {}",
            said.code,
            said.log
        );
    }
    assert_eq!(
        coupon(world, api, &["allow", &id]).await.code,
        2,
        "the error names the command"
    );
    std::fs::remove_file(file).unwrap();
}
