//! Micro-batches of I and J: all waiting requests share the next transaction. Only MySQL has the
//! holders until the drop is permanently sold out. Then the process caches them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use firstcome_shared::domain::UserId;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Pool};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::yield_now;

use super::sql::pool;
use super::{DesignArgs, DesignReply, Issuer};

/// Maximum number of users per transaction.
const MOST: usize = 250;

/// The transaction of a design.
pub(super) trait UnitStore: Send + Sync + 'static {
    /// Number of concurrent transactions.
    const TRANSACTIONS: usize;

    /// Settles as many of these users as possible in one transaction. After an error the connection
    /// is closed, which rolls the transaction back.
    fn give(&self, conn: &mut Conn, users: &[&str]) -> impl Future<Output = Result<Given>> + Send;
}

/// What a transaction gave to the users of a batch.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// For each user, the new slot, or that the user already had a row.
    pub(super) replies: HashMap<String, DesignReply>,
    /// Whether a committed transaction has sold out the drop. Rows are never deleted, so it stays
    /// true.
    pub(super) all_gone: bool,
}

struct Waiting {
    user: UserId,
    reply: oneshot::Sender<DesignReply>,
}

struct Shared<S> {
    store: S,
    pool: Pool,
    holders: String,
    /// All holders. Set once the drop is permanently sold out.
    last: OnceLock<HashSet<String>>,
}

pub(super) struct MysqlBatches<S> {
    shared: Arc<Shared<S>>,
    queue: mpsc::UnboundedSender<Waiting>,
}

impl<S: UnitStore> MysqlBatches<S> {
    pub(super) async fn start(args: &DesignArgs, store: S) -> Result<Self> {
        let pool = pool(&args.database, S::TRANSACTIONS)?;
        // Opens one connection in advance, so that the first claim does not wait for it.
        drop(pool.get_conn().await?);
        let holders = format!(
            "SELECT user_id FROM {} WHERE coupon_id = 1",
            args.design.table()
        );
        let shared = Arc::new(Shared {
            store,
            pool,
            holders,
            last: OnceLock::new(),
        });
        let (queue, waiting) = mpsc::unbounded_channel();
        let waiting = Arc::new(Mutex::new(waiting));
        for _ in 0..S::TRANSACTIONS {
            tokio::spawn(work(shared.clone(), waiting.clone()));
        }
        Ok(Self { shared, queue })
    }
}

async fn work<S: UnitStore>(
    shared: Arc<Shared<S>>,
    waiting: Arc<Mutex<mpsc::UnboundedReceiver<Waiting>>>,
) {
    let mut batch = Vec::with_capacity(MOST);
    loop {
        // Yielding lets the runtime read the sockets, so more users share the transaction.
        yield_now().await;
        if waiting.lock().await.recv_many(&mut batch, MOST).await == 0 {
            return;
        }
        if let Err(error) = shared.settle(&mut batch).await {
            eprintln!("a transaction failed: {error:#}");
        }
        // Users who got no answer from the transaction get 503.
        batch.clear();
    }
}

impl<S: UnitStore> Shared<S> {
    /// Answers the whole batch, in one transaction if possible.
    async fn settle(&self, batch: &mut Vec<Waiting>) -> Result<()> {
        let mut conn = self.pool.get_conn().await?;
        while !batch.is_empty() {
            if let Some(last) = self.last.get() {
                for Waiting { user, reply } in batch.drain(..) {
                    answer(reply, finally(last, user.as_str()));
                }
                break;
            }
            let mut seen = HashSet::new();
            let users: Vec<&str> = batch
                .iter()
                .map(|one| one.user.as_str())
                .filter(|user| seen.insert(*user))
                .collect();
            let given = self.store.give(&mut conn, &users).await;
            let given = match given {
                Ok(given) if given.all_gone => self.load_last(&mut conn).await.map(|()| given),
                other => other,
            };
            let mut replies = match given {
                Ok(given) => given.replies,
                Err(error) => {
                    let _ = conn.disconnect().await;
                    return Err(error);
                }
            };
            let mut rest = Vec::new();
            for Waiting { user, reply } in batch.drain(..) {
                match replies.get_mut(user.as_str()) {
                    // A second click in the same batch gets the reply that the user already holds a
                    // coupon.
                    Some(known) => answer(reply, std::mem::replace(known, DesignReply::Already)),
                    None => rest.push(Waiting { user, reply }),
                }
            }
            *batch = rest;
        }
        Ok(())
    }

    async fn load_last(&self, conn: &mut Conn) -> Result<()> {
        let users: Vec<String> = conn.query(&self.holders).await?;
        self.last.get_or_init(|| users.into_iter().collect());
        Ok(())
    }
}

/// Sends a reply, unless the client has disconnected.
fn answer(reply: oneshot::Sender<DesignReply>, answer: DesignReply) {
    let _ = reply.send(answer);
}

/// Returns the reply to a user once the drop is permanently sold out.
pub(super) fn finally(holders: &HashSet<String>, user: &str) -> DesignReply {
    if holders.contains(user) {
        DesignReply::Already
    } else {
        DesignReply::SoldOut
    }
}

impl<S: UnitStore> Issuer for MysqlBatches<S> {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        if let Some(last) = self.shared.last.get() {
            return Ok(finally(last, user.as_str()));
        }
        let (reply, answered) = oneshot::channel();
        self.queue
            .send(Waiting {
                user: user.clone(),
                reply,
            })
            .ok()
            .context("no worker")?;
        answered.await.context("its transaction failed")
    }
}

/// Formats a list for `IN (…)`. User IDs contain no character that needs escaping in SQL.
pub(super) fn quoted(users: &[&str]) -> String {
    users
        .iter()
        .map(|user| format!("'{user}'"))
        .collect::<Vec<_>>()
        .join(",")
}

/// Formats one statement that inserts the rows of all winners.
pub(super) fn insert<'a>(table: &str, winners: impl Iterator<Item = (&'a str, u32)>) -> String {
    let rows: Vec<String> = winners
        .map(|(user, slot)| format!("(1,'{user}',{slot},UTC_TIMESTAMP(3))"))
        .collect();
    format!(
        "INSERT INTO {table} (coupon_id, user_id, slot, issued_at) VALUES {}",
        rows.join(",")
    )
}
