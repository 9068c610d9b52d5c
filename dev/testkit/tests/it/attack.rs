//! Fuzzing over HTTP: schemathesis sends valid and invalid requests to every route of both
//! services, alone and in sequences, with all its checks enabled. Afterwards MySQL and Redis must
//! still agree.
//!
//! `cargo xtask attack` fetches schemathesis and runs these tests. `CASES` is the number of cases
//! per operation, `SEED` varies them, and `ONLY` selects the sets whose names contain it.

use std::path::Path;
use std::process::Output;

use firstcome_load::identity::{token, token_settings};
use firstcome_testkit::{
    Fixture, Http, LIMIT, MadeCoupon, OPS_TOKEN, agreed, coupon_body, eventually,
};
use serde_json::json;
use tokio::process::Command;

const JWT_SECRET: &str = "attacked-0123456789abcdef0123456789abcdef";

/// Adds the IDs of existing objects to the cases, and lists the statuses that no schema can
/// predict.
const CONFIG: &str = r#"
[parameters]
"path.id" = 1
"path.drop_id" = 1
"path.user_id" = "u-1"

# Valid by the schema, and refused: values that contradict each other or come too late (a window that is over, a quantity below the number given out),
# invisible characters, lines of a text.
[[operations]]
include-name = [
    "POST /v1/coupons", "PATCH /v1/coupons/{id}", "POST /v1/coupons/{id}/people/{user_id}/revoke", "GET /v1/coupons/{id}/issued",
    "POST /v1/coupons/{id}/allow-list/{change}",
    "POST /v1/reconcile", "POST /v1/alerts/{id}/acknowledge",
    "GET /v1/alerts", "GET /v1/runs", "GET /v1/runs/{id}", "GET /v1/people", "GET /v1/failed-claims",
    "POST /v1/failed-claims/{id}/discard", "POST /v1/failed-claims/{id}/correct",
    "POST /v1/people/{user_id}/erase", "POST /v1/coupons/{id}/people/{user_id}/give-up",
]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "409", "412", "422", "429", "503"]

# An operator's case may have closed the coupon.
[[operations]]
include-name = "POST /v1/coupons/{id}/claims"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "410", "429", "503"]

# An emptied list and a returned claim can still be read.
[[operations]]
include-name = ["GET /v1/coupons/{id}/claims/me", "GET /v1/coupons/{id}/allow-list"]
checks.use_after_free.enabled = false
"#;

fn from_env(name: &str, or: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| or.to_owned())
}

/// Runs schemathesis against the service at this address and returns its output.
async fn attack(folder: &Path, base: &str, headers: &[String], but: &str) -> Output {
    let program = std::env::var_os("SCHEMATHESIS").expect("SCHEMATHESIS: run cargo xtask attack");
    let config = folder.join("schemathesis.toml");
    std::fs::write(&config, CONFIG).unwrap();
    let mut command = Command::new(program);
    command.arg("--config-file").arg(config).args([
        "run",
        &format!("{base}/openapi.json"),
        "--no-color",
    ]);
    command.args([
        "--max-examples",
        &from_env("CASES", "50"),
        "--seed",
        &from_env("SEED", "1"),
    ]);
    command.args([
        "--generation-database",
        "none",
        "--continue-on-failure",
        "--warnings",
        "off",
        "--workers",
        "1",
    ]);
    if !but.is_empty() {
        command.args(["--exclude-checks", but]);
    }
    for header in headers {
        command.args(["-H", header]);
    }
    command
        .current_dir(folder)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

/// Prints the line with the number of cases, and all failures. Returns true if there are none.
fn said_of(what: &str, output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        println!(
            "attack: {what}:\n{said}\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let cases = said
        .lines()
        .find(|line| line.contains(" generated"))
        .unwrap_or_else(|| panic!("{what}: {said}"));
    println!("attack: {what}: {}", cases.trim());
    output.status.success()
}

/// Checks that MySQL and Redis agree on every drop, and that each is within its quantity.
async fn assert_all_agree(fixture: &Fixture) {
    let world = &fixture.world;
    let drops = world
        .sql
        .query("SELECT coupon_id, id, quantity FROM drops WHERE sealed_at IS NULL")
        .await;
    assert!(!drops.is_empty());
    for row in drops {
        let coupon = MadeCoupon {
            id: row[0].parse().unwrap(),
            drop: row[1].parse().unwrap(),
            body: json!(null),
        };
        if world
            .redis
            .command(&[
                "EXISTS",
                &world.redis.of_drop(coupon.id, coupon.drop, "meta"),
            ])
            .await
        {
            let rows = agreed(&world.sql, &world.redis, &coupon).await.unwrap();
            assert!(rows.len() <= row[2].parse().unwrap(), "{rows:?}");
        }
    }
}

#[tokio::test]
#[ignore = "needs schemathesis"]
async fn fuzzed_requests_crash_no_service_and_break_no_promise() {
    let fixture = Fixture::new("attack").await;
    let world = &fixture.world;
    for name in ["One", "Two", "Three"] {
        fixture.api.create_coupon(&coupon_body(name, 50, 5)).await;
    }
    fixture.api.claim(1, "u-1").await;
    let with_tokens = world.serve_with(&token_settings(JWT_SECRET)).await;
    let daemon = world.daemon().await;
    let folder = std::env::temp_dir().join(format!("firstcome-attack-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let ops = format!("Authorization: Bearer {OPS_TOKEN}");
    let person = format!(
        "Authorization: Bearer {}",
        token(JWT_SECRET, "u-1").unwrap()
    );
    let attacks: [(&str, &Http, Vec<String>, &str); 4] = [
        (
            "API, as an operator",
            fixture.api.http(),
            vec![ops.clone(), "X-User-Id: u-1".into()],
            "",
        ),
        // Behind a gateway, every X-User-Id is a valid user.
        (
            "API, without authentication",
            fixture.api.http(),
            vec![],
            "ignored_auth",
        ),
        (
            "API with tokens, as a user",
            with_tokens.http(),
            vec![person],
            "",
        ),
        // These tokens fail more often than the limit per minute and address, so later requests get
        // 429. `operations::edges` and `operations::console_routes` test each of them separately.
        (
            "reconciler, as an operator",
            daemon.http(),
            vec![ops],
            "ignored_auth",
        ),
    ];
    let mut held = Vec::new();
    let only = from_env("ONLY", "");
    for (what, http, headers, but) in attacks.iter().filter(|(what, ..)| what.contains(&only)) {
        held.push(said_of(
            what,
            &attack(&folder, http.base(), headers, but).await,
        ));
        assert_eq!(http.get("/healthz").await.status, 200);
    }
    assert!(!held.is_empty(), "ONLY={only:?} selects no set");
    assert!(
        held.iter().all(|held| *held),
        "the failures are printed above"
    );
    eventually("every message is read", LIMIT, async || {
        world.topic.lag().await == 0
    })
    .await;
    let deep = world.once_with(&["--deep"], &[]).await;
    assert!([0, 1].contains(&deep.code), "{}", deep.log);
    assert_all_agree(&fixture).await;
    std::fs::remove_dir_all(&folder).unwrap();
}
