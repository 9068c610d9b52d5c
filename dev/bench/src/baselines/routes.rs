//! Reference routes: one that does nothing, and one that does only the necessary work.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use chrono::DateTime;
use clap::Args;
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::kafka::{KafkaSettings, Security, Signing};
use firstcome_shared::redis::admission::Admission;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::{Redis, RedisDurability, RedisMode, RedisSettings};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;

use crate::baselines::designs::listen;

/// Partitions of the topic, as created by `migrate`.
pub const PARTITIONS: u32 = 12;

/// Time limit for Kafka's acknowledgement, as in the product.
const DEADLINE: Duration = Duration::from_secs(2);

/// Serves a route that does nothing and returns the answer to a sold-out claim, with the same
/// length.
pub async fn nothing() -> Result<()> {
    const BODY: &str = r#"{"type":"about:blank","title":"Conflict","status":409,"code":"sold_out","detail":"all are given out"}"#;
    let answer = async || {
        (
            StatusCode::CONFLICT,
            [(header::CONTENT_TYPE, "application/problem+json")],
            BODY,
        )
    };
    listen(Router::new().route("/v1/coupons/{id}/claims", post(answer))).await
}

/// Settings of the bare route, with the same names as in the product, and the coupon that it gives
/// out.
#[derive(Debug, Clone, Args)]
pub struct BareArgs {
    #[arg(long, env = "REDIS_URL")]
    pub redis: String,
    #[arg(long, env = "REDIS_KEY_PREFIX")]
    pub prefix: String,
    #[arg(long, env = "KAFKA_BROKERS")]
    pub brokers: String,
    #[arg(long, env = "KAFKA_TOPIC")]
    pub topic: String,
    #[arg(long)]
    pub coupon: i64,
    #[arg(long)]
    pub drop: i64,
}

struct BareRoute {
    redis: Redis,
    keys: DropKeys,
    /// The era is read once, because Redis loses nothing during the measurement.
    era: u64,
    producer: FutureProducer,
    args: BareArgs,
}

/// Serves a route that runs the admission script once, produces one message and waits for the
/// acknowledgement. It has no catalogue, no metrics, no task that outlives its client, and no limit
/// of requests in flight.
pub async fn bare(args: BareArgs) -> Result<()> {
    let url = args.redis.clone().into();
    let prefix = args.prefix.clone();
    let timeout = Duration::from_secs(1);
    let durability = RedisDurability::default();
    let redis = Redis::new(&RedisSettings {
        url,
        prefix,
        timeout,
        mode: RedisMode::default(),
        durability,
    })?;
    let brokers = args.brokers.clone();
    let topic = args.topic.clone();
    let group = String::new();
    let kafka = KafkaSettings {
        brokers,
        topic,
        group,
        security: Security::default(),
        signing: Signing::random(),
    };
    let keys = redis.keys(CouponId(args.coupon), DropId(args.drop));
    let gates = redis.gates(&[keys.coupon]).await?;
    let route = BareRoute {
        redis,
        keys,
        era: gates[0].era().context("the coupon has no era")?,
        producer: kafka.producer(DEADLINE).create()?,
        args,
    };
    listen(
        Router::new()
            .route("/v1/coupons/{id}/claims", post(claim))
            .with_state(Arc::new(route)),
    )
    .await
}

async fn claim(State(route): State<Arc<BareRoute>>, headers: HeaderMap) -> Response {
    admit(&route, &headers).await.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        Problem::internal().into_response()
    })
}

async fn admit(route: &BareRoute, headers: &HeaderMap) -> Result<Response> {
    let user_id: UserId = headers
        .get("x-user-id")
        .context("no X-User-Id")?
        .to_str()?
        .parse()?;
    let coupon_id = CouponId(route.args.coupon);
    let drop_id = DropId(route.args.drop);
    let reply = route.redis.claim(&route.keys, route.era, &user_id).await?;
    let Admission::Accepted(slot) = reply.admission else {
        return Ok(Problem::new(Code::SoldOut, "all are given out").into_response());
    };
    let claimed_at = DateTime::from_timestamp_millis(reply.now_ms).context("Redis's time")?;
    let event = ClaimEvent {
        coupon_id,
        drop_id,
        slot,
        user_id,
        claimed_at,
    };
    let key = event.key();
    let payload = event.encode();
    let partition = i32::try_from(event.partition(PARTITIONS))?;
    let record = FutureRecord::to(&route.args.topic)
        .partition(partition)
        .key(&key)
        .payload(&payload);
    route
        .producer
        .send(record, DEADLINE)
        .await
        .map_err(|(error, _)| error)?;
    let body = json!({"status": "accepted", "drop_id": drop_id, "slot": slot, "queued": true});
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}
