//! The connection pool of a server. A full pool closes the connection whose client has been idle
//! longest, so that idle connections never block new ones.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::activity::{Activity, IDLE_FOR, millis};
use super::network::network;
use super::server::Limits;

const TOO_MANY: &str = "firstcome_http_connections_refused_total";
const DISPLACED: &str = "firstcome_http_connections_displaced_total";

/// Interval at which a full pool looks for a connection to close while a new one waits.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Maximum age of a connection. The next response closes an older one, so that clients spread over
/// new processes.
const LONGEST: Duration = Duration::from_secs(600);

/// Added at random to [`LONGEST`], so that connections that began together do not end together.
const JITTER_SECONDS: u64 = 120;

pub(super) struct ConnectionPool {
    epoch: Instant,
    most_of_network: Option<usize>,
    slots: Arc<Semaphore>,
    /// Set while a new connection waits and no connection is idle. Each response then closes its
    /// connection.
    is_wanted: AtomicBool,
    open: Arc<Mutex<Open>>,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    len: usize,
    by_network: HashMap<IpAddr, OfNetwork>,
    /// Connections to close, from one scan, popped from the end. The rank shows whether an entry is
    /// still valid.
    to_close: Vec<(u64, Arc<Activity>)>,
    scanned_at: u64,
}

/// The open connections from one network.
#[derive(Default)]
struct OfNetwork {
    all: HashMap<u64, Arc<Activity>>,
    scanned_at: u64,
}

/// A connection that counts as open until this is dropped.
pub(super) struct OpenConnection {
    pub(super) activity: Arc<Activity>,
    id: u64,
    open: Arc<Mutex<Open>>,
    _slot: OwnedSemaphorePermit,
}

impl ConnectionPool {
    pub(super) fn new(limits: &Limits) -> Self {
        metrics::describe_counter!(
            TOO_MANY,
            "Connections closed because their address had too many with requests in progress"
        );
        metrics::counter!(TOO_MANY).absolute(0);
        metrics::describe_counter!(
            DISPLACED,
            "Connections without a request in progress, closed to make room"
        );
        metrics::counter!(DISPLACED).absolute(0);
        Self {
            epoch: Instant::now(),
            most_of_network: limits.connections_of_address,
            slots: Arc::new(Semaphore::new(limits.connections)),
            is_wanted: AtomicBool::new(false),
            open: Arc::default(),
        }
    }

    /// Accepts a connection, and closes another one if the pool is full. Returns `None` if the
    /// connection's network has reached its limit and all its connections have requests in
    /// progress.
    pub(super) async fn admit(&self, peer: SocketAddr) -> Option<OpenConnection> {
        let network = network(peer.ip());
        if !self.has_room_for(network) {
            metrics::counter!(TOO_MANY).increment(1);
            return None;
        }
        let slot = self.slot().await?;
        let longest = LONGEST + Duration::from_secs(rand::random_range(0..=JITTER_SECONDS));
        let activity = Arc::new(Activity::new(network, self.epoch, longest));
        let mut open = self.open.lock();
        let id = open.next_id;
        open.next_id += 1;
        open.len += 1;
        open.by_network
            .entry(network)
            .or_default()
            .all
            .insert(id, Arc::clone(&activity));
        Some(OpenConnection {
            activity,
            id,
            open: Arc::clone(&self.open),
            _slot: slot,
        })
    }

    fn has_room_for(&self, network: IpAddr) -> bool {
        let Some(most) = self.most_of_network else {
            return true;
        };
        let mut open = self.open.lock();
        open.by_network
            .get(&network)
            .is_none_or(|own| own.all.len() < most)
            || open.close_one_of(network, self.now())
    }

    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
                return Some(slot);
            }
            if !self.open.lock().close_one(self.now()) {
                self.is_wanted.store(true, Ordering::Relaxed);
            }
            let freed =
                tokio::time::timeout(LOOK_AGAIN, Arc::clone(&self.slots).acquire_owned()).await;
            self.is_wanted.store(false, Ordering::Relaxed);
            if let Ok(slot) = freed {
                return slot.ok();
            }
        }
    }

    /// Whether the response that begins now must close its connection.
    pub(super) fn is_last_answer(&self, activity: &Activity) -> bool {
        self.is_wanted.load(Ordering::Relaxed) || activity.ends_at <= self.now()
    }

    fn now(&self) -> u64 {
        millis(self.epoch.elapsed())
    }
}

impl Open {
    /// Closes the connection with the lowest rank. Returns `false` if none may be closed.
    fn close_one(&mut self, now: u64) -> bool {
        if self.to_close.is_empty() && may_scan(&mut self.scanned_at, self.len, now) {
            let all = self
                .by_network
                .values()
                .flat_map(|of_network| of_network.all.values());
            let closable =
                all.filter_map(|activity| Some((activity.closable(now)?, Arc::clone(activity))));
            self.to_close = closable.collect();
            self.to_close
                .sort_unstable_by_key(|(rank, _)| std::cmp::Reverse(*rank));
        }
        while let Some((rank, activity)) = self.to_close.pop() {
            if activity.close(rank) {
                metrics::counter!(DISPLACED).increment(1);
                return true;
            }
        }
        false
    }

    /// Closes one of a network's idle connections, however recent. A network at its limit loses its
    /// own connections, but never the newest one.
    fn close_one_of(&mut self, network: IpAddr, now: u64) -> bool {
        let Some(own) = self.by_network.get_mut(&network) else {
            return false;
        };
        if !may_scan(&mut own.scanned_at, own.all.len(), now) {
            return false;
        }
        let now = now + millis(IDLE_FOR);
        let lowest = own
            .all
            .values()
            .filter_map(|activity| Some((activity.closable(now)?, activity)));
        let is_closed = lowest
            .min_by_key(|(rank, _)| *rank)
            .is_some_and(|(rank, activity)| activity.close(rank));
        if is_closed {
            metrics::counter!(DISPLACED).increment(1);
        }
        is_closed
    }
}

/// Allows at most one scan per millisecond. A scan of 1,000 connections takes about 50 µs, so a
/// flood of new connections could otherwise keep a core busy with scans. Each network has its own
/// clock, so that a network at its limit does not delay scans of others.
fn may_scan(scanned_at: &mut u64, connections: usize, now: u64) -> bool {
    let may = now >= *scanned_at + connections as u64 / 1_000;
    if may {
        *scanned_at = now;
    }
    may
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        open.len -= 1;
        if let Entry::Occupied(mut own) = open.by_network.entry(self.activity.network) {
            own.get_mut().all.remove(&self.id);
            if own.get().all.is_empty() {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_at_its_limit_does_not_delay_scans_of_others() {
        let mut open = Open::default();
        let epoch = Instant::now();
        let networks = [7, 8].map(|last| IpAddr::from([192, 0, 2, last]));
        for id in 0..4_000 {
            let network = networks[usize::from(id >= 2_000)];
            let activity = Arc::new(Activity::new(network, epoch, LONGEST));
            open.by_network
                .entry(network)
                .or_default()
                .all
                .insert(id, activity);
            open.len += 1;
        }
        let now = millis(epoch.elapsed()) + 1_000;
        let closes = networks.map(|network| open.close_one_of(network, now));
        assert_eq!(
            (closes, open.close_one_of(networks[0], now)),
            ([true, true], false)
        );
        assert!(open.close_one(now), "nor of the whole server");
    }
}
