//! `firstcome-api coupon …` as an operator uses it.

use firstcome_testkit::{
    ApiClient, Fixture, LIMIT, OPS_TOKEN, World, all_issued, coupon_body, eventually, people, rush,
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
    let made = coupon_with(world, &to_api, &daily).await.json();
    assert_eq!(made["name"], named[1]);
    assert_eq!(made["schedule"]["time_zone"], "Asia/Seoul");
    let all = coupon(world, api, "list --json").await.json();
    let id = all[0]["id"].to_string();
    let drop = all[0]["current_drop"]["id"].as_i64().unwrap();
    let number = all[0]["id"].as_i64().unwrap();
    rush(&[api], number, &people(3), 3).await;
    all_issued(world, drop, 3).await;

    let run = async |line: &str| coupon(world, api, line).await.json();
    // The number of remaining slots may be half a second old.
    eventually("the list says that none is left", LIMIT, async || {
        let list = coupon(world, api, "list").await.out;
        list.contains("0 of 3") && list.contains(named[1])
    })
    .await;
    assert_eq!(run(&format!("pause {id}")).await["paused"], true);
    assert_eq!(run(&format!("resume {id}")).await["paused"], false);
    let raised = run(&format!("raise {id} 5")).await;
    assert_eq!(raised["current_drop"]["remaining"], 2);
    let revoked = run(&format!("revoke {id} u-1 --reason fraud --operator Kim")).await;
    assert_eq!(revoked["status"], "revoked", "{revoked}");
    let refused = coupon(world, api, &format!("close {id}")).await;
    assert_eq!(refused.code, 1);
    for asks in ["겨울", "--yes"] {
        assert!(refused.log.contains(asks), "{}", refused.log);
    }
    let closed = "SELECT COUNT(*) FROM drops WHERE closed_early";
    assert_eq!(world.sql.number(closed).await, 0);
    let closed = run(&format!("close {id} --yes")).await;
    assert_eq!(closed["current_drop"]["state"], "closed");
    assert_eq!(run(&format!("show {id}")).await["id"], number);
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
    let id = fixture.api.open_coupon(3).await.id;
    let daily = json!({"type": "daily", "time_zone": "Asia/Seoul", "opens": "15:00", "closes": "18:00", "first_day": "2100-01-01"});
    let mut body = coupon_body("Later", 3, 0);
    body["schedule"] = daily;
    let later = fixture.api.create_coupon(&body).await.id;
    let to = |url, token| [("API_URL", url), ("OPS_TOKEN", token)];
    let fine = to(good, OPS_TOKEN);
    let once = "--opens-at 2100-01-01T00:00:00Z";
    let in_seul = "--opens 15:00 --closes 18:00 --first-day 2100-01-01 --time-zone Asia/Seul";
    #[rustfmt::skip]
    let cases = [
        (fine, "show 4711".to_owned(), 1, "there is no coupon 4711"),
        (fine, format!("raise {id} 2"), 1, "larger number"),
        (fine, "create --name x --quantity 1 --opens-at soon".to_owned(), 1, "instant"),
        (fine, format!("create --name x --quantity 0 {once}"), 1, "quantity must be a whole number from 1"),
        (fine, format!("create --name x --quantity 1 {in_seul}"), 1, "is not a time zone"),
        (fine, "create --name x".to_owned(), 2, "--quantity"),
        (fine, format!("revoke {id} a|b --reason x --operator x"), 1, "no claim of this user"),
        (fine, format!("revoke {id} .. --reason x --operator x"), 1, "a user id"),
        (fine, format!("revoke {id} u-1 --reason x"), 2, "--operator"),
        (fine, format!("close {later}"), 1, "--yes"),
        (fine, format!("close {later} --yes"), 1, "open"),
        (to("http://127.0.0.1:1", OPS_TOKEN), "list".to_owned(), 2, "API_URL"),
        (to("ftp://x", OPS_TOKEN), "list".to_owned(), 2, "http://"),
        (to(good, "wrong"), format!("pause {id}"), 1, "set OPS_TOKEN as the API has it"),
        (to(good, ""), format!("pause {id}"), 1, "set OPS_TOKEN as the API has it"),
    ];
    for (env, line, code, says) in cases {
        let args: Vec<&str> = line.split(' ').collect();
        let said = coupon_with(world, &env, &args).await;
        assert_eq!(
            (said.code, said.out.as_str()),
            (code, ""),
            "{line}: {}",
            said.log
        );
        assert!(said.log.contains(says), "{line}: {}", said.log);
    }
}

#[tokio::test]
async fn an_allow_list_is_sent_from_a_file_and_shown() {
    let fixture = Fixture::new("cli-allow").await;
    let (api, world) = (&*fixture.api, &fixture.world);
    let create = "create --name x --quantity 3 --opens-at 2026-01-01T00:00:00Z --allow list --json";
    let made = coupon(world, api, create).await.json();
    let id = made["id"].as_i64().unwrap();
    let allow = async |args: &str| coupon(world, api, &format!("allow {id} {args}")).await;
    let path = std::env::temp_dir().join(format!("{}-people", world.database()));
    let file = path.to_str().unwrap();
    std::fs::write(file, "u-0\r\nu-1\r\nu-2\r\nu-1\r\n").unwrap();
    let added = allow(&format!("--add {file}")).await.json();
    assert_eq!(
        (&added["changed"], &added["repeated"]),
        (&json!(3), &json!(1))
    );
    let shown = allow("--show").await.json();
    assert_eq!(shown["ids"], json!(["u-0", "u-1", "u-2"]));
    std::fs::write(file, "u-0").unwrap();
    let removed = allow(&format!("--remove {file}")).await.json();
    assert_eq!(
        (&removed["changed"], &removed["people"]),
        (&json!(1), &json!(2))
    );
    assert!(api.claim(id, "u-0").await.is("not_allowed"));
    assert!(api.claim(id, "u-2").await.is_accepted());
    assert_eq!(allow("--only everybody").await.json()["allow"], Value::Null);
    assert!(api.claim(id, "u-0").await.is_accepted());
    assert_eq!(allow("--empty").await.json()["changed"], 2);
    std::fs::write(file, "u-1\nno id\n").unwrap();
    for (args, code, says) in [
        (&*format!("--add {file}"), 1, "line 2: a user id has"),
        ("--add -", 1, "1 to 200000 ids"),
        ("--add /nowhere", 2, "cannot be read"),
        ("--only group:vip", 1, "USER_AUTH=jwt"),
    ] {
        let said = allow(args).await;
        assert_eq!(said.code, code, "{args}: {}", said.log);
        assert!(said.log.contains(says), "{args}: {}", said.log);
    }
    std::fs::remove_file(file).unwrap();
}
