//! `firstcome-api coupon …` as an operator uses it.

use crate::prelude::*;

/// The exit code and the output of a command.
struct Said {
    code: i32,
    out: String,
    log: String,
}

impl Said {
    /// Parses the output of a command that must succeed.
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{}", self.log);
        serde_json::from_str(&self.out).unwrap()
    }
}

/// Runs `firstcome-api coupon` with these arguments, separated by spaces. `+` stands for a space.
async fn coupon(f: &Fixture, env: &[(&str, &str)], line: &str) -> Said {
    let line = format!("coupon {line}");
    let args: Vec<String> = line.split(' ').map(|word| word.replace('+', " ")).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let process = f.world.start("firstcome-api", &args, env);
    let code = process.ended(LIMIT).await;
    let out = process.all_stdout().await;
    let log = process.log();
    Said { code, out, log }
}

#[tokio::test]
async fn a_coupon_is_listed_changed_and_closed_on_the_command_line() {
    let f = Fixture::new("cli").await;
    let sql = &f.world.sql;
    let body = coupon_body("Winter · 겨울", 3, 0);
    f.api.create_coupon(&body).await;
    let all = coupon(&f, &[], "list").await.json();
    let id = all[0]["id"].as_i64().unwrap();
    let drop = all[0]["current_drop"]["id"].as_i64().unwrap();
    rush_until_answered(&[&f.api], id, &people(3), 3).await;
    all_issued(&f.world, drop, 3).await;

    let run = async |line: String| coupon(&f, &[], &line).await.json();
    assert_eq!(all[0]["name"], "Winter · 겨울");
    assert_eq!(run(format!("pause {id}")).await["paused"], true);
    assert_eq!(run(format!("resume {id}")).await["paused"], false);
    let raised = run(format!("raise {id} 5")).await;
    assert_eq!(raised["current_drop"]["remaining"], 2);
    let refused = coupon(&f, &[], &format!("close {id}")).await;
    let shown: Value = serde_json::from_str(&refused.out).unwrap();
    assert_eq!((refused.code, &shown["id"]), (1, &json!(id)));
    let asks = "This would be closed for good, and its waiting list ends: repeat it with --yes";
    let log = refused.log.lines();
    let stderr: Vec<&str> = log.filter(|line| !line.starts_with("[stdout]")).collect();
    assert_eq!(stderr, [asks]);
    let closed = "SELECT COUNT(*) FROM drops WHERE closed_early";
    assert_eq!(sql.number(closed).await, 0);
    let closed = run(format!("close {id} --yes")).await;
    assert_eq!(closed["current_drop"]["state"], "closed");
    assert_eq!(run(format!("show {id}")).await["id"], id);
    run(format!("pause {id} --operator 김+Kim")).await;
    let last = "SELECT operator FROM ops_actions ORDER BY id DESC LIMIT 1";
    assert_eq!(sql.query(last).await, [["김 Kim"]]);
}

#[tokio::test]
async fn refused_commands_give_the_reason_on_standard_error_and_exit_with_a_code() {
    let f = Fixture::new("cli-wrong").await;
    let id = f.api.open_coupon(3).await.id;
    let mut body = coupon_body("Later", 3, 0);
    body["schedule"] = json!({"type": "daily", "time_zone": "Asia/Seoul", "opens": "15:00", "closes": "18:00", "first_day": "2100-01-01"});
    let later = f.api.create_coupon(&body).await.id;
    let good = f.api.http().base();
    #[rustfmt::skip]
    let cases = [
        (good, OPS_TOKEN, "show 4711".to_owned(), 1, "there is no coupon 4711"),
        (good, OPS_TOKEN, format!("raise {id} 2"), 1, "larger number"),
        (good, OPS_TOKEN, format!("close {later} --yes"), 1, "open"),
        ("http://127.0.0.1:1", OPS_TOKEN, "list".to_owned(), 2, "API_URL"),
        ("ftp://x", OPS_TOKEN, "list".to_owned(), 2, "http://"),
        (good, "wrong", format!("pause {id}"), 1, "set OPS_TOKEN as the API has it"),
        (good, "", format!("pause {id}"), 1, "set OPS_TOKEN as the API has it"),
    ];
    for (url, token, line, code, says) in cases {
        let env = [("API_URL", url), ("OPS_TOKEN", token)];
        let said = coupon(&f, &env, &line).await;
        let found = (said.code, said.out.as_str(), said.log.contains(says));
        assert_eq!(found, (code, "", true), "{line}: {}", said.log);
    }
}
