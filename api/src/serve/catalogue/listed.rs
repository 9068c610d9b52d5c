//! Caches the last pages of the list of coupons, the most expensive response that needs no
//! authentication. One page is made at a time, and requests wait for it for a limited time.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderValue;
use firstcome_shared::coupon::DropState;
use firstcome_shared::http::Problem;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout};

use crate::bounded_cache::BoundedCache;

const FRESH_FOR: Duration = Duration::from_millis(300);

/// Pages kept in memory; at most twice as many.
const KEPT: usize = 8;

/// Maximum wait for the pages of other requests.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct PageKey {
    pub(crate) state: Option<DropState>,
    pub(crate) limit: usize,
    /// Only coupons with a higher ID. Zero starts at the first coupon.
    pub(crate) after: i64,
}

#[derive(Clone)]
pub(crate) struct ListedPage {
    pub(crate) body: Bytes,
    pub(crate) next: Option<HeaderValue>,
}

struct Kept {
    made: Instant,
    /// Version of the catalogue that the page was made from.
    version: u64,
    page: ListedPage,
}

pub(crate) struct ListedPages {
    kept: Mutex<BoundedCache<PageKey, Kept>>,
    turn: tokio::sync::Mutex<()>,
}

impl Default for ListedPages {
    fn default() -> Self {
        Self {
            kept: BoundedCache::new(KEPT).into(),
            turn: tokio::sync::Mutex::default(),
        }
    }
}

impl ListedPages {
    /// Returns the page. Calls `make` if there is no recent page for this version of the catalogue.
    pub(crate) async fn get_or_make(
        &self,
        key: PageKey,
        version: u64,
        make: impl Future<Output = Result<ListedPage, Problem>>,
    ) -> Result<ListedPage, Problem> {
        if let Some(page) = self.fresh(&key, version) {
            return Ok(page);
        }
        let Ok(_turn) = timeout(LONGEST_WAIT, self.turn.lock()).await else {
            return Err(Problem::unavailable(
                "too many lists of coupons are requested right now; try again",
            ));
        };
        // Another request may have made this page in the meantime.
        if let Some(page) = self.fresh(&key, version) {
            return Ok(page);
        }
        let page = make.await?;
        let kept = Kept {
            made: Instant::now(),
            version,
            page: page.clone(),
        };
        self.kept.lock().insert(key, kept);
        Ok(page)
    }

    fn fresh(&self, key: &PageKey, version: u64) -> Option<ListedPage> {
        let mut kept = self.kept.lock();
        let found = kept
            .get(key)
            .filter(|kept| kept.version == version && kept.made.elapsed() < FRESH_FOR)?;
        Some(found.page.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(after: i64) -> PageKey {
        PageKey {
            state: None,
            limit: 100,
            after,
        }
    }

    async fn ask(pages: &ListedPages, key: PageKey, version: u64, text: &'static str) -> Bytes {
        let make = async {
            Ok(ListedPage {
                body: text.into(),
                next: None,
            })
        };
        pages.get_or_make(key, version, make).await.unwrap().body
    }

    #[tokio::test]
    async fn caches_a_page_while_it_is_fresh_and_the_catalogue_is_unchanged() {
        let pages = ListedPages::default();
        let now = Instant::now();
        let keep = |made| {
            let page = ListedPage {
                body: "kept".into(),
                next: None,
            };
            let version = 1;
            let kept = Kept {
                made,
                version,
                page,
            };
            pages.kept.lock().insert(after(0), kept);
        };
        keep(now + Duration::from_secs(60));
        assert_eq!(ask(&pages, after(0), 1, "made").await, "kept");
        assert_eq!(ask(&pages, after(7), 1, "another").await, "another");
        assert_eq!(ask(&pages, after(0), 2, "newer").await, "newer");
        keep(now);
        tokio::time::sleep_until(now + FRESH_FOR).await;
        assert_eq!(ask(&pages, after(0), 1, "later").await, "later");
    }

    #[tokio::test]
    async fn one_page_is_made_at_a_time_and_waiting_is_limited() {
        let pages = ListedPages::default();
        let turn = pages.turn.lock().await;
        let never = async { panic!("made beside another page") };
        assert!(pages.get_or_make(after(1), 1, never).await.is_err());
        drop(turn);
        assert_eq!(ask(&pages, after(1), 1, "made").await, "made");
    }
}
