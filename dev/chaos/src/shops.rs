//! Shops that use codes and undo uses, each with its own orders. Some requests overtake others, and
//! some orders are undone before their use arrives.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use firstcome_harness::Http;
use firstcome_oracle::history::StoredUses;
use firstcome_oracle::{CodeAnswer, Recorder};
use firstcome_stack::{FaultProxy, ProxyFault};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::json;

use crate::fault::Fault;
use crate::schedule::FaultSchedule;
use crate::system::SystemUnderTest;
use crate::wait::{pause, until};

/// Time limit of a shop's request.
const PATIENCE: Duration = Duration::from_secs(5);

/// Number of codes of a drop that shops use. It is small, so that the shops compete.
const CODES: u32 = 6;

/// Number of orders of a shop that want the same code.
const ORDERS: u32 = 3;

/// Shops send no more requests about a code that already has this many, because the judge searches
/// the orders in which they could be executed.
const MAX_REQUESTS: usize = 40;

pub(crate) struct Shops<'a> {
    system: &'a SystemUnderTest,
    schedule: &'a FaultSchedule,
    http: Http,
    token: String,
    recorder: Recorder,
    /// Whether a fault may delete rows that a pass then writes again. A 404 then tells nothing.
    rows_may_be_missing: bool,
    /// Number of requests about each code.
    requests: Mutex<BTreeMap<String, usize>>,
    enough: AtomicBool,
    /// Number of shops that have stopped.
    stopped: Mutex<u32>,
}

/// A code, and an order that wants it.
struct ShopOrder {
    code: String,
    reference: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestKind {
    Use,
    Undo,
}

impl<'a> Shops<'a> {
    pub(crate) fn new(
        system: &'a SystemUnderTest,
        schedule: &'a FaultSchedule,
        recorder: Recorder,
    ) -> Self {
        Self {
            system,
            schedule,
            http: Http::patient("", PATIENCE),
            token: system.world.setting("REDEEM_TOKEN"),
            recorder,
            rows_may_be_missing: schedule.has(Fault::forgets_rows),
            requests: Mutex::default(),
            enough: AtomicBool::default(),
            stopped: Mutex::default(),
        }
    }

    /// Runs all shops until they are stopped.
    pub(crate) async fn work(&self) -> Result<Infallible> {
        let shops = (0..self.schedule.shops).map(|number| self.run_shop(number));
        futures_util::future::try_join_all(shops).await?;
        std::future::pending().await
    }

    pub(crate) async fn stop(&self) {
        self.enough.store(true, Ordering::Relaxed);
        let all = self.schedule.shops;
        until(PATIENCE * 4, || *self.stopped.lock() == all).await;
    }

    async fn run_shop(&self, number: u32) -> Result<()> {
        let mut rng = StdRng::seed_from_u64(self.schedule.seed ^ (u64::from(number + 1) << 40));
        let proxy = FaultProxy::start(0).await?;
        while !self.enough.load(Ordering::Relaxed) {
            let order = ShopOrder {
                code: self.draw_code(&mut rng).await.unwrap_or_default(),
                reference: format!("shop-{number}-{}", rng.random_range(0..ORDERS)),
            };
            let asked = self.requests.lock().get(&order.code).copied();
            if !order.code.is_empty() && asked.unwrap_or(0) < MAX_REQUESTS {
                match rng.random_range(0..10) {
                    0..4 => self.send(RequestKind::Use, &order).await,
                    4..6 => {
                        let first = self.send(RequestKind::Use, &order);
                        tokio::join!(first, self.send(RequestKind::Use, &order));
                    }
                    6..8 => self.send(RequestKind::Undo, &order).await,
                    _ => self.undo_before_use_arrives(&proxy, &order).await?,
                }
            }
            pause(rng.random_range(5..60)).await;
        }
        *self.stopped.lock() += 1;
        Ok(())
    }

    /// Reads the code of one of the first slots of a drop, if there is one.
    async fn draw_code(&self, rng: &mut StdRng) -> Option<String> {
        let drops = self.system.drops();
        let drop = drops[rng.random_range(0..drops.len())].drop;
        let slot = rng.random_range(1..=CODES);
        let code =
            format!("SELECT code FROM issued_coupons WHERE drop_id = {drop} AND slot = {slot}");
        let rows = self.system.world.sql.rows(&code).await.ok()?;
        rows.into_iter().flatten().next()
    }

    async fn send(&self, kind: RequestKind, order: &ShopOrder) {
        let Some(api) = self.system.supervisor.any_api() else {
            return pause(100).await;
        };
        let op = self.asked(kind, order);
        let answer = self.answer(&api, kind, order).await;
        self.record(op, answer);
    }

    /// Records that a request may arrive from now on. Returns its operation in the history.
    fn asked(&self, kind: RequestKind, order: &ShopOrder) -> u64 {
        let ShopOrder { code, reference } = order;
        *self.requests.lock().entry(code.clone()).or_default() += 1;
        let is_undo = kind == RequestKind::Undo;
        self.recorder.code_asked(code, reference, is_undo)
    }

    /// Withholds the use of an order in a proxy until the order's undo is answered.
    async fn undo_before_use_arrives(&self, proxy: &FaultProxy, order: &ShopOrder) -> Result<()> {
        let Some(api) = self.system.supervisor.any_api() else {
            pause(100).await;
            return Ok(());
        };
        let port = api.rsplit(':').next().and_then(|port| port.parse().ok());
        proxy.set_upstream(port.context("an API without a port")?);
        proxy.set(ProxyFault::BlackHole).await?;
        let address = format!("http://127.0.0.1:{}", proxy.port());
        let arrives = Mutex::new(None);
        let late = async {
            let answer = self.answer(&address, RequestKind::Use, order).await;
            if let Some(op) = arrives.lock().take() {
                self.record(op, answer);
            }
        };
        let undone = async {
            self.send(RequestKind::Undo, order).await;
            *arrives.lock() = Some(self.asked(RequestKind::Use, order));
            proxy.set(ProxyFault::Pass).await
        };
        let ((), passes) = tokio::join!(late, undone);
        // If the shop gave up while the undo had no answer yet, the proxy has passed the use on all
        // the same, so it may have been executed.
        proxy.cut_now().await;
        passes
    }

    async fn answer(&self, api: &str, kind: RequestKind, order: &ShopOrder) -> Option<CodeAnswer> {
        let ShopOrder { code, reference } = order;
        let path = format!("{api}/v1/codes/{code}/use");
        let request = match kind {
            RequestKind::Use => {
                let body = json!({"reference": reference});
                self.http.request(Method::PUT, &path).json(&body)
            }
            RequestKind::Undo => {
                let path = format!("{path}?reference={reference}");
                self.http.request(Method::DELETE, &path)
            }
        };
        let Ok(reply) = Http::try_send(request.bearer_auth(&self.token)).await else {
            return None;
        };
        match (reply.status, reply.body["code"].as_str()) {
            (200, _) => Some(CodeAnswer::Done),
            (404, _) => (!self.rows_may_be_missing).then_some(CodeAnswer::NoSuchCode),
            (409, Some("used")) => Some(CodeAnswer::Used),
            (409, Some("undone")) => Some(CodeAnswer::Undone),
            (409, Some("revoked")) => Some(CodeAnswer::Revoked),
            (500.., _) if reply.retry_after().is_some() => None,
            (status, _) => {
                let text = reply.text;
                self.system
                    .object(format!("{kind:?} of a code was answered {status} {text}"));
                None
            }
        }
    }

    fn record(&self, op: u64, answer: Option<CodeAnswer>) {
        if let Some(answer) = answer {
            self.recorder.code_answered(op, answer);
        }
    }

    /// Records the stored uses of all codes that shops wanted. Returns the number of uses without a
    /// coupon.
    pub(crate) async fn record_end(&self) -> Result<u64> {
        let mut stored = self.stored().await?;
        for code in self.requests.lock().keys() {
            if let Some(StoredUses { in_use, undone }) = stored.remove(code) {
                let undone = undone.into_iter().collect();
                self.recorder.code_finally(code, in_use, undone);
            }
        }
        let stray = "SELECT COUNT(*) FROM coupon_uses u LEFT JOIN issued_coupons i \
                     ON i.drop_id = u.drop_id AND i.slot = u.slot AND i.claimed_at = u.claimed_at \
                     WHERE u.in_use = 1 AND i.slot IS NULL";
        self.system.number(stray).await
    }

    /// Number of requests.
    pub(crate) fn requests(&self) -> usize {
        self.requests.lock().values().sum()
    }

    /// Reads the uses of each code that has a row.
    async fn stored(&self) -> Result<BTreeMap<String, StoredUses>> {
        let stored = "SELECT i.code, COALESCE(u.reference, ''), u.undone_at IS NULL \
                      FROM issued_coupons i LEFT JOIN coupon_uses u ON u.drop_id = i.drop_id \
                      AND u.slot = i.slot AND u.claimed_at = i.claimed_at";
        let mut uses: BTreeMap<String, StoredUses> = BTreeMap::new();
        for row in self.system.world.sql.rows(stored).await? {
            let [code, reference, is_in_use] = <[String; 3]>::try_from(row)
                .map_err(|row| anyhow::anyhow!("a row of {} columns", row.len()))?;
            let uses = uses.entry(code).or_default();
            if reference.is_empty() {
                continue;
            }
            if is_in_use == "1" {
                uses.in_use = Some(reference);
            } else {
                uses.undone.insert(reference);
            }
        }
        Ok(uses)
    }
}
