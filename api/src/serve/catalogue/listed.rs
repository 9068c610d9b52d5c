//! Caches the last page of the list of coupons, the most expensive response that needs no
//! authentication. One page is made at a time, and requests wait for it for a limited time.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderValue;
use firstcome_shared::coupon::DropState;
use firstcome_shared::http::Problem;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

const FRESH_FOR: Duration = Duration::from_millis(300);

/// Maximum wait for the pages of other requests.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// The last page, the version of the catalogue that it was made from, and when it was made.
#[derive(Default)]
pub(crate) struct ListedPages(Mutex<Option<(PageKey, u64, Instant, ListedPage)>>);

impl ListedPages {
    /// Returns the page. Calls `make` if the last page is another one or old.
    pub(crate) async fn get_or_make(
        &self,
        key: PageKey,
        version: u64,
        make: impl Future<Output = Result<ListedPage, Problem>>,
    ) -> Result<ListedPage, Problem> {
        let Ok(mut last) = timeout(LONGEST_WAIT, self.0.lock()).await else {
            return Err(Problem::unavailable(
                "too many lists of coupons are requested right now; try again",
            ));
        };
        if let Some((of, from, made, page)) = &*last
            && (*of, *from) == (key, version)
            && made.elapsed() < FRESH_FOR
        {
            return Ok(page.clone());
        }
        let page = make.await?;
        *last = Some((key, version, Instant::now(), page.clone()));
        Ok(page)
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
        let keep = async |made| {
            let page = ListedPage {
                body: "kept".into(),
                next: None,
            };
            *pages.0.lock().await = Some((after(0), 1, made, page));
        };
        keep(now + Duration::from_secs(60)).await;
        assert_eq!(ask(&pages, after(0), 1, "made").await, "kept");
        assert_eq!(ask(&pages, after(7), 1, "another").await, "another");
        keep(now + Duration::from_secs(60)).await;
        assert_eq!(ask(&pages, after(0), 2, "newer").await, "newer");
        keep(now).await;
        tokio::time::sleep_until(now + FRESH_FOR).await;
        assert_eq!(ask(&pages, after(0), 1, "later").await, "later");
    }

    #[tokio::test]
    async fn one_page_is_made_at_a_time_and_waiting_is_limited() {
        let pages = ListedPages::default();
        let turn = pages.0.lock().await;
        let never = async { panic!("made beside another page") };
        assert!(pages.get_or_make(after(1), 1, never).await.is_err());
        drop(turn);
        assert_eq!(ask(&pages, after(1), 1, "made").await, "made");
    }
}
