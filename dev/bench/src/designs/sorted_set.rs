//! Design B: claims wait in a sorted set by time. A scheduler pops the first ones, inserts their
//! rows, and then answers them. A crash after the pop and before the inserts loses the popped
//! users.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use firstcome_shared::domain::UserId;
use mysql_async::Pool;
use mysql_async::prelude::Queryable as _;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Mutex, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use super::micro_batch::{finally, insert};
use super::sql::pool;
use super::{DesignArgs, DesignReply, Issuer};

/// Pause between runs of the scheduler. Published systems pause for a second, for which winners
/// would wait.
const EVERY: Duration = Duration::from_millis(100);
/// Maximum number of users whom one run of the scheduler pops.
const MOST: u32 = 1_000;

type Replies = Vec<oneshot::Sender<DesignReply>>;

struct Line {
    redis: MultiplexedConnection,
    pool: Pool,
    key: String,
    table: String,
    /// The claims that wait for an answer, by user.
    waiting: Mutex<HashMap<String, Replies>>,
    /// All users with a row. Set once the drop is sold out.
    last: OnceLock<HashSet<String>>,
}

pub(super) struct SortedSet {
    line: Arc<Line>,
}

impl SortedSet {
    pub(super) async fn start(args: &DesignArgs) -> Result<Self> {
        let pool = pool(&args.database, 1)?;
        drop(pool.get_conn().await?);
        let line = Arc::new(Line {
            redis: args.redis().await?,
            pool,
            key: format!("{}:line", args.name),
            table: args.design.table(),
            waiting: Mutex::default(),
            last: OnceLock::new(),
        });
        tokio::spawn(schedule(line.clone(), args.quantity));
        Ok(Self { line })
    }
}

async fn schedule(line: Arc<Line>, quantity: u32) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut holders = HashSet::new();
    while line.last.get().is_none() {
        ticks.tick().await;
        if let Err(error) = line.run(&mut holders, quantity).await {
            eprintln!("the scheduler failed: {error:#}");
        }
    }
}

impl Line {
    /// Pops users while coupons are left, and answers them. Once all are given out, answers
    /// everybody who still waits.
    async fn run(&self, holders: &mut HashSet<String>, quantity: u32) -> Result<()> {
        let given = u32::try_from(holders.len())?;
        let most = MOST.min(quantity - given);
        let mut pop = redis::cmd("ZPOPMIN");
        pop.arg(&self.key).arg(most);
        let popped: Vec<(String, f64)> = pop.query_async(&mut self.redis.clone()).await?;
        // A user who claims again after the pop is popped once more.
        let new = popped.iter().filter(|(user, _)| !holders.contains(user));
        let winners: Vec<(String, u32)> =
            new.map(|(user, _)| user.clone()).zip(given + 1..).collect();
        if !winners.is_empty() {
            let rows = winners.iter().map(|(user, slot)| (user.as_str(), *slot));
            let mut conn = self.pool.get_conn().await?;
            conn.query_drop(insert(&self.table, rows)).await?;
        }
        let slots: HashMap<String, u32> = winners.into_iter().collect();
        holders.extend(slots.keys().cloned());
        let mut waiting = self.waiting.lock().await;
        for (user, _) in &popped {
            let first = slots.get(user).map(|slot| DesignReply::Accepted(*slot));
            answer(waiting.remove(user), first);
        }
        if holders.len() == usize::try_from(quantity)? {
            self.last.get_or_init(|| holders.clone());
            for (user, replies) in waiting.drain() {
                let reply = finally(holders, &user);
                answer(Some(replies), Some(reply));
            }
        }
        Ok(())
    }
}

/// Answers all claims of a user: the first one with `first`, the others with `Already`. If `first`
/// is `SoldOut`, all get it; if it is `None`, the user already has a coupon.
fn answer(replies: Option<Replies>, first: Option<DesignReply>) {
    let mut next = first.unwrap_or(DesignReply::Already);
    for reply in replies.into_iter().flatten() {
        // Clients that have disconnected need no answer.
        let _ = reply.send(next);
        if next != DesignReply::SoldOut {
            next = DesignReply::Already;
        }
    }
}

impl Issuer for SortedSet {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        let line = &self.line;
        let (reply, answered) = oneshot::channel();
        {
            let mut waiting = line.waiting.lock().await;
            if let Some(last) = line.last.get() {
                return Ok(finally(last, user.as_str()));
            }
            let replies = waiting.entry(user.as_str().to_owned()).or_default();
            replies.push(reply);
        }
        let mut add = redis::cmd("ZADD");
        add.arg(&line.key).arg("NX");
        add.arg(chrono::Utc::now().timestamp_micros())
            .arg(user.as_str());
        add.query_async::<()>(&mut line.redis.clone()).await?;
        answered.await.context("the scheduler has ended")
    }
}
