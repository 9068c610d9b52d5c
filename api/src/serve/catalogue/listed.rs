//! Pages of the list of coupons as they were answered last. Anybody may ask for them, and a page of
//! a thousand coupons costs as much to make as a hundred claims: one is made at a time, with a pause
//! nine times as long after it, so that all who ask take a tenth of one processor at most.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderValue;
use firstcome_shared::coupon::DropState;
use firstcome_shared::http::Problem;
use parking_lot::Mutex;
use tokio::sync::MutexGuard;
use tokio::time::Instant;

use crate::serve::bounded_cache::BoundedCache;

const FRESH_FOR: Duration = Duration::from_millis(200);

/// Pages kept in memory; twice as many at most.
const KEPT: usize = 8;

/// How much longer than making a page the pause after it is, and the longest pause: a store that
/// answered late took no processor meanwhile.
const PAUSE: u32 = 9;
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// Most requests that wait for their page to be made.
const MOST_WAITING: usize = 32;

/// What was asked for: state, limit, after.
pub(crate) type PageKey = (Option<DropState>, usize, Option<i64>);

#[derive(Clone)]
pub(crate) struct ListedPage {
    pub(crate) body: Bytes,
    pub(crate) next: Option<HeaderValue>,
}

#[derive(Clone)]
struct Kept {
    made: Instant,
    /// Of the catalogue that it was made from.
    version: u64,
    page: ListedPage,
}

pub(crate) struct ListedPages {
    kept: Mutex<BoundedCache<PageKey, Kept>>,
    waiting: AtomicUsize,
    /// When the next page may be made.
    turn: tokio::sync::Mutex<Option<Instant>>,
}

impl Default for ListedPages {
    fn default() -> Self {
        Self { kept: BoundedCache::new(KEPT).into(), waiting: AtomicUsize::new(0), turn: tokio::sync::Mutex::default() }
    }
}

impl ListedPages {
    /// The page; `make` is asked where none is kept of this catalogue that is new enough.
    pub(crate) async fn of<Fut>(
        &self,
        key: PageKey,
        version: u64,
        make: impl FnOnce() -> Fut,
    ) -> Result<ListedPage, Problem>
    where
        Fut: Future<Output = Result<ListedPage, Problem>>,
    {
        if let Some(page) = self.fresh(&key, version) {
            return Ok(page);
        }
        let _waiting = Waiting::among(&self.waiting)
            .ok_or_else(|| Problem::unavailable("too many ask for lists of coupons right now: try again"))?;
        let turn = self.turn.lock().await;
        if let Some(next) = *turn {
            tokio::time::sleep_until(next).await;
        }
        // Another request may have made this page meanwhile.
        if let Some(page) = self.fresh(&key, version) {
            return Ok(page);
        }
        let making = Making { begun: Instant::now(), turn };
        let page = make().await?;
        self.kept.lock().insert(key, Kept { made: making.begun, version, page: page.clone() });
        Ok(page)
    }

    fn fresh(&self, key: &PageKey, version: u64) -> Option<ListedPage> {
        let mut kept = self.kept.lock();
        let found = kept.get(key).filter(|kept| kept.version == version && kept.made.elapsed() < FRESH_FOR)?;
        Some(found.page.clone())
    }
}

/// One of those who wait, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(waiting: &'a AtomicUsize) -> Option<Self> {
        let one = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MOST_WAITING).then_some(one)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A page is made; the pause begins when it is dropped, also by a client that hangs up.
struct Making<'a> {
    begun: Instant,
    turn: MutexGuard<'a, Option<Instant>>,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let pause = (self.begun.elapsed() * PAUSE).min(LONGEST_PAUSE);
        *self.turn = Some(Instant::now() + pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PageKey = (None, 100, None);

    async fn ask(pages: &ListedPages, key: PageKey, version: u64, text: &'static str, takes: u64) -> Bytes {
        let make = async || {
            tokio::time::sleep(Duration::from_millis(takes)).await;
            Ok(ListedPage { body: text.into(), next: None })
        };
        pages.of(key, version, make).await.unwrap().body
    }

    #[tokio::test]
    async fn a_page_is_made_once_for_all_who_ask_while_it_is_new_and_the_catalogue_the_same() {
        let pages = ListedPages::default();
        let kept = |made, text: &'static str| {
            let page = ListedPage { body: text.into(), next: None };
            pages.kept.lock().insert(KEY, Kept { made, version: 1, page });
        };
        let now = Instant::now();
        kept(now + FRESH_FOR, "kept");
        assert_eq!(ask(&pages, KEY, 1, "made", 0).await, "kept");
        assert_eq!(ask(&pages, KEY, 2, "of another catalogue", 0).await, "of another catalogue");
        assert_eq!(ask(&pages, (None, 100, Some(7)), 1, "of another key", 0).await, "of another key");
        kept(now, "old");
        tokio::time::sleep_until(now + FRESH_FOR).await;
        assert_eq!(ask(&pages, KEY, 1, "made", 0).await, "made");
    }

    #[tokio::test]
    async fn making_pages_takes_a_tenth_of_the_time_and_those_who_wait_are_bounded() {
        let pages = ListedPages::default();
        let begun = Instant::now();
        for after in 0..11 {
            ask(&pages, (None, 100, Some(after)), 1, "page", 4).await;
        }
        assert!(begun.elapsed() >= Duration::from_millis(10 * 40 + 4), "{:?}", begun.elapsed());
        // Who hangs up while a page is made leaves its pause behind.
        let hung_up = ask(&pages, (None, 1, None), 1, "page", 60_000);
        assert!(tokio::time::timeout(Duration::from_millis(60), hung_up).await.is_err());
        let begun = Instant::now();
        ask(&pages, (None, 2, None), 1, "page", 0).await;
        assert!(begun.elapsed() >= Duration::from_millis(9 * 10), "{:?}", begun.elapsed());
        let many = (0..100).map(|after| {
            let make = async || Ok(ListedPage { body: "page".into(), next: None });
            pages.of((None, 3, Some(after)), 1, make)
        });
        let answers = futures_util::future::join_all(many).await;
        let refused = answers.iter().filter(|answer| answer.is_err()).count();
        assert_eq!(refused, 100 - MOST_WAITING);
        assert_eq!(pages.waiting.load(Ordering::Relaxed), 0);
    }
}
