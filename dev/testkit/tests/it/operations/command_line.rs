//! `firstcome-api coupon …` as an operator uses it.

use firstcome_testkit::{
    ApiClient, Fixture, LIMIT, World, all_issued, coupon_body, eventually, people, rush,
};
use serde_json::{Value, json};

/// The exit code and the output of a command.
struct Said {
    code: i32,
    out: String,
    log: String,
}

impl Said {
    /// Parses the output of a command with `--json`, which must succeed.
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.log);
        serde_json::from_str(&self.out).unwrap()
    }
}

/// Runs `firstcome-api coupon` with these arguments, separated by spaces.
async fn coupon(world: &World, api: &ApiClient, line: &str) -> Said {
    let args: Vec<&str> = line.split(' ').collect();
    coupon_with(world, &[("API_URL", api.http().base())], &args).await
}

async fn coupon_with(world: &World, env: &[(&str, &str)], args: &[&str]) -> Said {
    let all = [&["coupon"][..], args].concat();
    let process = world.start("firstcome-api", &all, env);
    let code = process.ended(LIMIT).await;
    let out = process.all_stdout().await;
    let is_for_programs = args.contains(&"--json") || args.contains(&"--csv");
    let is_narrow = out.lines().all(|line| line.chars().count() <= 80);
    assert!(is_for_programs || is_narrow, "{out}");
    Said {
        code,
        out,
        log: process.log(),
    }
}

#[tokio::test]
async fn a_coupon_is_created_watched_changed_and_closed_on_the_command_line() {
    let fixture = Fixture::new("cli").await;
    let world = &fixture.world;
    let api = &*fixture.api;
    let to_api = [("API_URL", api.http().base())];
    let daily = "create --quantity 3 --once-per drop --time-zone Asia/Seoul --opens 00:00 --closes 00:00 --first-day 2026-01-01";
    let named = ["--name", "Winter · 겨울"];
    let daily: Vec<&str> = daily.split(' ').chain(named).collect();
    let openings = |out: &str| {
        let is_opening = |line: &&str| line.contains(" 00:00 +09:00  ");
        out.lines().filter(is_opening).count()
    };
    let preview = [&daily[..], &["--preview"]].concat();
    let preview = coupon_with(world, &to_api, &preview).await;
    assert_eq!(preview.code, 0, "{}", preview.log);
    assert_eq!(openings(&preview.out), 10, "{}", preview.out);
    let begun = preview
        .out
        .lines()
        .position(|line| line.contains("it opens at once"));
    assert_eq!(begun, Some(3), "today's drop too: {}", preview.out);
    let coupons = world.sql.number("SELECT COUNT(*) FROM coupons").await;
    assert_eq!(coupons, 0, "a preview creates nothing");
    let made = coupon_with(world, &to_api, &daily).await;
    assert_eq!(made.code, 0, "{}", made.log);
    for shown in [named[1], "Asia/Seoul"] {
        assert!(made.out.contains(shown), "{}", made.out);
    }
    assert_eq!(openings(&made.out), 10, "{}", made.out);
    let all = coupon(world, api, "list --json").await.json();
    let id = all[0]["id"].to_string();
    let drop = all[0]["current_drop"]["id"].as_i64().unwrap();
    let number = all[0]["id"].as_i64().unwrap();
    rush(&[api], number, &people(3), 3).await;
    all_issued(world, drop, 3).await;

    let run = async |line: &str| {
        let said = coupon(world, api, line).await;
        assert_eq!(said.code, 0, "{line}: {}", said.log);
        said.out
    };
    // The number of remaining slots may be half a second old.
    eventually("the list says that none is left", LIMIT, async || {
        run("list").await.contains("0 of 3")
    })
    .await;
    assert!(run(&format!("pause {id}")).await.contains("PAUSED"));
    assert!(!run(&format!("resume {id}")).await.contains("PAUSED"));
    assert!(run(&format!("raise {id} 5")).await.contains("2 of 5"));
    let lines = run(&format!("winners {id} --json")).await;
    let winners: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let slots: Vec<_> = winners.iter().map(|row| row["slot"].as_i64()).collect();
    assert_eq!(slots, [Some(1), Some(2), Some(3)]);
    let table = run(&format!("winners {id}")).await;
    let csv = run(&format!("winners {id} --csv")).await;
    for row in &winners {
        let code = row["code"].as_str().unwrap();
        assert!(table.contains(code) && csv.contains(code), "{table}\n{csv}");
    }
    let user = winners[0]["user_id"].as_str().unwrap();
    let revoke = format!("revoke {id} {user} --reason fraud");
    for _ in 0..2 {
        let revoked = run(&format!("{revoke} --by Kim")).await;
        assert!(revoked.contains("slot 1 of drop"), "{revoked}");
    }
    let revoked = format!("{revoke} --operator Kim --json");
    let revoked = coupon(world, api, &revoked).await.json();
    assert_eq!(revoked["status"], "revoked");
    let edit = format!("edit {id} --name Spring --waiting-list 7 --json");
    let edited = coupon(world, api, &edit).await.json();
    let found = (&edited["name"], &edited["waiting_list"]);
    assert_eq!(found, (&json!("Spring"), &json!(7)));
    let refused = coupon(world, api, &format!("close {id}")).await;
    assert_eq!(refused.code, 1);
    for asks in ["\"Spring\"", "--yes"] {
        assert!(refused.log.contains(asks), "{}", refused.log);
    }
    let closed = "SELECT COUNT(*) FROM drops WHERE closed_early";
    assert_eq!(world.sql.number(closed).await, 0);
    assert!(run(&format!("close {id} --yes")).await.contains("closed"));
    assert!(run(&format!("show {id}")).await.contains("opens next"));
    let pause = ["pause", &id, "--operator", "김 Kim"];
    let paused = coupon_with(world, &to_api, &pause).await;
    assert_eq!(paused.code, 0, "{}", paused.log);
    let last = "SELECT operator FROM ops_actions ORDER BY id DESC LIMIT 1";
    assert_eq!(world.sql.query(last).await, [["김 Kim"]]);
}

#[tokio::test]
async fn refused_commands_print_one_message_and_exit_with_a_code() {
    let fixture = Fixture::new("cli-wrong").await;
    let world = &fixture.world;
    let good = fixture.api.http().base();
    let nowhere = "http://127.0.0.1:1";
    let id = fixture.api.open_coupon(3).await.id;
    let daily = json!({"type": "daily", "time_zone": "Asia/Seoul", "opens": "15:00", "closes": "18:00", "first_day": "2100-01-01"});
    let mut body = coupon_body("Later", 3, 0);
    body["schedule"] = daily;
    let later = fixture.api.create_coupon(&body).await.id;
    let create = "create --name x --quantity";
    let in_seul =
        "--opens 15:00 --closes 18:00 --first-day 2100-01-01 --preview --time-zone Asia/Seul";
    for (url, line, code, says) in [
        (good, "show 4711", 1, "there is no coupon 4711"),
        (good, &format!("raise {id} 2"), 1, "larger number"),
        (good, &format!("{create} 1 --opens-at soon"), 1, "instant"),
        (
            nowhere,
            &format!("{create} 1 --opens-at soon --preview"),
            1,
            "instant",
        ),
        (
            good,
            &format!("revoke {id} a|b --reason x --by x"),
            1,
            "no claim of this user",
        ),
        (
            good,
            &format!("revoke {id} .. --reason x --by x"),
            1,
            "a user id",
        ),
        (good, &format!("revoke {id} u-1 --reason x"), 2, "--by"),
        (
            nowhere,
            &format!("{create} 0 --opens-at 2100-01-01T00:00:00Z --preview"),
            1,
            "quantity must be a whole number from 1",
        ),
        (
            nowhere,
            &format!("{create} 1 {in_seul}"),
            1,
            "did you mean Asia/Seoul?",
        ),
        (good, &format!("close {later}"), 1, "--last-day"),
        (good, &format!("close {later} --yes"), 1, "--last-day"),
        (good, &format!("edit {later}"), 2, "--last-day"),
        (nowhere, "list", 2, "API_URL"),
        ("ftp://x", "list", 2, "http://"),
        (good, "create --name x", 2, "--quantity"),
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        let said = coupon_with(world, &[("API_URL", url)], &args).await;
        assert_refused(&said, code, says);
    }
    let pause = ["pause", &id.to_string()];
    for (token, code, says) in [
        ("wrong", 1, "set it as the API has it"),
        ("", 2, "set OPS_TOKEN"),
    ] {
        let env = [("API_URL", good), ("OPS_TOKEN", token)];
        assert_refused(&coupon_with(world, &env, &pause).await, code, says);
    }
}

#[track_caller]
fn assert_refused(said: &Said, code: i32, says: &str) {
    let found = (said.code, said.out.as_str());
    assert_eq!(found, (code, ""), "{says}: {}", said.log);
    assert!(said.log.contains(says), "{says}: {}", said.log);
}

#[tokio::test]
async fn an_allow_list_is_sent_in_parts_shown_and_searched() {
    let fixture = Fixture::new("cli-allow").await;
    let world = &fixture.world;
    let api = &*fixture.api;
    let create = "create --name x --quantity 3 --opens-at 2026-01-01T00:00:00Z --allow list --json";
    let made = coupon(world, api, create).await.json();
    let number = made["id"].as_i64().unwrap();
    assert_eq!(made["allow"], "list");
    let allow = async |args: &str| coupon(world, api, &format!("allow {number} {args}")).await;
    let path = std::env::temp_dir().join(format!("{}-people", world.database()));
    let file = path.to_str().unwrap();
    let write = |people: &str| std::fs::write(file, people).unwrap();
    let all: Vec<String> = (0..10_001).map(|n| format!("u-{n}\r\n")).collect();
    write(&all.concat());
    let added = allow(&format!("--add {file}")).await;
    let says = "10001 added of 10001 ids (0 repeated); 10001 people are on the list";
    assert_eq!(added.out.trim_end(), says, "{}", added.log);
    let again = allow(&format!("--add {file} --json")).await.json();
    let found = (&again["changed"], &again["people"]);
    assert_eq!(found, (&json!(0), &json!(10_001)));
    assert_eq!(allow("--show").await.out.lines().count(), 10_001);
    let pages = allow("--show --json").await.out;
    let pages: Vec<Value> = pages
        .lines()
        .map(|page| serde_json::from_str(page).unwrap())
        .collect();
    let found = (pages.len(), &pages[1]["people"], &pages[1]["ids"][0]);
    assert_eq!(found, (2, &json!(10_001), &json!("u-9999")));
    for (user, says) in [
        ("u-10000", "is on the list"),
        ("u|+=", "is not on the list"),
    ] {
        let found = allow(&format!("--find {user}")).await.out;
        assert!(found.contains(says), "{user}: {found}");
    }
    write("u-0\nu-1");
    let removed = allow(&format!("--remove {file}")).await.out;
    let says = "2 removed of 2 ids (0 repeated); 9999";
    assert!(removed.starts_with(says), "{removed}");
    assert!(api.claim(number, "u-0").await.is("not_allowed"));
    assert!(api.claim(number, "u-2").await.is_accepted());
    write(&format!("{}no id\n", "u-1\n".repeat(5_001)));
    let refused = allow(&format!("--add {file}")).await;
    let says = "line 5002: a user id has";
    assert_eq!(refused.code, 2);
    assert!(refused.log.contains(says), "{}", refused.log);
    let shown = coupon(world, api, &format!("show {number}")).await.out;
    assert!(shown.contains("only for list"), "{shown}");
    let everybody = allow("--only everybody --json").await.json();
    assert_eq!(everybody["allow"], Value::Null);
    assert!(api.claim(number, "u-0").await.is_accepted());
    let emptied = allow("--empty --operator Kim").await;
    let says = "9999 removed; nobody is on the list";
    assert_eq!(emptied.out, says, "{}", emptied.log);
    let last = "SELECT operator FROM ops_actions ORDER BY id DESC LIMIT 1";
    assert_eq!(world.sql.query(last).await, [["Kim"]]);
    assert_eq!(allow("--show").await.out, "");
    assert_eq!(allow("--empty --json").await.json()["changed"], 0);
    write("");
    for (args, code, says) in [
        ("--add -", 2, "no id"),
        (&format!("--add {file}"), 2, "no id"),
        ("--add /nowhere", 2, "cannot be read"),
        ("--only group:vip", 1, "USER_AUTH=jwt"),
    ] {
        let said = allow(args).await;
        assert_eq!(said.code, code, "{args}: {}", said.log);
        assert!(said.log.contains(says), "{args}: {}", said.log);
    }
    let bare = coupon(world, api, &format!("allow {number}")).await;
    assert_eq!(bare.code, 2, "the error names the command");
    std::fs::remove_file(file).unwrap();
}
