//! Fuzzing over HTTP: schemathesis sends valid and invalid requests to every route of both
//! services, alone and in sequences, with all its checks enabled. Afterwards MySQL and Redis must
//! still agree.
//!
//! `cargo xtask attack` fetches schemathesis and runs these tests. `CASES` is the number of cases
//! per operation, `SEED` varies them, and `ONLY` selects the sets whose names contain it.

use firstcome_harness::agreed;
use firstcome_load::identity::{token, token_settings};
use futures_util::future::join_all;
use tokio::process::Command;

use crate::prelude::*;

const JWT_SECRET: &str = "attacked-0123456789abcdef0123456789abcdef";

/// Adds the IDs of existing objects to the cases, and lists the statuses that no schema can
/// predict.
const CONFIG: &str = r#"
[parameters]
"path.id" = 1
"path.drop_id" = 1
"path.user_id" = "u-1"

# Valid by the schema, and refused: values that contradict each other or come too late (a window that is over, a quantity below the number given out),
# invisible characters, lines of a text, an operator's undo of a use without its reason.
[[operations]]
include-name = [
    "POST /v1/coupons", "PATCH /v1/coupons/{id}", "POST /v1/coupons/{id}/people/{user_id}/revoke", "GET /v1/coupons/{id}/issued",
    "POST /v1/coupons/{id}/allow-list/{change}",
    "POST /v1/reconcile", "POST /v1/alerts/{id}/acknowledge",
    "GET /v1/alerts", "GET /v1/runs", "GET /v1/runs/{id}", "GET /v1/people", "GET /v1/failed-claims",
    "POST /v1/failed-claims/{id}/discard", "POST /v1/failed-claims/{id}/correct",
    "POST /v1/coupons/{id}/people/{user_id}/give-up", "DELETE /v1/codes/{code}/use",
]
checks.positive_data_acceptance.expected-statuses = ["2xx", "400", "401", "403", "404", "409", "412", "422", "429", "503"]

# An operator's case may have closed the coupon.
[[operations]]
include-name = "POST /v1/coupons/{id}/claims"
checks.positive_data_acceptance.expected-statuses = ["2xx", "401", "403", "404", "409", "410", "429", "503"]

# A returned claim can still be read.
[[operations]]
include-name = ["GET /v1/coupons/{id}/claims/me"]
checks.use_after_free.enabled = false
"#;

fn from_env(name: &str, or: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| or.to_owned())
}

/// Runs schemathesis against the service at this address. Prints the number of cases and all
/// failures, and returns whether there are none.
async fn attack(what: &str, base: &str, headers: &[&str], but: &str) -> bool {
    let program = std::env::var_os("SCHEMATHESIS").expect("SCHEMATHESIS: run cargo xtask attack");
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schemathesis.toml"), CONFIG).unwrap();
    let (cases, seed) = (from_env("CASES", "50"), from_env("SEED", "1"));
    let args = format!(
        "run {base}/openapi.json --no-color --max-examples {cases} --seed {seed} \
         --generation-database none --continue-on-failure --warnings off --workers 1"
    );
    let mut command = Command::new(program);
    command
        .args(args.split_whitespace())
        .current_dir(folder.path());
    if !but.is_empty() {
        command.args(["--exclude-checks", but]);
    }
    for header in headers {
        command.args(["-H", header]);
    }
    let output = command.kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        println!("attack: {what}:\n{said}\n{errors}");
    }
    let cases = said.lines().find(|line| line.contains(" generated"));
    println!(
        "attack: {what}: {}",
        cases.expect("a number of cases").trim()
    );
    output.status.success()
}

/// Checks that MySQL and Redis agree on every unsealed drop that Redis knows, and that no drop has
/// more rows than its quantity.
async fn assert_all_agree(world: &World) {
    let drops = "SELECT coupon_id, id, quantity FROM drops WHERE sealed_at IS NULL";
    let drops = world.sql.query(drops).await;
    assert!(!drops.is_empty());
    for row in drops {
        let [id, drop, quantity] = [0, 1, 2].map(|at| row[at].parse::<i64>().unwrap());
        let body = json!(null);
        let coupon = MadeCoupon { id, drop, body };
        let meta = world.redis.of_drop(id, drop, "meta");
        if world.redis.command(&["EXISTS", &meta]).await {
            let rows = agreed(&world.sql, &world.redis, &coupon).await.unwrap();
            assert!(rows.len() <= usize::try_from(quantity).unwrap(), "{rows:?}");
        }
    }
}

#[tokio::test]
#[ignore = "needs schemathesis"]
async fn fuzzed_requests_crash_no_service_and_mysql_and_redis_agree_after_a_pass() {
    let fixture = Fixture::new("attack").await;
    let world = &fixture.world;
    for name in ["One", "Two", "Three"] {
        fixture.api.create_coupon(&coupon_body(name, 50, 5)).await;
    }
    for user in ["u-1", "u-2"] {
        fixture.api.claim(1, user).await;
    }
    let with_tokens = world.serve_with(&token_settings(JWT_SECRET)).await;
    let daemon = world.daemon().await;
    let ops = format!("Authorization: Bearer {OPS_TOKEN}");
    let person = token(JWT_SECRET, "u-2").unwrap();
    let person = format!("Authorization: Bearer {person}");
    let (api, tokens) = (fixture.api.http(), with_tokens.http());
    let operator = [ops.as_str(), "X-User-Id: u-1"];
    // Behind a gateway, every X-User-Id is a valid user.
    let attacks: [(&str, &Http, &[&str], &str); 4] = [
        ("API, as an operator", api, &operator, ""),
        ("API, without authentication", api, &[], "ignored_auth"),
        ("API with tokens, as a user", tokens, &[&person], ""),
        ("reconciler", daemon.http(), &operator[..1], "ignored_auth"),
    ];
    let only = from_env("ONLY", "");
    let chosen = attacks.into_iter().filter(|it| it.0.contains(&only));
    // Each is one process that waits for answers most of the time.
    let held = chosen.map(|(what, http, headers, but)| attack(what, http.base(), headers, but));
    let held = join_all(held).await;
    assert!(!held.is_empty(), "ONLY={only:?} selects no set");
    assert!(!held.contains(&false), "the failures are printed above");
    for http in [api, tokens, daemon.http()] {
        assert_eq!(http.get("/healthz").await.status, 200);
    }
    eventually("every message is written", LIMIT, async || {
        world.unwritten().await.is_ok_and(|number| number == 0)
    })
    .await;
    let deep = world.once_with(&["--deep"], &[]).await;
    assert!([0, 1].contains(&deep.code), "{}", deep.log);
    assert_all_agree(world).await;
}
