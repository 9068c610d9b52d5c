//! Caches the last pages of the list of coupons, the most expensive response that needs no
//! authentication. One page is rendered at a time, and requests of the next 200 ms share it. First
//! pages have a separate turn, so that requests for other pages cannot block them.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderValue;
use firstcome_shared::coupon::DropState;
use firstcome_shared::http::Problem;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::bounded_cache::BoundedCache;

const FRESH_FOR: Duration = Duration::from_millis(200);

/// Pages kept in memory; at most twice as many.
const KEPT: usize = 8;

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
    first: tokio::sync::Mutex<()>,
    others: tokio::sync::Mutex<()>,
}

impl Default for ListedPages {
    fn default() -> Self {
        Self {
            kept: BoundedCache::new(KEPT).into(),
            first: tokio::sync::Mutex::default(),
            others: tokio::sync::Mutex::default(),
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
        if let Some(page) = self.fresh(&key, version) {
            return Ok(page);
        }
        let turn = if key.is_first() {
            &self.first
        } else {
            &self.others
        };
        let _turn = turn.lock().await;
        // Another request may have made this page in the meantime.
        if let Some(page) = self.fresh(&key, version) {
            return Ok(page);
        }
        let page = make().await?;
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
