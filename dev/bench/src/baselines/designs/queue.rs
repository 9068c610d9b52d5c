//! Designs F and G: Redis decides, Kafka transports, a consumer inserts.

use std::time::Duration;

use anyhow::{Context, Result};
use firstcome_shared::domain::UserId;
use rdkafka::producer::{FutureProducer, FutureRecord};
use redis::aio::MultiplexedConnection;
use tokio::sync::{Semaphore, mpsc};

use super::{DesignArgs, DesignReply, Issuer};

/// Time limit for Kafka's acknowledgement, as in Firstcome.
const DEADLINE: Duration = Duration::from_secs(2);

/// A producer with Firstcome's settings.
struct DesignTopic {
    producer: FutureProducer,
    name: String,
}

impl DesignTopic {
    /// Sends one empty message in advance, which the consumer skips, so that the measurement does
    /// not include connection set-up.
    async fn new(args: &DesignArgs) -> Result<Self> {
        let settings = args.kafka();
        let producer: FutureProducer = settings.producer(DEADLINE).create()?;
        let first = FutureRecord::to(&settings.topic).key("1").payload("");
        producer
            .send(first, DEADLINE)
            .await
            .map_err(|(error, _)| error)?;
        Ok(Self {
            producer,
            name: settings.topic,
        })
    }

    async fn send(&self, user: &str, slot: u32) -> Result<()> {
        let payload = format!("{{\"user_id\":\"{user}\",\"slot\":{slot}}}");
        let record = FutureRecord::to(&self.name).key("1").payload(&payload);
        self.producer
            .send(record, DEADLINE)
            .await
            .map_err(|(error, _)| error)?;
        Ok(())
    }
}

/// F: a set of users and a counter, in two steps.
pub(super) struct SetAndCounter {
    redis: MultiplexedConnection,
    topic: DesignTopic,
    people: String,
    counter: String,
    quantity: u32,
}

impl SetAndCounter {
    pub(super) async fn new(args: &DesignArgs) -> Result<Self> {
        Ok(Self {
            redis: redis::Client::open(args.redis.as_str())?
                .get_multiplexed_async_connection()
                .await?,
            topic: DesignTopic::new(args).await?,
            people: args.design.key("users"),
            counter: args.design.key("count"),
            quantity: args.quantity,
        })
    }

    /// Answers a request that finds the counter at the quantity. The counter only grows, so the
    /// request changes nothing.
    async fn settled(&self, user: &str) -> Result<Option<DesignReply>> {
        let mut query = redis::pipe();
        query
            .cmd("GET")
            .arg(&self.counter)
            .cmd("SISMEMBER")
            .arg(&self.people)
            .arg(user);
        let (count, has_row): (Option<u32>, bool) =
            query.query_async(&mut self.redis.clone()).await?;
        let over = count.is_some_and(|count| count >= self.quantity);
        Ok(over.then_some(if has_row {
            DesignReply::Already
        } else {
            DesignReply::SoldOut
        }))
    }

    async fn take_back(&self, user: &str) -> Result<()> {
        Ok(redis::cmd("SREM")
            .arg(&self.people)
            .arg(user)
            .query_async(&mut self.redis.clone())
            .await?)
    }
}

impl Issuer for SetAndCounter {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        let user = user.as_str();
        if let Some(reply) = self.settled(user).await? {
            return Ok(reply);
        }
        let added: u32 = redis::cmd("SADD")
            .arg(&self.people)
            .arg(user)
            .query_async(&mut self.redis.clone())
            .await?;
        if added == 0 {
            // A user who claims twice at once gets this answer and may still lose, because the two
            // steps are not atomic.
            return Ok(DesignReply::Already);
        }
        let slot: u32 = redis::cmd("INCR")
            .arg(&self.counter)
            .query_async(&mut self.redis.clone())
            .await?;
        if slot > self.quantity {
            self.take_back(user).await?;
            return Ok(DesignReply::SoldOut);
        }
        self.topic.send(user, slot).await?;
        Ok(DesignReply::Accepted(slot))
    }
}

/// Number of connections of G. `WATCH` belongs to a connection, so connections cannot be shared.
const CONNECTIONS: usize = 64;

/// G: one set with optimistic locking. It is changed only if no other client has changed it since
/// the count.
pub(super) struct WatchedSet {
    free: tokio::sync::Mutex<mpsc::Receiver<MultiplexedConnection>>,
    give_back: mpsc::Sender<MultiplexedConnection>,
    waiting: Semaphore,
    shared: MultiplexedConnection,
    topic: DesignTopic,
    people: String,
    quantity: u32,
}

impl WatchedSet {
    pub(super) async fn new(args: &DesignArgs) -> Result<Self> {
        let client = redis::Client::open(args.redis.as_str())?;
        let (give_back, free) = mpsc::channel(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            give_back
                .send(client.get_multiplexed_async_connection().await?)
                .await?;
        }
        Ok(Self {
            free: tokio::sync::Mutex::new(free),
            give_back,
            waiting: Semaphore::new(CONNECTIONS),
            shared: client.get_multiplexed_async_connection().await?,
            topic: DesignTopic::new(args).await?,
            people: args.design.key("users"),
            quantity: args.quantity,
        })
    }

    /// Answers a request that finds the set full. The set only grows, so the request needs neither
    /// `WATCH` nor a connection.
    async fn settled(&self, user: &str) -> Result<Option<DesignReply>> {
        let mut query = redis::pipe();
        query
            .cmd("SISMEMBER")
            .arg(&self.people)
            .arg(user)
            .cmd("SCARD")
            .arg(&self.people);
        let (has_row, count): (bool, u32) = query.query_async(&mut self.shared.clone()).await?;
        Ok(DesignReply::if_held(has_row).or(DesignReply::if_over(count >= self.quantity)))
    }

    async fn decide(&self, conn: &mut MultiplexedConnection, user: &str) -> Result<DesignReply> {
        loop {
            let mut query = redis::pipe();
            query.cmd("WATCH").arg(&self.people).ignore();
            query
                .cmd("SISMEMBER")
                .arg(&self.people)
                .arg(user)
                .cmd("SCARD")
                .arg(&self.people);
            let (has_row, count): (bool, u32) = query.query_async(conn).await?;
            if let Some(reply) =
                DesignReply::if_held(has_row).or(DesignReply::if_over(count >= self.quantity))
            {
                redis::cmd("UNWATCH").query_async::<()>(conn).await?;
                return Ok(reply);
            }
            let mut add = redis::pipe();
            add.atomic().cmd("SADD").arg(&self.people).arg(user);
            // Nil means that the set has changed, so everything is read again.
            if add.query_async::<Option<(u32,)>>(conn).await?.is_some() {
                return Ok(DesignReply::Accepted(count + 1));
            }
        }
    }
}

impl Issuer for WatchedSet {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        if let Some(reply) = self.settled(user.as_str()).await? {
            return Ok(reply);
        }
        let reply = {
            let _place = self.waiting.acquire().await?;
            let mut conn = self
                .free
                .lock()
                .await
                .recv()
                .await
                .context("no connection")?;
            let reply = self.decide(&mut conn, user.as_str()).await;
            self.give_back.send(conn).await?;
            reply?
        };
        if let DesignReply::Accepted(slot) = reply {
            self.topic.send(user.as_str(), slot).await?;
        }
        Ok(reply)
    }
}
