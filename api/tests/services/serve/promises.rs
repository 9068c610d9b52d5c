//! A claim is acknowledged only after a second store besides Redis holds it.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::DropId;
use firstcome_stack::{FaultProxy, KafkaServer, ProxyFault};
use futures_util::future::join_all;
use serde_json::json;

use super::stores_away::behind_redis;
use super::world::{InProcessApi, ServeWorld, open, stack, today, until, with};

/// Creates a world on this Kafka, with a proxy in front of MySQL.
async fn on(kafka: &KafkaServer, world: &ServeWorld) -> (ServeWorld, FaultProxy) {
    let mysql = stack().await.mysql.proxy().await.unwrap();
    let url = stack().await.mysql.database_url_via(&mysql, &world.name);
    let own = world
        .with("kafka-brokers", kafka.bootstrap())
        .with("publish-deadline-ms", 1_000);
    own.create_topic().await;
    (own.with("database-url", url), mysql)
}

/// Returns the rows that APIs wrote.
async fn issued(world: &ServeWorld) -> Vec<Vec<String>> {
    let columns = "coupon_id, drop_id, slot, user_id";
    world
        .sql(&format!(
            "SELECT {columns} FROM {{db}}.issued_coupons WHERE issued_by = 'api' ORDER BY slot"
        ))
        .await
}

/// Claims for one user after another until a claim is queued. Returns its user.
async fn queued(api: &InProcessApi, id: i64) -> String {
    let mut number = 0;
    let mut user = String::new();
    until("a claim is queued", async || {
        number += 1;
        user = format!("first-{number}");
        api.claim(id, &user).await.json["queued"] == true
    })
    .await;
    user
}

/// The reconciler rebuilds a lost Redis after both deadlines. If a claim reaches Kafka later, its
/// slot may have been given to another user.
#[tokio::test]
async fn only_a_retry_confirms_a_claim_stored_after_both_deadlines() {
    let world = ServeWorld::new().await;
    let (proxied, proxy) = behind_redis(&world).await;
    let own = proxied
        .with("store-timeout-ms", 10_000)
        .with("publish-deadline-ms", 1_000)
        .with("backup-deadline-ms", 500);
    let api = own.api().await;
    let (id, drop) = api.make(open(5_000)).await;
    queued(&api, id).await;
    // Redis is slow, Kafka is not.
    proxy
        .set(ProxyFault::Delay(Duration::from_millis(1_600)))
        .await
        .unwrap();
    api.claim(id, "late").await.is(503, "unavailable");
    api.mine(id, "late").await.is(503, "unavailable");
    proxy.set(ProxyFault::Pass).await.unwrap();
    until("the claim is confirmed", async || {
        api.claim(id, "late").await.code() == (200, "already_claimed")
    })
    .await;
    let claims = world.published().await;
    let mut claims = claims.iter().filter(|claim| claim.drop_id.0 == drop);
    let is_published = claims.any(|claim| claim.user_id.as_str() == "late");
    // If Kafka does not acknowledge the retry in time, MySQL holds the claim.
    let is_issued = issued(&world).await.iter().any(|row| row[3] == "late");
    assert!(is_published || is_issued);
}

#[tokio::test]
async fn api_issues_only_claims_that_kafka_does_not_acknowledge() {
    let world = ServeWorld::new().await;
    let kafka = KafkaServer::breakable().await.unwrap();
    let (own, _mysql) = on(kafka.server, &world).await;
    let api = own.api().await;
    let other = own.api().await;
    let (id, drop) = api.make(open(5_000)).await;
    let user = queued(&api, id).await;
    let mut rows = issued(&world).await.into_iter();
    assert!(rows.all(|row| row[3] != user), "Kafka has it");

    kafka.proxy.set(ProxyFault::Cut).await.unwrap();
    let answers = join_all((4..=50).map(async |n| api.claim(id, &format!("u-{n}")).await)).await;
    api.get("/readyz").await.has_status(200);
    let rows = issued(&world).await;
    for (answer, n) in answers.iter().zip(4..) {
        assert_eq!(
            (answer.code(), &answer.json["queued"]),
            ((202, "accepted"), &json!(false)),
            "{answer:?}"
        );
        let slot = answer.json["slot"].to_string();
        let kept = [id.to_string(), drop.to_string(), slot, format!("u-{n}")];
        assert!(rows.contains(&kept.to_vec()), "{kept:?} in {rows:?}");
    }
    // This process has recorded that the claim is durable. Another one has no such record, and finds
    // the row. Neither writes anything.
    for api in [&api, &other] {
        api.claim(id, "u-4").await.is(200, "already_claimed");
    }
    assert_eq!(issued(&world).await, rows);
    // The next slot has another user's row. After a later era has begun, Redis may have been rebuilt
    // without the claim.
    let moved = "{db}.issued_coupons SET slot = slot + 1 ORDER BY slot DESC LIMIT 1";
    let era = format!("{{db}}.coupons SET era = era + 1 WHERE id = {id}");
    for (change, user) in [(moved, "u-refused"), (&era, "late")] {
        world.sql(&format!("UPDATE {change}")).await;
        let rows = issued(&world).await;
        api.claim(id, user).await.is(503, "unavailable");
        assert_eq!(issued(&world).await, rows);
    }
    api.stop().await;
}

#[tokio::test]
async fn claims_get_503_without_kafka_and_mysql_and_retries_succeed_later() {
    let world = ServeWorld::new().await;
    let kafka = KafkaServer::breakable().await.unwrap();
    let (own, mysql) = on(kafka.server, &world).await;
    let api = own.with("backup-deadline-ms", 300).api().await;
    let (id, _) = api.make(open(5_000)).await;
    queued(&api, id).await;
    kafka.proxy.set(ProxyFault::Cut).await.unwrap();
    for fault in [ProxyFault::Cut, ProxyFault::BlackHole] {
        mysql.set(fault).await.unwrap();
        let user = format!("x-{fault:?}").to_lowercase();
        let table = "
            $user claims $id => 503 unavailable
            $user claims $id => 503 unavailable
            $user looks $id => 503 unavailable";
        api.play(&[("$id", &id), ("$user", &user)], table).await;
    }
    mysql.set(ProxyFault::Pass).await.unwrap();
    until("MySQL alone is enough", async || {
        api.claim(id, "x-cut").await.code() == (200, "already_claimed")
    })
    .await;
    assert_eq!(api.mine(id, "x-cut").await.json["status"], "issued");
    let rows = issued(&world).await;
    assert_eq!(rows.iter().filter(|row| row[3] == "x-cut").count(), 1);
    mysql.set(ProxyFault::Cut).await.unwrap();
    kafka.proxy.set(ProxyFault::Pass).await.unwrap();
    until("Kafka alone is enough", async || {
        api.claim(id, "x-blackhole").await.code() == (200, "already_claimed")
    })
    .await;
}

#[tokio::test]
async fn concurrent_retries_publish_few_times_with_the_admission_time() {
    let world = ServeWorld::new().await;
    let first = world.api().await;
    let other = world.with("max-claims-in-hand", 2_000).api().await;
    let (id, drop) = first.make(open(5)).await;
    let slot = first.claim(id, "u-1").await.json["slot"].clone();
    assert_eq!(world.messages().await, 1);
    first.claim(id, "u-1").await.is(200, "already_claimed");
    assert_eq!(world.messages().await, 1, "the retry is not published");
    let expected = json!({"status": "already_claimed", "drop_id": drop, "slot": slot});
    // A loaded machine may not confirm some of them in time.
    let is_confirmed = async || {
        let answer = other.claim(id, "u-1").await;
        let is_right = answer.status == 503 || answer.json == expected;
        assert!(is_right, "{answer:?}");
        answer.status != 503
    };
    join_all((0..1_000).map(|_| until("a retry is confirmed", is_confirmed))).await;
    let claims = world.published().await;
    // `first` has published one. Each batch that `other` sends to Redis may publish another until
    // Kafka has acknowledged one of them.
    assert!((2..500).contains(&claims.len()), "{}", claims.len());
    let is_same = claims.iter().all(|claim| *claim == claims[0]);
    assert!(is_same, "all have the time of the admission");
}

/// A return voids the claims from before it. A claim of unknown time must not seem later than a
/// return that came while Redis's answer was on its way.
#[tokio::test]
async fn claim_of_unknown_time_counts_from_before_redis_was_asked() {
    let one_way = TimeDelta::seconds(1);
    let world = ServeWorld::new().await;
    let kafka = KafkaServer::breakable().await.unwrap();
    let (own, _mysql) = on(kafka.server, &world).await;
    let (slow, redis) = behind_redis(&own).await;
    let direct = own.api().await;
    let slow = slow.with("store-timeout-ms", 5_000).api().await;
    let (id, drop) = direct.make(open(5_000)).await;
    let first = queued(&direct, id).await;
    for user in ["mine", "kept"] {
        direct.claim(id, user).await.is(202, "accepted");
    }
    let times = world.keys(id, DropId(drop)).times;
    world.ask_redis::<()>(&["DEL", &times]).await;
    let delay = ProxyFault::Delay(one_way.to_std().unwrap());
    redis.set(delay).await.unwrap();
    let mut asked_at = [Utc::now(); 3];
    until("a repeated claim is published", async || {
        asked_at[0] = Utc::now();
        slow.claim(id, &first).await.code() == (200, "already_claimed")
    })
    .await;
    until("a claim is published when its user looks", async || {
        asked_at[1] = Utc::now();
        slow.mine(id, "mine").await.json["status"] == "accepted"
    })
    .await;
    let all = own.published().await;
    let published = |user: &str| {
        let last = all.iter().rfind(|claim| claim.user_id.as_str() == user);
        last.and_then(|claim| claim.claimed_at).unwrap()
    };
    kafka.proxy.set(ProxyFault::Cut).await.unwrap();
    until("a repeated claim becomes a row", async || {
        asked_at[2] = Utc::now();
        slow.claim(id, "kept").await.code() == (200, "already_claimed")
    })
    .await;
    let ms = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', claimed_at) DIV 1000";
    let row = format!("SELECT {ms} FROM {{db}}.issued_coupons WHERE user_id = 'kept'");
    let row = world.sql(&row).await;
    let kept = DateTime::from_timestamp_millis(row[0][0].parse().unwrap()).unwrap();
    let at = [published(&first), published("mine"), kept];
    let after: Vec<TimeDelta> = at
        .iter()
        .zip(asked_at)
        .map(|(at, asked)| *at - asked)
        .collect();
    assert!(after.iter().all(|after| *after < one_way), "{after:?}");
}

#[tokio::test]
async fn retry_makes_a_claim_of_another_drop_durable() {
    let (world, api) = ServeWorld::with_api().await;
    let (id, _, other) = two_days(&world, &api, "coupon").await;
    let keys = world.keys(id, DropId(other));
    let claim = format!("{other}:4");
    world
        .ask_redis::<()>(&["HSET", &keys.claimants, "u-1", &claim])
        .await;
    let expected = json!({"status": "already_claimed", "drop_id": other, "slot": 4});
    for _ in 0..3 {
        assert_eq!(api.claim(id, "u-1").await.json, expected);
    }
    let claims = world.published().await;
    assert_eq!(claims.len(), 1);
    assert_eq!((claims[0].drop_id.0, claims[0].slot), (other, 4));
}

/// Creates a daily coupon with drops of today and tomorrow.
pub(crate) async fn two_days(
    world: &ServeWorld,
    api: &InProcessApi,
    once_per: &str,
) -> (i64, i64, i64) {
    let today = today().await;
    let days = json!({
        "type": "daily", "time_zone": "UTC", "opens": "00:00", "closes": "00:00",
        "first_day": today, "last_day": today + TimeDelta::days(1),
    });
    let (id, drop) = api
        .make(with(with(open(5), "schedule", days), "once_per", once_per))
        .await;
    let drops = world
        .sql(&format!(
            "SELECT id FROM {{db}}.drops WHERE coupon_id = {id} AND id <> {drop}"
        ))
        .await;
    (id, drop, drops[0][0].parse().unwrap())
}

/// Moves a drop's window in MySQL and in Redis. Its opening and closing are given in milliseconds
/// from now.
pub(crate) async fn move_window(
    world: &ServeWorld,
    id: i64,
    drop: DropId,
    [opens, closes]: [i64; 2],
) {
    // Use the same time for both stores; otherwise MySQL would open the drop before Redis.
    let now = Utc::now();
    let at = |ms| now + TimeDelta::milliseconds(ms);
    let text = |ms| at(ms).format("%Y-%m-%d %H:%M:%S%.3f").to_string();
    let set = format!(
        "opens_at = '{}', closes_at = '{}'",
        text(opens),
        text(closes)
    );
    world
        .sql(&format!("UPDATE {{db}}.drops SET {set} WHERE id = {drop}"))
        .await;
    let opens = at(opens).timestamp_millis().to_string();
    let closes = at(closes).timestamp_millis().to_string();
    let meta = world.keys(id, drop).meta;
    let set = format!("HSET {meta} opens_at_ms {opens} closes_at_ms {closes}");
    let words: Vec<&str> = set.split(' ').collect();
    world.ask_redis::<()>(&words).await;
}

/// Waits until the API shows this drop as the current one.
pub(crate) async fn until_current(api: &InProcessApi, id: i64, drop: i64) {
    let path = format!("/v1/coupons/{id}");
    until("the next drop is open", async || {
        api.get(&path).await.json["current_drop"]["id"] == drop
    })
    .await;
}

#[tokio::test]
async fn retry_after_closing_finds_its_claim_and_takes_no_slot_of_the_next_drop() {
    const HOUR: i64 = 3_600_000;
    let (world, api) = ServeWorld::with_api().await;
    let (id, first, second) = two_days(&world, &api, "drop").await;
    move_window(&world, id, DropId(second), [HOUR, 2 * HOUR]).await;
    api.claim(id, "u-1").await.is(202, "accepted");
    api.claim(id, "early").await.is(202, "accepted");
    let held = json!({"status": "already_claimed", "drop_id": first, "slot": 1});

    move_window(&world, id, DropId(first), [-HOUR, -1]).await;
    until("the drop is closed", async || {
        api.claim(id, "u-2").await.code() == (409, "not_open")
    })
    .await;
    assert_eq!(
        api.claim(id, "u-1").await.json,
        held,
        "the retry finds the closed drop"
    );

    // Seal the drop, as a pass does seconds after it closed.
    world.issue(id, DropId(first), 1, "u-1").await;
    let sealed = "sealed_at = UTC_TIMESTAMP(3), sealed_rows = 1";
    world
        .sql(&format!(
            "UPDATE {{db}}.drops SET {sealed} WHERE id = {first}"
        ))
        .await;
    let path = format!("/v1/coupons/{id}");
    until("the drop is sealed", async || {
        api.get(&path).await.json["current_drop"]["state"] == "sealed"
    })
    .await;
    assert_eq!(api.claim(id, "u-1").await.json, held, "sealed");
    api.claim(id, "u-2").await.is(409, "not_open");

    // The next drop follows without a gap. The claim of a user who was admitted long before closing
    // is for the next drop.
    let times = world.keys(id, DropId(first)).times;
    let [now, long_ago] = [0, 30].map(|minutes| {
        let at = Utc::now() - TimeDelta::minutes(minutes);
        at.timestamp_millis().to_string()
    });
    let set = ["HSET", &times, "1", &now, "2", &long_ago];
    world.ask_redis::<()>(&set).await;
    move_window(&world, id, DropId(first), [-HOUR, -10]).await;
    move_window(&world, id, DropId(second), [-10, HOUR]).await;
    until_current(&api, id, second).await;
    assert_eq!(
        api.claim(id, "u-1").await.json,
        held,
        "a retry, not a claim on the next drop"
    );
    let early = api.claim(id, "early").await;
    assert_eq!(
        (early.code(), &early.json["drop_id"]),
        ((202, "accepted"), &json!(second))
    );
    assert_eq!(api.claim(id, "u-2").await.json["drop_id"], second);

    // After a loss of Redis, sealed drops are not loaded again.
    move_window(&world, id, DropId(second), [HOUR, 2 * HOUR]).await;
    until("the next drop is not open", async || {
        api.get(&path).await.json["current_drop"]["id"] == first
    })
    .await;
    for key in world.keys(id, DropId(first)).own() {
        world.ask_redis::<()>(&["DEL", key]).await;
    }
    api.claim(id, "u-1").await.is(409, "not_open");
    assert_eq!(api.mine(id, "u-1").await.json["status"], "issued");
}
