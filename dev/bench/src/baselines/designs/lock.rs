//! Designs B and C: design A under a lock.

use std::time::Duration;

use anyhow::{Result, bail};
use firstcome_shared::domain::UserId;
use rand::RngExt as _;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;

use super::insert::CountThenInsert;
use super::{DesignArgs, DesignReply, Issuer};

/// B: correct as long as there is only one process.
pub(super) struct InProcess {
    issuer: CountThenInsert,
    lock: Mutex<()>,
}

impl InProcess {
    pub(super) async fn new(args: &DesignArgs) -> Result<Self> {
        Ok(Self {
            issuer: CountThenInsert::new(args).await?,
            lock: Mutex::default(),
        })
    }
}

impl Issuer for InProcess {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        let _locked = self.lock.lock().await;
        self.issuer.claim(user).await
    }
}

/// Time after which the lock of a dead holder expires.
const LEASE_MS: u64 = 10_000;
/// Time limit for getting the lock.
const PATIENCE: Duration = Duration::from_secs(30);
const UNLOCK: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// C: correct with any number of processes. Requests of one process queue in memory, so that at
/// most one of them waits for the lock in Redis.
pub(super) struct InRedis {
    issuer: CountThenInsert,
    redis: MultiplexedConnection,
    queue: Mutex<()>,
    key: String,
    read_first: bool,
}

impl InRedis {
    pub(super) async fn new(args: &DesignArgs, read_first: bool) -> Result<Self> {
        let redis = redis::Client::open(args.redis.as_str())?
            .get_multiplexed_async_connection()
            .await?;
        let issuer = CountThenInsert::new(args).await?;
        Ok(Self {
            issuer,
            redis,
            queue: Mutex::default(),
            key: args.design.key("lock"),
            read_first,
        })
    }

    async fn lock(&self) -> Result<String> {
        let token = format!("{:032x}", rand::random::<u128>());
        let begun = std::time::Instant::now();
        let mut set = redis::cmd("SET");
        set.arg(&self.key)
            .arg(&token)
            .arg("NX")
            .arg("PX")
            .arg(LEASE_MS);
        while set
            .query_async::<Option<String>>(&mut self.redis.clone())
            .await?
            .is_none()
        {
            if begun.elapsed() > PATIENCE {
                bail!("no lock within {PATIENCE:?}");
            }
            let pause = rand::rng().random_range(500..3_000);
            tokio::time::sleep(Duration::from_micros(pause)).await;
        }
        Ok(token)
    }

    async fn unlock(&self, token: &str) -> Result<()> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(UNLOCK).arg(1).arg(&self.key).arg(token);
        eval.query_async::<i64>(&mut self.redis.clone()).await?;
        Ok(())
    }

    /// Rows are never deleted, so a drop that appears sold out without the lock stays sold out.
    async fn sold_out_already(&self, user: &UserId) -> Result<Option<DesignReply>> {
        let mut conn = self.issuer.rows.pool.get_conn().await?;
        let (count, has_row) = self.issuer.rows.query(&mut conn, user.as_str()).await?;
        Ok(DesignReply::if_held(has_row).or(DesignReply::if_over(count >= self.issuer.quantity)))
    }
}

impl Issuer for InRedis {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        if self.read_first
            && let Some(reply) = self.sold_out_already(user).await?
        {
            return Ok(reply);
        }
        let _first = self.queue.lock().await;
        let token = self.lock().await?;
        let reply = self.issuer.claim(user).await;
        self.unlock(&token).await?;
        reply
    }
}
