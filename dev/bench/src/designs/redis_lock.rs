//! Design A: a lock in Redis, under which the rows are counted and the user's row is inserted.
//! Claims of one process queue in memory, so that at most one of them waits for the lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use firstcome_shared::domain::UserId;
use mysql_async::Pool;
use mysql_async::prelude::Queryable as _;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::time::sleep;

use super::sql::pool;
use super::{DesignArgs, DesignReply, Issuer};

/// Time after which the lock of a dead process expires.
const LEASE_MS: u64 = 10_000;
/// Time limit for getting the lock, and the pause between two attempts.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(1);
/// Deletes the lock, unless it has expired and another process has it.
const UNLOCK: &str =
    "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

pub(super) struct RedisLock {
    redis: MultiplexedConnection,
    pool: Pool,
    turn: Mutex<()>,
    key: String,
    tokens: AtomicU64,
    count: String,
    insert: String,
    quantity: u32,
}

impl RedisLock {
    pub(super) async fn new(args: &DesignArgs) -> Result<Self> {
        let table = args.design.table();
        let pool = pool(&args.database, 1)?;
        drop(pool.get_conn().await?);
        Ok(Self {
            redis: args.redis().await?,
            pool,
            turn: Mutex::default(),
            key: format!("{}:lock", args.name),
            tokens: AtomicU64::default(),
            // The unique index alone answers both parts of the query.
            count: format!(
                "SELECT COUNT(*), COALESCE(MAX(user_id = ?), 0) FROM {table} WHERE coupon_id = 1"
            ),
            insert: format!(
                "INSERT INTO {table} (coupon_id, user_id, slot, issued_at) VALUES (1, ?, ?, UTC_TIMESTAMP(3))"
            ),
            quantity: args.quantity,
        })
    }

    /// Takes the lock and returns the token that releases it.
    async fn lock(&self) -> Result<u64> {
        let token = self.tokens.fetch_add(1, Ordering::Relaxed);
        let mut set = redis::cmd("SET");
        set.arg(&self.key)
            .arg(token)
            .arg("NX")
            .arg("PX")
            .arg(LEASE_MS);
        let begun = Instant::now();
        let mut redis = self.redis.clone();
        while set
            .query_async::<Option<String>>(&mut redis)
            .await?
            .is_none()
        {
            ensure!(begun.elapsed() < PATIENCE, "no lock within {PATIENCE:?}");
            sleep(PAUSE).await;
        }
        Ok(token)
    }

    async fn unlock(&self, token: u64) -> Result<()> {
        let mut eval = redis::cmd("EVAL");
        eval.arg(UNLOCK).arg(1).arg(&self.key).arg(token);
        eval.query_async::<()>(&mut self.redis.clone()).await?;
        Ok(())
    }

    async fn count_and_insert(&self, user: &str) -> Result<DesignReply> {
        let mut conn = self.pool.get_conn().await?;
        let counted = conn.exec_first(&self.count, (user,)).await?;
        let (count, has_row): (u32, u8) = counted.unwrap_or((0, 0));
        if has_row != 0 {
            return Ok(DesignReply::Already);
        }
        if count >= self.quantity {
            return Ok(DesignReply::SoldOut);
        }
        conn.exec_drop(&self.insert, (user, count + 1)).await?;
        Ok(DesignReply::Accepted(count + 1))
    }
}

impl Issuer for RedisLock {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        let _turn = self.turn.lock().await;
        let token = self.lock().await?;
        let reply = self.count_and_insert(user.as_str()).await;
        self.unlock(token).await?;
        reply
    }
}
