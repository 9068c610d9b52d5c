//! Caches the last pages of the list of coupons, the most expensive response that needs no
//! authentication. One page is rendered at a time, followed by a pause nine times as long, so that
//! all clients together cost at most a tenth of one processor. The number of bytes sent per second
//! is also limited. First pages have a separate turn, so that requests for other pages cannot block
//! them.

use std::collections::HashMap;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderValue;
use firstcome_shared::coupon::DropState;
use firstcome_shared::http::Problem;
use parking_lot::Mutex;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use crate::bounded_cache::BoundedCache;

const FRESH_FOR: Duration = Duration::from_millis(200);

/// Pages kept in memory; at most twice as many.
const KEPT: usize = 8;

/// The pause after making a page, as a multiple of the time taken. [`LONGEST_PAUSE`] limits it,
/// because waiting for a slow store uses no processor.
const PAUSE: u32 = 9;
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Maximum rate of bytes for all long pages, per second and with a burst of one second. A short
/// request can ask for a page of a thousand coupons.
const MOST_SENT: u32 = 64 << 20;

/// Maximum number of different pages in one turn that requests may wait for.
const MOST_WAITING: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PageKey {
    pub(crate) state: Option<DropState>,
    pub(crate) limit: usize,
    /// Only coupons with a higher ID. Zero starts at the first coupon.
    pub(crate) after: i64,
}

/// Page size if the request names no limit.
pub(crate) const DEFAULT_LIMIT: usize = 100;

impl PageKey {
    fn is_first(&self) -> bool {
        self.after == 0 && self.limit == DEFAULT_LIMIT
    }

    pub(crate) fn is_long(&self) -> bool {
        self.limit > DEFAULT_LIMIT
    }
}

#[derive(Clone)]
pub(crate) struct ListedPage {
    pub(crate) body: Bytes,
    pub(crate) next: Option<HeaderValue>,
}

#[derive(Clone)]
struct Kept {
    made: Instant,
    /// Version of the catalogue that the page was made from.
    version: u64,
    page: ListedPage,
}

pub(crate) struct ListedPages {
    kept: Mutex<BoundedCache<PageKey, Kept>>,
    first: Turn,
    others: Turn,
    /// When the bytes sent so far no longer exceed the rate of [`MOST_SENT`].
    sent_by: Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Turn {
    /// How many requests wait for each page.
    waiting: Mutex<HashMap<PageKey, usize>>,
    /// When the next page may be made.
    next: tokio::sync::Mutex<Option<Instant>>,
}

impl Default for ListedPages {
    fn default() -> Self {
        Self {
            kept: BoundedCache::new(KEPT).into(),
            first: Turn::default(),
            others: Turn::default(),
            sent_by: Mutex::default(),
        }
    }
}

impl ListedPages {
    /// Returns the page. Calls `make` if there is no recent page for this version of the catalogue.
    pub(crate) async fn of<Fut>(
        &self,
        key: PageKey,
        version: u64,
        make: impl FnOnce() -> Fut,
    ) -> Result<ListedPage, Problem>
    where
        Fut: Future<Output = Result<ListedPage, Problem>>,
    {
        if key.is_long() && !self.may_send(Instant::now()) {
            return Err(too_many());
        }
        if let Some(page) = self.fresh(&key, version) {
            return Ok(page);
        }
        let turn = if key.is_first() {
            &self.first
        } else {
            &self.others
        };
        let _waiting = turn.wait_for(key).ok_or_else(too_many)?;
        let next = turn.next.lock().await;
        // Another request may have made this page in the meantime.
        if let Some(page) = self.fresh(&key, version) {
            return Ok(page);
        }
        if let Some(next) = *next {
            tokio::time::sleep_until(next).await;
        }
        let making = Making {
            begun: Instant::now(),
            next,
        };
        let page = make().await?;
        self.kept.lock().insert(
            key,
            Kept {
                made: Instant::now(),
                version,
                page: page.clone(),
            },
        );
        drop(making);
        Ok(page)
    }

    /// Applies the generic cell rate algorithm to bytes, using the long pages that [`Self::sends`]
    /// has recorded.
    fn may_send(&self, now: Instant) -> bool {
        self.sent_by
            .lock()
            .is_none_or(|sent_by| sent_by < now + Duration::from_secs(1))
    }

    pub(crate) fn sends(&self, bytes: usize, now: Instant) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let takes = Duration::from_secs(1).mul_f64(f64::from(bytes) / f64::from(MOST_SENT));
        let mut sent_by = self.sent_by.lock();
        *sent_by = Some(sent_by.map_or(now, |sent_by| sent_by.max(now)) + takes);
    }

    fn fresh(&self, key: &PageKey, version: u64) -> Option<ListedPage> {
        let mut kept = self.kept.lock();
        let found = kept
            .get(key)
            .filter(|kept| kept.version == version && kept.made.elapsed() < FRESH_FOR)?;
        Some(found.page.clone())
    }
}

fn too_many() -> Problem {
    Problem::unavailable("too many lists of coupons are requested right now; try again")
}

impl Turn {
    fn wait_for(&self, key: PageKey) -> Option<Waiting<'_>> {
        let mut waiting = self.waiting.lock();
        let is_room = waiting.len() < MOST_WAITING || waiting.contains_key(&key);
        is_room.then(|| {
            *waiting.entry(key).or_default() += 1;
            Waiting { turn: self, key }
        })
    }
}

/// A waiting request. Dropping it ends the wait.
struct Waiting<'a> {
    turn: &'a Turn,
    key: PageKey,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.turn.waiting.lock();
        if let Some(count) = waiting.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.key);
            }
        }
    }
}

/// A page being made. Dropping it begins the pause, even if the client hangs up.
struct Making<'a> {
    begun: Instant,
    next: MutexGuard<'a, Option<Instant>>,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let pause = (self.begun.elapsed() * PAUSE).min(LONGEST_PAUSE);
        *self.next = Some(Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PageKey = PageKey {
        state: None,
        limit: DEFAULT_LIMIT,
        after: 0,
    };

    fn after(after: i64) -> PageKey {
        PageKey { after, ..KEY }
    }

    async fn ask(
        pages: &ListedPages,
        key: PageKey,
        version: u64,
        text: &'static str,
        takes: u64,
    ) -> Bytes {
        let make = async || {
            tokio::time::sleep(Duration::from_millis(takes)).await;
            Ok(ListedPage {
                body: text.into(),
                next: None,
            })
        };
        pages.of(key, version, make).await.unwrap().body
    }

    #[tokio::test]
    async fn caches_a_page_while_it_is_fresh_and_the_catalogue_is_unchanged() {
        let pages = ListedPages::default();
        let kept = |made, text: &'static str| {
            let page = ListedPage {
                body: text.into(),
                next: None,
            };
            pages.kept.lock().insert(
                KEY,
                Kept {
                    made,
                    version: 1,
                    page,
                },
            );
        };
        let now = Instant::now();
        kept(now + Duration::from_secs(60), "kept");
        assert_eq!(ask(&pages, KEY, 1, "made", 0).await, "kept");
        assert_eq!(
            ask(&pages, KEY, 2, "of another catalogue", 0).await,
            "of another catalogue"
        );
        assert_eq!(
            ask(&pages, after(7), 1, "of another key", 0).await,
            "of another key"
        );
        kept(now, "old");
        tokio::time::sleep_until(now + FRESH_FOR).await;
        assert_eq!(ask(&pages, KEY, 1, "made", 0).await, "made");
        // All concurrent requests wait for the same page.
        let pages = ListedPages::default();
        let answers =
            futures_util::future::join_all((0..500).map(|_| ask(&pages, after(1), 1, "page", 5)))
                .await;
        assert_eq!(answers.len(), 500);
    }

    #[tokio::test]
    async fn spends_a_tenth_of_the_time_on_pages_and_limits_waiting_requests() {
        let pages = ListedPages::default();
        let begun = Instant::now();
        for number in 1..12 {
            ask(&pages, after(number), 1, "page", 4).await;
        }
        assert!(
            begun.elapsed() >= Duration::from_millis(10 * 40 + 4),
            "{:?}",
            begun.elapsed()
        );
        // If the client hangs up while its page is made, the pause still follows.
        let free = pages.others.next.lock().await.unwrap();
        tokio::time::sleep_until(free).await;
        let begun = Instant::now();
        let hung_up = ask(&pages, after(20), 1, "page", 60_000);
        assert!(
            tokio::time::timeout(Duration::from_millis(60), hung_up)
                .await
                .is_err()
        );
        ask(&pages, after(21), 1, "page", 0).await;
        assert!(
            begun.elapsed() >= Duration::from_millis(60) + LONGEST_PAUSE,
            "{:?}",
            begun.elapsed()
        );
        let many = (0..100).map(|number| {
            let make = async || {
                tokio::task::yield_now().await;
                Ok(ListedPage {
                    body: "page".into(),
                    next: None,
                })
            };
            pages.of(after(30 + number), 1, make)
        });
        let answers = futures_util::future::join_all(many).await;
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        assert_eq!(refused, 100 - MOST_WAITING);
        assert!(pages.others.waiting.lock().is_empty());
    }

    #[tokio::test]
    async fn limits_bytes_of_long_pages_per_second() {
        let pages = ListedPages::default();
        let now = Instant::now();
        let mebibyte = 1 << 20;
        let send = |bytes, at: Duration| {
            let may = pages.may_send(now + at);
            if may {
                pages.sends(bytes, now + at);
            }
            may
        };
        let sent = |at: Duration| (0..1_000).filter(|_| send(mebibyte, at)).count();
        assert_eq!(sent(Duration::ZERO), 64);
        assert_eq!(sent(Duration::from_millis(500)), 32);
        assert_eq!(
            sent(Duration::from_secs(60)),
            64,
            "unused bytes do not add up"
        );
        assert!(
            send(1 << 30, Duration::from_secs(70)),
            "one page may exceed the limit"
        );
        assert!(!send(1, Duration::from_secs(80)));

        *pages.sent_by.lock() = Some(Instant::now() + Duration::from_secs(60));
        let long = PageKey {
            limit: DEFAULT_LIMIT + 1,
            ..after(1)
        };
        let refused = pages
            .of(long, 1, async || panic!("makes a page that cannot be sent"))
            .await;
        assert!(refused.is_err());
        assert_eq!(ask(&pages, after(1), 1, "short", 0).await, "short");
    }

    #[tokio::test]
    async fn serves_first_page_while_clients_request_many_other_pages() {
        let pages = ListedPages::default();
        let odd = futures_util::future::join_all(
            (1..30).map(|number| ask(&pages, after(number), 1, "odd", 1_000)),
        );
        let plain = async {
            tokio::task::yield_now().await;
            ask(&pages, KEY, 1, "plain", 0).await
        };
        let first = tokio::select! {
            _ = odd => panic!("other pages came first"),
            plain = plain => plain,
        };
        assert_eq!(first, "plain");
    }
}
