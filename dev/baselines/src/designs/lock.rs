//! B and C: A under a lock.

use std::time::Duration;

use anyhow::{Result, bail};
use firstcome_shared::domain::UserId;
use rand::RngExt as _;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;

use super::insert::CountThenInsert;
use super::{Place, Said, Shop};

/// B: right as long as there is one process.
pub(super) struct InProcess {
    shop: CountThenInsert,
    lock: Mutex<()>,
}

impl InProcess {
    pub(super) async fn new(place: &Place) -> Result<Self> {
        Ok(Self { shop: CountThenInsert::new(place).await?, lock: Mutex::default() })
    }
}

impl Shop for InProcess {
    async fn claim(&self, user: &UserId) -> Result<Said> {
        let _locked = self.lock.lock().await;
        self.shop.claim(user).await
    }
}

/// Longest that a lock outlives its holder.
const LEASE_MS: u64 = 10_000;
/// Longest wait for it.
const PATIENCE: Duration = Duration::from_secs(30);
const UNLOCK: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// C: right with any number of processes. Within one, people queue in memory, so that one a process asks Redis for the lock
/// and nobody's waiting costs Redis anything.
pub(super) struct InRedis {
    shop: CountThenInsert,
    redis: MultiplexedConnection,
    queue: Mutex<()>,
    key: String,
    look_first: bool,
}

impl InRedis {
    pub(super) async fn new(place: &Place, look_first: bool) -> Result<Self> {
        let redis = redis::Client::open(place.redis.as_str())?.get_multiplexed_async_connection().await?;
        let shop = CountThenInsert::new(place).await?;
        Ok(Self { shop, redis, queue: Mutex::default(), key: place.design.key("lock"), look_first })
    }

    async fn lock(&self) -> Result<String> {
        let token = format!("{:032x}", rand::random::<u128>());
        let begun = std::time::Instant::now();
        let mut set = redis::cmd("SET");
        set.arg(&self.key).arg(&token).arg("NX").arg("PX").arg(LEASE_MS);
        while set.query_async::<Option<String>>(&mut self.redis.clone()).await?.is_none() {
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

    /// Rows are never taken back, so what was sold out without the lock is sold out with it.
    async fn sold_out_already(&self, user: &UserId) -> Result<Option<Said>> {
        let mut conn = self.shop.rows.pool.get_conn().await?;
        let (count, held) = self.shop.rows.look(&mut conn, user.as_str()).await?;
        Ok(if held { Some(Said::Already) } else { (count >= self.shop.quantity).then_some(Said::SoldOut) })
    }
}

impl Shop for InRedis {
    async fn claim(&self, user: &UserId) -> Result<Said> {
        if self.look_first
            && let Some(said) = self.sold_out_already(user).await?
        {
            return Ok(said);
        }
        let _first = self.queue.lock().await;
        let token = self.lock().await?;
        let said = self.shop.claim(user).await;
        self.unlock(&token).await?;
        said
    }
}
