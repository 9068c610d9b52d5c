//! Drift of whole stores.

use anyhow::{Context, Result};
use firstcome_shared::event::ClaimEvent;
use firstcome_shared::redis::keys;
use rdkafka::producer::{FutureProducer, FutureRecord};
use std::time::Duration;

use crate::drift::injector::{Injected, Injector, signed};
use crate::drift::kind::Drift;
use crate::drift::stall::Stall;

const SEND_LIMIT: Duration = Duration::from_secs(10);

impl Injector {
    pub(super) async fn lose_keys(&mut self) -> Result<Injected> {
        let own = self.keys.own();
        self.redis::<i64>(redis::cmd("DEL").arg(&own[..])).await?;
        Ok(self.injected(Drift::RedisLost, &[], "Redis lost the keys of this drop"))
    }

    pub(super) async fn flush(&mut self) -> Result<Injected> {
        self.redis::<()>(&redis::cmd("FLUSHALL")).await?;
        Ok(self.injected(
            Drift::RedisFlushed,
            &[],
            "Redis lost everything, including other installations' data",
        ))
    }

    pub(super) async fn lose_gate(&mut self) -> Result<Injected> {
        let prefix = self.redis.prefix();
        let mut gates: Vec<String> = self
            .redis(redis::cmd("KEYS").arg(format!("{prefix}:{{*}}:gate")))
            .await?;
        gates.push(keys::compared(prefix));
        self.redis::<i64>(redis::cmd("DEL").arg(gates)).await?;
        Ok(self.injected(
            Drift::RedisGate,
            &[],
            "Redis lost its gates, which closes admission",
        ))
    }

    /// Locks the drop's row and sends copies of `n` claims that already have rows. Nothing of this
    /// drop can be written until the lock is released. Afterwards the data is unchanged.
    pub(super) async fn stall(&mut self, n: u32) -> Result<Injected> {
        let people = self.pick(n).await?;
        let stall = Stall::begin(&self.db_settings, self.drop.id).await?;
        let producer: FutureProducer = self.kafka.producer(SEND_LIMIT).create()?;
        let (coupon_id, drop_id) = self.target();
        let now_ms = self.redis.time_ms().await?;
        let claimed_at =
            chrono::DateTime::from_timestamp_millis(now_ms).context("Redis's clock")?;
        for (slot, user) in &people {
            let event = ClaimEvent {
                coupon_id,
                drop_id,
                slot: *slot,
                user_id: user.clone(),
                claimed_at,
            };
            let key = event.key();
            let payload = event.encode();
            let record = FutureRecord::to(&self.kafka.topic)
                .key(&key)
                .payload(&payload)
                .headers(
                    self.kafka
                        .signing
                        .headers(&self.kafka.topic, payload.as_bytes()),
                );
            producer
                .send(record, SEND_LIMIT)
                .await
                .map_err(|(error, _)| error)
                .context("Kafka did not accept a message")?;
        }
        let what = "the consumer cannot write rows of this drop meanwhile; copies of claims wait on the topic";
        Ok(Injected {
            stall: Some(stall),
            ..self.injected(Drift::Stalled, &signed(&people), what)
        })
    }
}
