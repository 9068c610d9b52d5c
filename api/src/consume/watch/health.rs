//! What the process says about itself: the loop turns, MySQL takes batches, Kafka answers.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use firstcome_shared::http::health::{Check, check};
use firstcome_shared::mysql::Db;

use crate::consume::watch::watchdog::Signs;

/// A loop that did not come round for so long is stuck. Waiting for MySQL or for messages comes round all the time.
const STUCK: Duration = Duration::from_secs(30);

/// Written by the loop and the lag's watcher, read by `/healthz` and `/readyz`.
#[derive(Debug)]
pub(crate) struct Health {
    turned_at: Mutex<Instant>,
    mysql: Mutex<Option<String>>,
    kafka: Mutex<Option<String>>,
    stuck: Mutex<Option<String>>,
    /// Whether messages wait, and how often something was heard that explains it: a batch written, a store away.
    waits: AtomicBool,
    heard: AtomicU64,
}

impl Health {
    /// Alive, and not ready before the group has said which partitions are ours.
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            turned_at: Mutex::new(Instant::now()),
            mysql: Mutex::default(),
            kafka: Mutex::new(Some("not in the group yet".into())),
            stuck: Mutex::default(),
            waits: AtomicBool::new(false),
            heard: AtomicU64::new(0),
        })
    }

    /// The loop came round.
    pub(crate) fn turned(&self) {
        *self.turned_at.lock() = Instant::now();
    }

    /// MySQL takes batches (`None`), or why it does not.
    pub(crate) fn mysql(&self, trouble: Option<String>) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        *self.mysql.lock() = trouble;
    }

    /// Kafka answers (`None`), or what it said.
    pub(crate) fn kafka(&self, trouble: Option<String>) {
        if trouble.is_some() {
            self.heard.fetch_add(1, Ordering::Relaxed);
        }
        *self.kafka.lock() = trouble;
    }

    /// Whether messages wait for this process, and none of them is being written.
    pub(crate) fn messages_wait(&self, wait: bool) {
        self.waits.store(wait, Ordering::Relaxed);
    }

    /// What the watchdog goes by.
    pub(crate) fn signs(&self) -> Signs {
        let (waits, heard) = (self.waits.load(Ordering::Relaxed), self.heard.load(Ordering::Relaxed));
        Signs { turned_at: *self.turned_at.lock(), waits, heard }
    }

    /// The watchdog's word; whether it is news.
    pub(crate) fn stuck(&self, trouble: Option<String>) -> bool {
        let mut stuck = self.stuck.lock();
        let news = stuck.is_some() != trouble.is_some();
        *stuck = trouble;
        news
    }

    fn alive_at(&self, now: Instant) -> Result<(), String> {
        let still = now.saturating_duration_since(*self.turned_at.lock());
        if still <= STUCK { Ok(()) } else { Err(format!("the loop has stood still for {} s", still.as_secs())) }
    }

    pub(crate) fn alive(self: &Arc<Self>) -> Check {
        let health = Arc::clone(self);
        check(move || std::future::ready(health.alive_at(Instant::now())))
    }

    /// For `/readyz`. What a batch met counts first; with no batch in hand MySQL is asked.
    pub(crate) fn ready(self: &Arc<Self>, db: &Db) -> Vec<(&'static str, Check)> {
        let (of_mysql, of_kafka, db) = (Arc::clone(self), Arc::clone(self), db.clone());
        let mysql = check(move || {
            let (trouble, db) = (of_mysql.mysql.lock().clone(), db.clone());
            async move {
                match trouble {
                    Some(trouble) => Err(trouble),
                    None => db.ping().await.map_err(|error| error.to_string()),
                }
            }
        });
        let kafka = check(move || std::future::ready(of_kafka.kafka.lock().clone().map_or(Ok(()), Err)));
        let of_loop = Arc::clone(self);
        let progress = check(move || std::future::ready(of_loop.stuck.lock().clone().map_or(Ok(()), Err)));
        vec![("mysql", mysql), ("kafka", kafka), ("loop", progress)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_stands_still_is_not_alive_until_it_turns_again() {
        let health = Health::new();
        let now = Instant::now();
        assert_eq!(health.alive_at(now + Duration::from_secs(29)), Ok(()));
        let stuck = health.alive_at(now + Duration::from_secs(32));
        assert!(stuck.is_err_and(|reason| reason.contains("stood still for 3")));
        health.turned();
        assert_eq!(health.alive_at(Instant::now()), Ok(()));
    }
}
