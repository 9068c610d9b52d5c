//! What can't be beaten: servers that do only the part that has to be done, and straight work on the stores.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use chrono::DateTime;
use clap::Args;
use firstcome_baselines::listen;
use firstcome_load::launch::{Coupon, Installation};
use firstcome_shared::code::new_code;
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::http::Problem;
use firstcome_shared::kafka::KafkaSettings;
use firstcome_shared::redis::admission::Admission;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::{Redis, RedisSettings};
use mysql_async::prelude::Queryable as _;
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;
use tokio::process::Command;

/// Of the topic, as `migrate` makes it.
pub const PARTITIONS: u32 = 12;

/// Longest wait for Kafka's acknowledgement, as the product's.
const DEADLINE: Duration = Duration::from_secs(2);

/// Where the bare route finds what it needs.
#[derive(Debug, Clone, Args)]
pub struct Bare {
    /// Redis.
    #[arg(long)]
    pub redis: String,
    /// Prefix of the keys.
    #[arg(long)]
    pub prefix: String,
    /// Kafka.
    #[arg(long)]
    pub brokers: String,
    /// The topic.
    #[arg(long)]
    pub topic: String,
    /// The coupon.
    #[arg(long)]
    pub coupon: i64,
    /// Its drop.
    #[arg(long)]
    pub drop: i64,
}

struct BareRoute {
    redis: Redis,
    keys: DropKeys,
    producer: FutureProducer,
    args: Bare,
}

/// A route that runs the admission script once, produces once and waits for the acknowledgement, and does nothing else: no
/// catalogue, no figures, no task that outlives its client, no bound on what is in hand.
pub async fn bare(args: Bare) -> Result<()> {
    let (url, prefix) = (args.redis.clone().into(), args.prefix.clone());
    let redis = Redis::new(&RedisSettings { url, prefix, timeout: Duration::from_secs(1) })?;
    let kafka = KafkaSettings { brokers: args.brokers.clone(), topic: args.topic.clone(), group: String::new() };
    let keys = redis.keys(CouponId(args.coupon), DropId(args.drop));
    let route = BareRoute { redis, keys, producer: kafka.producer(DEADLINE).create()?, args };
    listen(Router::new().route("/v1/coupons/{id}/claims", post(claim)).with_state(Arc::new(route))).await
}

async fn claim(State(route): State<Arc<BareRoute>>, headers: HeaderMap) -> Response {
    admit(&route, &headers).await.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        Problem::internal().into_response()
    })
}

async fn admit(route: &BareRoute, headers: &HeaderMap) -> Result<Response> {
    let user_id: UserId = headers.get("x-user-id").context("no X-User-Id")?.to_str()?.parse()?;
    let (coupon_id, drop_id) = (CouponId(route.args.coupon), DropId(route.args.drop));
    let reply = route.redis.claim(&route.keys, drop_id, &user_id).await?;
    let Admission::Accepted(slot) = reply.admission else {
        return Ok(Problem::new(StatusCode::CONFLICT, "sold_out", "all are given out").into_response());
    };
    let claimed_at = DateTime::from_timestamp_millis(reply.now_ms).context("Redis's time")?;
    let event = ClaimEvent { coupon_id, drop_id, slot, user_id, claimed_at };
    let (key, payload) = (event.key(), event.encode());
    let partition = i32::try_from(event.partition(PARTITIONS))?;
    let record = FutureRecord::to(&route.args.topic).partition(partition).key(&key).payload(&payload);
    route.producer.send(record, DEADLINE).await.map_err(|(error, _)| error)?;
    let body = json!({"status": "accepted", "drop_id": drop_id, "slot": slot, "queued": true});
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

/// Rows in one statement.
const ROWS: u32 = 1_000;

/// Writes the rows of slots `from..=to` straight into the product's table, many in one statement, one statement after the
/// other, each durable before the next; gives how long it took.
pub async fn insert_rows(installation: &Installation, coupon: Coupon, from: u32, to: u32) -> Result<Duration> {
    insert_rows_by(installation, coupon, from, to, ROWS).await
}

/// [`insert_rows`] with so many rows in a statement.
pub async fn insert_rows_by(
    installation: &Installation,
    coupon: Coupon,
    from: u32,
    to: u32,
    rows: u32,
) -> Result<Duration> {
    let mut conn = installation.mysql().await?;
    let sql = "SELECT slot_limit FROM slot_limits WHERE drop_id = ? ORDER BY slot_limit";
    let limits: Vec<u32> = conn.exec(sql, (coupon.drop,)).await?;
    let begun = Instant::now();
    let mut next = from;
    while next <= to {
        let last = to.min(next + rows - 1);
        let values: Vec<String> = (next..=last)
            .map(|slot| {
                let (user, code) = (person(slot), new_code());
                let limit = limits.iter().find(|limit| **limit >= slot).copied().unwrap_or(0);
                format!(
                    "({},{slot},{},'{user}','{code}',UTC_TIMESTAMP(3),UTC_TIMESTAMP(3),'consumer',{limit},0)",
                    coupon.drop, coupon.id
                )
            })
            .collect();
        let columns =
            "drop_id, slot, coupon_id, user_id, code, claimed_at, issued_at, issued_by, slot_limit, person_scope";
        conn.query_drop(format!("INSERT INTO issued_coupons ({columns}) VALUES {}", values.join(","))).await?;
        next = last + 1;
    }
    let took = begun.elapsed();
    conn.disconnect().await?;
    Ok(took)
}

/// The person on a slot, where nobody asked.
pub fn person(slot: u32) -> String {
    format!("q-{slot:07}")
}

/// Puts admissions of slots 1..=`to` straight into Redis, as the script would have left them a while ago.
pub async fn admit_straight(installation: &Installation, coupon: Coupon, to: u32) -> Result<()> {
    let mut conn = installation.redis().await?;
    let keys = DropKeys::new(installation.setting("REDIS_KEY_PREFIX"), CouponId(coupon.id), DropId(coupon.drop));
    let long_ago = chrono::Utc::now().timestamp_millis() - 120_000;
    for first in (1..=to).step_by(ROWS as usize) {
        let slots = first..=to.min(first + ROWS - 1);
        let (mut users, mut times, mut claimants) = (redis::cmd("ZADD"), redis::cmd("HSET"), redis::cmd("HSET"));
        users.arg(&keys.users);
        times.arg(&keys.times);
        claimants.arg(&keys.claimants);
        for slot in slots {
            users.arg(slot).arg(person(slot));
            times.arg(slot).arg(long_ago);
            claimants.arg(person(slot)).arg(format!("{}:{slot}", coupon.drop));
        }
        let mut all = redis::pipe();
        all.add_command(users).add_command(times).add_command(claimants);
        all.query_async::<()>(&mut conn).await?;
    }
    redis::cmd("SET").arg(&keys.count).arg(to).query_async::<()>(&mut conn).await?;
    Ok(())
}

/// Slots read at a time, as the reconciler's default.
const PAGE: u32 = 5_000;

/// Reads every admission and every row of a drop and compares nothing; gives how long it took and how many there were.
pub async fn scan(installation: &Installation, coupon: Coupon) -> Result<(Duration, u64)> {
    let (mut redis, mut mysql) = (installation.redis().await?, installation.mysql().await?);
    let keys = DropKeys::new(installation.setting("REDIS_KEY_PREFIX"), CouponId(coupon.id), DropId(coupon.drop));
    let sql = "SELECT slot, user_id FROM issued_coupons WHERE drop_id = ? AND slot BETWEEN ? AND ? ORDER BY slot";
    let begun = Instant::now();
    let mut seen = 0;
    for first in (1..=coupon.quantity).step_by(PAGE as usize) {
        let last = first + PAGE - 1;
        let mut page = redis::cmd("ZRANGEBYSCORE");
        page.arg(&keys.users).arg(first).arg(last).arg("WITHSCORES");
        let users: Vec<(String, u32)> = page.query_async(&mut redis).await?;
        let rows: Vec<(u32, String)> = mysql.exec(sql, (coupon.drop, first, last)).await?;
        ensure!(users.len() == rows.len(), "the stores differ: the scan is of a clean drop");
        seen += rows.len() as u64;
    }
    let took = begun.elapsed();
    mysql.disconnect().await?;
    Ok((took, seen))
}

/// Runs per second of the admission script, by redis-benchmark.
pub async fn script(
    installation: &Installation,
    coupon: Coupon,
    runs: u32,
    connections: usize,
    pipelined: u32,
) -> Result<f64> {
    let url = installation.setting("REDIS_URL").to_owned();
    let port = url.rsplit(':').next().context("no port")?.trim_end_matches('/').to_owned();
    let hash = gate(installation);
    let keys = DropKeys::new(installation.setting("REDIS_KEY_PREFIX"), CouponId(coupon.id), DropId(coupon.drop));
    let names = [&keys.meta, &keys.count, &keys.users, &keys.free, &keys.waiting, &keys.claimants, &keys.times];
    let output = Command::new("redis-benchmark")
        .args(["-h", "127.0.0.1", "-p", &port, "--csv", "-r", "100000000"])
        .args(["-n", &runs.to_string(), "-c", &connections.to_string(), "-P", &pipelined.to_string()])
        .args(["EVALSHA", &hash, "7"])
        .args(names)
        .args([&coupon.drop.to_string(), "b-__rand_int__"])
        .output()
        .await
        .context("redis-benchmark (Debian: redis-tools)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().rfind(|line| line.contains("EVALSHA")).with_context(|| {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("redis-benchmark gave no result ({}): {text}{said}", output.status)
    })?;
    let number =
        line.rsplit_once("EVALSHA").and_then(|(_, rest)| rest.split('"').find(|part| part.parse::<f64>().is_ok()));
    Ok(number.context("no number in redis-benchmark's result")?.parse()?)
}

/// The hash under which Redis knows this installation's admission script.
fn gate(installation: &Installation) -> String {
    let text = format!("-- admission gate of {} in database 0\n{}", installation.setting("REDIS_KEY_PREFIX"), CLAIM);
    redis::Script::new(&text).get_hash().to_owned()
}

const CLAIM: &str = include_str!("../../../shared/src/redis/scripts/claim.lua");
