//! Allow lists that Redis has lost or that differ from MySQL's: after a crash, a loss, or a manual
//! change.

use std::collections::BTreeSet;

use firstcome_reconciler::report::{ActionKind, Finding, Kind, Outcome, Run, Status};
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Answer, Fixture, Http, LIMIT, MadeCoupon, WorldStores, all_issued, coupon_body, eventually,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::drift::support::{FoundDrift, inject, pass_ends, pass_repairs};

fn body(name: &str, quantity: u32) -> Value {
    let mut body = coupon_body(name, quantity, 0);
    body["allow"] = json!("list");
    body
}

async fn put_on(fixture: &Fixture, coupon: &MadeCoupon, people: &[&str]) {
    assert_eq!(add(fixture, coupon, people).await, 200);
}

/// Returns the status of the reply.
async fn add(fixture: &Fixture, coupon: &MadeCoupon, people: &[&str]) -> u16 {
    let path = format!("/v1/coupons/{}/allow-list/add", coupon.id);
    let add = fixture.api.http().ops(Method::POST, &path);
    Http::send(add.body(people.join("\n"))).await.status
}

/// Returns MySQL's list. Fails unless Redis has the same list.
async fn agreed(fixture: &Fixture, coupon: &MadeCoupon) -> Vec<String> {
    let world = &fixture.world;
    let sql = &world.sql;
    let id = coupon.id;
    let rows =
        format!("SELECT user_id FROM coupon_allow_list WHERE coupon_id = {id} ORDER BY user_id");
    let rows: Vec<String> = sql.query(&rows).await.into_iter().flatten().collect();
    let state = format!(
        "SELECT CONCAT(allow_list_revision, ':', allow_list_people) FROM coupons WHERE id = {id}"
    );
    let state = sql.query(&state).await.remove(0).remove(0);
    let (set, key) = keys(fixture, coupon);
    let mut members: Vec<String> = world.redis.command(&["SMEMBERS", &set]).await;
    members.sort_unstable();
    assert_eq!(members, rows);
    assert_eq!(
        world.redis.command::<Option<String>>(&["GET", &key]).await,
        Some(state)
    );
    rows
}

/// Returns the names of two keys: the set, and the state of the list.
fn keys(fixture: &Fixture, coupon: &MadeCoupon) -> (String, String) {
    let own = |name: &str| {
        fixture
            .world
            .redis
            .own(&format!("{{{}}}:{name}", coupon.id))
    };
    (own("allowed"), own("allow_list"))
}

#[tokio::test]
async fn a_lost_or_different_list_in_redis_is_found_and_rewritten() {
    let fixture = Fixture::new("d-allowed").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let coupon = api.create_coupon(&body("Listed", 9)).await;
    put_on(&fixture, &coupon, &["a", "b", "c"]).await;
    assert!(api.claim(coupon.id, "a").await.is_accepted());
    all_issued(world, coupon.drop, 1).await;
    assert!(api.claim(coupon.id, "x").await.is("not_allowed"));
    let (set, state) = keys(&fixture, &coupon);
    let redis = &world.redis;
    let differs: BTreeSet<FoundDrift> = [(Kind::CountMismatch, None, None)].into();
    for spoil in [
        vec![vec!["DEL", set.as_str()]],
        vec![vec!["DEL", &state]],
        vec![vec!["DEL", &set, &state]],
        vec![vec!["SADD", &set, "x"]],
        // Redis has lost the last change, or MySQL was restored from an older dump.
        vec![vec!["SREM", &set, "c"], vec!["SET", &state, "1:2"]],
        vec![vec!["SREM", &set, "c"], vec!["SET", &state, "9999:2"]],
        vec![vec!["SET", &set, "text"]],
        vec![vec!["SET", &state, "text"]],
    ] {
        settled(&fixture).await;
        for command in &spoil {
            redis
                .command::<firstcome_shared::redis::Value>(command)
                .await;
        }
        let run = pass_repairs(world, &differs).await;
        assert!(
            run.all_findings()
                .all(|finding| finding.action == ActionKind::WriteMeta),
            "{run:#?}"
        );
        assert_eq!(
            agreed(&fixture, &coupon).await,
            ["a", "b", "c"],
            "{spoil:?}"
        );
        assert!(
            api.claim(coupon.id, "x").await.is("not_allowed"),
            "{spoil:?}"
        );
    }
    assert_eq!(world.pass().await.status, Status::Clean);
    assert!(api.claim(coupon.id, "b").await.is_accepted());
}

/// Backdates the last change, so that no API can be about to write a list.
async fn settled(fixture: &Fixture) {
    let sql = "UPDATE coupons SET allow_list_changed_at = UTC_TIMESTAMP(3) - INTERVAL 1 MINUTE";
    fixture.world.sql.query(sql).await;
}

/// The API died after it wrote to MySQL and before it wrote to Redis.
#[tokio::test]
async fn a_list_change_missing_in_redis_is_applied_after_a_grace_period() {
    let fixture = Fixture::new("d-allowed-half").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let coupon = api.create_coupon(&body("Half", 9)).await;
    put_on(&fixture, &coupon, &["a"]).await;
    let sql = &world.sql;
    sql.query(&format!(
        "INSERT INTO coupon_allow_list (coupon_id, user_id) VALUES ({}, 'b')",
        coupon.id
    ))
    .await;
    let half = |age: u32| {
        format!(
            "UPDATE coupons SET revision = revision + 1, allow_list_revision = revision, allow_list_people = 2, \
             allow_list_changed_at = UTC_TIMESTAMP(3) + INTERVAL {age} SECOND WHERE id = {}",
            coupon.id
        )
    };
    sql.query(&half(30)).await;
    assert_eq!(
        world.pass().await.status,
        Status::Clean,
        "an API may be about to write it"
    );
    assert!(api.claim(coupon.id, "b").await.is("not_allowed"));
    settled(&fixture).await;
    pass_repairs(world, &[(Kind::CountMismatch, None, None)].into()).await;
    assert_eq!(agreed(&fixture, &coupon).await, ["a", "b"]);
    assert!(api.claim(coupon.id, "b").await.is_accepted());
    assert_eq!(world.pass().await.status, Status::Clean);
}

#[tokio::test]
async fn a_deep_pass_finds_manually_replaced_users() {
    let fixture = Fixture::new("d-allowed-deep").await;
    let world = &fixture.world;
    let coupon = fixture.api.create_coupon(&body("Deep", 9)).await;
    put_on(&fixture, &coupon, &["a", "b", "c"]).await;
    let (set, _) = keys(&fixture, &coupon);
    world.redis.command::<i64>(&["SREM", &set, "b"]).await;
    world.redis.command::<i64>(&["SADD", &set, "x"]).await;
    assert_eq!(
        world.pass().await.status,
        Status::Clean,
        "revision and size are the same"
    );
    let dry = world.once_with(&["--deep", "--dry-run"], &[]).await.run();
    let is_planned = |found: &Finding| found.result == Outcome::Planned;
    assert!(dry.findings.iter().any(is_planned), "{dry:#?}");
    let run = pass_ends(world, &["--deep"], (0, Status::Repaired)).await;
    let finding = of_list(&run);
    assert_eq!(
        (finding.result, finding.coupon_id.map(|id| id.0)),
        (Outcome::Applied, Some(coupon.id))
    );
    assert!(finding.detail.contains("lacks 1 people"), "{finding:?}");
    assert_eq!(agreed(&fixture, &coupon).await, ["a", "b", "c"]);
    pass_ends(world, &["--deep"], (0, Status::Clean)).await;
}

fn of_list(run: &Run) -> &Finding {
    run.findings
        .iter()
        .find(|found| found.detail.contains("allow list"))
        .unwrap_or_else(|| panic!("{run:#?}"))
}

/// Redis may have the only complete copy of the list.
#[tokio::test]
async fn a_list_with_lost_or_manually_written_rows_is_reported_and_replaces_none() {
    let fixture = Fixture::new("d-allowed-torn").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let coupon = api.create_coupon(&body("Torn", 9)).await;
    let people = ["a", "b", "c"];
    put_on(&fixture, &coupon, &people).await;
    let (set, state) = keys(&fixture, &coupon);
    let members = async || {
        let mut members: Vec<String> = world.redis.command(&["SMEMBERS", &set]).await;
        members.sort_unstable();
        members
    };
    let lose = "DELETE FROM coupon_allow_list WHERE user_id <> 'a'";
    let write = format!(
        "INSERT INTO coupon_allow_list (coupon_id, user_id) VALUES ({}, 'd')",
        coupon.id
    );
    for (statement, rows) in [(lose, "has 1:"), (&write, "has 4:")] {
        world.sql.query(statement).await;
        let run = pass_ends(world, &["--deep"], (1, Status::Drift)).await;
        let finding = of_list(&run);
        assert_eq!(finding.result, Outcome::Failed);
        assert!(finding.detail.contains(rows), "{finding:?}");
        // Adds the lost rows, which Redis has.
        assert_eq!(add(&fixture, &coupon, &["b", "c"]).await, 503);
        assert_eq!(members().await, people, "{rows}");
    }
    assert!(api.claim(coupon.id, "b").await.is_accepted());
    // Redis loses its copy as well: nobody is refused for good.
    world.redis.command::<i64>(&["DEL", &set, &state]).await;
    settled(&fixture).await;
    pass_ends(world, &[], (1, Status::Drift)).await;
    assert!(matches!(
        api.claim(coupon.id, "c").await,
        Answer::Problem(503, _)
    ));
    // An operator confirms the table.
    let confirm = format!(
        "UPDATE coupons c SET allow_list_people = (SELECT COUNT(*) FROM coupon_allow_list a WHERE a.coupon_id = c.id) \
         WHERE id = {}",
        coupon.id
    );
    world.sql.query(&confirm).await;
    pass_ends(world, &[], (0, Status::Repaired)).await;
    assert_eq!(agreed(&fixture, &coupon).await, ["a", "b", "c", "d"]);
    assert!(api.claim(coupon.id, "d").await.is_accepted());
    pass_ends(world, &["--deep"], (0, Status::Clean)).await;
}

#[tokio::test]
async fn users_on_the_list_are_not_refused_after_a_loss_of_redis() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let fixture = Fixture::on(
        WorldStores::shared().await.with_redis(&redis),
        "d-allowed-lost",
    )
    .await;
    let api = &fixture.api;
    let world = &fixture.world;
    for drift in [Drift::RedisFlushed, Drift::RedisLost] {
        let coupon = api.create_coupon(&body(&drift.name(), 200)).await;
        let people: Vec<String> = (0..100).map(|n| format!("u-{n}")).collect();
        let names: Vec<&str> = people.iter().map(String::as_str).collect();
        put_on(&fixture, &coupon, &names[..50]).await;
        assert!(api.claim(coupon.id, "u-0").await.is_accepted());
        inject(world, &coupon, drift, 1).await;
        // Redis never knew these users.
        let sql = &world.sql;
        let rows: Vec<String> = people[50..]
            .iter()
            .map(|user| format!("({}, '{user}')", coupon.id))
            .collect();
        sql.query(&format!(
            "INSERT INTO coupon_allow_list (coupon_id, user_id) VALUES {}",
            rows.join(",")
        ))
        .await;
        let list =
            "revision = revision + 1, allow_list_revision = revision, allow_list_people = 100";
        sql.query(&format!(
            "UPDATE coupons SET {list} WHERE id = {}",
            coupon.id
        ))
        .await;
        let claims = async {
            for user in &people[1..] {
                eventually("the coupon is open again", LIMIT, async || {
                    match api.claim(coupon.id, user).await {
                        Answer::Accepted { .. } | Answer::Already { .. } => true,
                        Answer::Problem(503, _) => false,
                        other => panic!("{user} got {other:?}"),
                    }
                })
                .await;
            }
        };
        tokio::join!(world.pass(), claims);
        assert_eq!(agreed(&fixture, &coupon).await.len(), 100);
        assert!(api.claim(coupon.id, "stranger").await.is("not_allowed"));
    }
}

#[tokio::test]
async fn an_allow_list_that_cannot_be_read_keeps_only_its_coupon_closed() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let fixture = Fixture::on(
        WorldStores::shared().await.with_redis(&redis),
        "d-allowed-apart",
    )
    .await;
    let api = &fixture.api;
    let world = &fixture.world;
    let listed = api.create_coupon(&body("Listed", 9)).await;
    put_on(&fixture, &listed, &["a"]).await;
    let other = api.create_coupon(&coupon_body("For everybody", 9, 0)).await;
    inject(world, &other, Drift::RedisFlushed, 1).await;
    // MySQL answers, but no allow list can be read.
    let statement = "RENAME TABLE coupon_allow_list TO hidden";
    world.sql.query(statement).await;
    let run = pass_ends(world, &[], (1, Status::Drift)).await;
    let closed: Vec<_> = run
        .all_findings()
        .filter(|finding| finding.detail.contains("stays closed"))
        .collect();
    assert_eq!(
        closed
            .iter()
            .map(|finding| finding.coupon_id.unwrap().0)
            .collect::<Vec<_>>(),
        [listed.id],
        "{run:#?}"
    );
    assert!(api.claim(other.id, "x").await.is_accepted());
    assert!(matches!(
        api.claim(listed.id, "a").await,
        Answer::Problem(503, _)
    ));

    let statement = "RENAME TABLE hidden TO coupon_allow_list";
    world.sql.query(statement).await;
    assert_eq!(world.pass().await.status, Status::Repaired);
    assert_eq!(agreed(&fixture, &listed).await, ["a"]);
    assert!(api.claim(listed.id, "a").await.is_accepted());
    assert!(api.claim(listed.id, "x").await.is("not_allowed"));
}

#[tokio::test]
async fn an_erased_user_is_removed_from_all_lists() {
    let fixture = Fixture::new("d-allowed-erase").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let mut coupons = Vec::new();
    for name in ["One", "Two", "Three"] {
        let coupon = api.create_coupon(&body(name, 9)).await;
        put_on(
            &fixture,
            &coupon,
            if name == "Three" { &["b"] } else { &["a", "b"] },
        )
        .await;
        coupons.push(coupon);
    }
    let process = world.start(
        "firstcome-reconciler",
        &["erase", "--user", "a", "--by", "Kim"],
        &[],
    );
    assert_eq!(process.ended(LIMIT).await, 0, "{}", process.log());
    assert!(process.all_stdout().await.contains("2 allow lists"));
    for coupon in &coupons {
        assert_eq!(agreed(&fixture, coupon).await, ["b"]);
        assert!(api.claim(coupon.id, "a").await.is("not_allowed"));
    }
    assert_eq!(world.pass().await.status, Status::Clean);
    let acts = "SELECT COUNT(*) FROM ops_actions WHERE detail LIKE '%\"a\"%'";
    assert_eq!(world.sql.number(acts).await, 0);
}

#[tokio::test]
async fn the_list_of_an_ended_coupon_is_deleted_from_redis_and_then_mysql() {
    let fixture = Fixture::new("d-allowed-over").await;
    let api = &fixture.api;
    let world = &fixture.world;
    world.set("FIRSTCOME_TEST_SEALED_KEYS_TTL_SECONDS", "1");
    let coupon = api.create_coupon(&body("Over", 9)).await;
    put_on(&fixture, &coupon, &["a", "b"]).await;
    let live = api.create_coupon(&body("Live", 9)).await;
    put_on(&fixture, &live, &["a"]).await;
    api.change(coupon.id, &json!({"close_now": true})).await;
    let (set, state) = keys(&fixture, &coupon);
    eventually("the list's keys are gone", LIMIT, async || {
        world.pass().await;
        world.redis.command::<i64>(&["EXISTS", &set, &state]).await == 0
    })
    .await;
    let left = format!(
        "SELECT COUNT(*) FROM coupon_allow_list WHERE coupon_id = {}",
        coupon.id
    );
    eventually("the list's rows are deleted", LIMIT, async || {
        assert_eq!(world.once_with(&["--deep"], &[]).await.code, 0);
        world.sql.number(&left).await == 0
    })
    .await;
    assert_eq!(agreed(&fixture, &live).await, ["a"]);
}
