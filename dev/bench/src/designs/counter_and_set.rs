//! Design C, as in published write-ups: a set of users and a counter in Redis decide. The answer
//! does not wait until Kafka has the message. Its consumer inserts row by row.

use std::time::Duration;

use anyhow::{Result, anyhow};
use firstcome_shared::domain::UserId;
use firstcome_shared::kafka::{KafkaSettings, Security, Signing, ensure_topic};
use mysql_async::Pool;
use mysql_async::prelude::Queryable as _;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use redis::aio::MultiplexedConnection;

use super::sql::pool;
use super::{DesignArgs, DesignReply, Issuer};

/// Time limit of the producer and of creating the topic, as in Firstcome.
const DEADLINE: Duration = Duration::from_secs(2);
const PARTITIONS: i32 = 12;

pub(super) struct CounterAndSet {
    redis: MultiplexedConnection,
    producer: FutureProducer,
    topic: String,
    users: String,
    counter: String,
    quantity: u32,
}

impl CounterAndSet {
    pub(super) async fn start(args: &DesignArgs) -> Result<Self> {
        // Any key: messages of this design are not signed.
        let key = "0123456789abcdef0123456789abcdef".into();
        let settings = KafkaSettings {
            brokers: args.brokers.clone(),
            topic: args.name.clone(),
            group: format!("{}-consumer", args.name),
            security: Security::default(),
            signing: Signing::new(&key).map_err(|error| anyhow!(error))?,
        };
        ensure_topic(&settings, PARTITIONS, DEADLINE, 1).await?;
        let consumer: StreamConsumer = settings.reader().create()?;
        let mut all = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            all.add_partition_offset(&settings.topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&all)?;
        let pool = pool(&args.database, 1)?;
        drop(pool.get_conn().await?);
        let insert = format!(
            "INSERT INTO {} (coupon_id, user_id, slot, issued_at) VALUES (1, ?, ?, UTC_TIMESTAMP(3))",
            args.design.table()
        );
        tokio::spawn(consume(consumer, pool, insert));
        Ok(Self {
            redis: args.redis().await?,
            producer: settings.producer(DEADLINE).create()?,
            topic: settings.topic,
            users: format!("{}:users", args.name),
            counter: format!("{}:count", args.name),
            quantity: args.quantity,
        })
    }

    /// Answers a claim if everything is given out, and returns `None` otherwise. The counter never
    /// falls, so this answer stays right, and such a claim only reads.
    async fn sold_out(&self, user: &str) -> Result<Option<DesignReply>> {
        let mut query = redis::pipe();
        query.cmd("GET").arg(&self.counter);
        query.cmd("SISMEMBER").arg(&self.users).arg(user);
        let answer = query.query_async(&mut self.redis.clone()).await?;
        let (count, is_member): (Option<u32>, bool) = answer;
        if count.is_none_or(|count| count < self.quantity) {
            return Ok(None);
        }
        Ok(Some(if is_member {
            DesignReply::Already
        } else {
            DesignReply::SoldOut
        }))
    }
}

/// Inserts a row for each message until the process ends. A message that fails is only logged.
async fn consume(consumer: StreamConsumer, pool: Pool, insert: String) {
    loop {
        let message = match consumer.recv().await {
            Ok(message) => message,
            Err(KafkaError::PartitionEOF(_)) => continue,
            Err(error) => {
                eprintln!("the consumer failed: {error}");
                continue;
            }
        };
        let payload = String::from_utf8_lossy(message.payload().unwrap_or_default()).into_owned();
        if let Err(error) = insert_row(&pool, &insert, &payload).await {
            eprintln!("an insert failed: {error:#}");
        }
    }
}

async fn insert_row(pool: &Pool, insert: &str, payload: &str) -> Result<()> {
    let (user, slot): (String, u32) = serde_json::from_str(payload)?;
    let mut conn = pool.get_conn().await?;
    Ok(conn.exec_drop(insert, (user, slot)).await?)
}

impl Issuer for CounterAndSet {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        let user = user.as_str();
        if let Some(reply) = self.sold_out(user).await? {
            return Ok(reply);
        }
        let mut redis = self.redis.clone();
        let mut add = redis::cmd("SADD");
        add.arg(&self.users).arg(user);
        if add.query_async::<u32>(&mut redis).await? == 0 {
            // The first claim of this user may still lose, because the two steps are not atomic.
            return Ok(DesignReply::Already);
        }
        let mut count = redis::cmd("INCR");
        count.arg(&self.counter);
        let slot: u32 = count.query_async(&mut redis).await?;
        if slot > self.quantity {
            let mut remove = redis::cmd("SREM");
            remove.arg(&self.users).arg(user);
            remove.query_async::<()>(&mut redis).await?;
            return Ok(DesignReply::SoldOut);
        }
        let payload = serde_json::to_string(&(user, slot))?;
        let record = FutureRecord::to(&self.topic).key(user).payload(&payload);
        // The answer does not wait for Kafka's acknowledgement.
        let queued = self.producer.send_result(record);
        drop(queued.map_err(|(error, _)| error)?);
        Ok(DesignReply::Accepted(slot))
    }
}
