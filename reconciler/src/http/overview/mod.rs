//! `GET /v1/overview` returns the state of the installation in one response. The stores are read
//! once for all concurrent requests.

mod snapshot;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use firstcome_shared::coupon::{Coupon, Drop, DropState};
use firstcome_shared::domain::DropId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::extract::{StrictQuery, invalid};
use firstcome_shared::http::views::{
    AdmissionState, DropOverview, LastRun, Overview, RedisCounts, RowCount,
};
use firstcome_shared::schedule::Schedule;
use serde::Deserialize;
use tokio::sync::Mutex;
use utoipa::IntoParams;

use self::snapshot::{DROPS, Reader, SeenDrop, Snapshot};
use super::state::RouteState;
use crate::report::Run;
use crate::stores::Stores;

/// A snapshot is reused for requests that arrive within this time after its reading began. The
/// console polls once a second.
const FRESH: Duration = Duration::from_millis(800);

/// The last snapshot of the installation's state.
pub(crate) struct Looks {
    latest: Mutex<Latest>,
    /// A separate reader, so that reading one drop does not delay the overview.
    one: Mutex<Reader>,
}

struct Latest {
    reader: Reader,
    /// The first page, and when the stores were read for it.
    first_page: Option<(Instant, Arc<Overview>)>,
}

impl Looks {
    pub(crate) fn new(stores: &Stores) -> Self {
        Self {
            latest: Mutex::new(Latest {
                reader: Reader::new(stores.clone()),
                first_page: None,
            }),
            one: Mutex::new(Reader::new(stores.clone())),
        }
    }

    /// Returns a page, counted from 0. Only one page is read at a time.
    async fn page(&self, page: usize) -> Arc<Overview> {
        let mut latest = self.latest.lock().await;
        if let Some((at, overview)) = &latest.first_page
            && page == 0
            && at.elapsed() < FRESH
        {
            return Arc::clone(overview);
        }
        crate::metrics::overview_look();
        let began = Instant::now();
        let overview = Arc::new(overview(&latest.reader.read(page).await));
        if page == 0 {
            latest.first_page = Some((began, Arc::clone(&overview)));
        }
        overview
    }

    /// Reads one drop now.
    pub(crate) async fn one(&self, coupon: Coupon, drop: Drop) -> Overview {
        overview(&self.one.lock().await.read_one(coupon, drop).await)
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OverviewQuery {
    /// The page of drops, from 1; 50 drops a page.
    #[param(default = 1, minimum = 1, maximum = 100_000)]
    page: Option<usize>,
}

/// Show the state of the installation
///
/// Firing alerts, admission, and the drops that are live or need manual attention, the most urgent
/// first. Counts are at most a second old, settings and alerts 5 seconds, counts of rows that do
/// not change 10 seconds.
#[utoipa::path(
    get, path = "/v1/overview", tag = "overview", operation_id = "read_overview", params(OverviewQuery), security(("ops" = [])),
    responses(
        (status = 200, description = "The state, also while a store does not answer", body = Overview),
    )
)]
pub(super) async fn read(
    State(app): State<RouteState>,
    StrictQuery(query): StrictQuery<OverviewQuery>,
) -> Result<Json<Overview>, Problem> {
    let page = query.page.unwrap_or(1);
    if !(1..=100_000).contains(&page) {
        return Err(invalid("page must be from 1 to 100000"));
    }
    let overview = app.looks.page(page - 1).await;
    Ok(Json(Overview::clone(&overview)))
}

fn overview(seen: &Snapshot) -> Overview {
    let facts = &seen.facts;
    Overview {
        at: seen.at,
        admission: match seen.gate_is_open {
            Some(true) => AdmissionState::Open,
            Some(false) => AdmissionState::Closed,
            None => AdmissionState::Unknown,
        },
        mysql_answers: seen.mysql_answers,
        mysql_read_at: facts.read_at,
        alerts: facts.alerts.clone(),
        last_run: facts.last_pass.as_deref().map(last_run),
        drops: seen.drops.iter().map(|one| of_drop(one, seen)).collect(),
        page: seen.page + 1,
        pages: seen.total.div_ceil(DROPS).max(1),
        live_drops: facts.live_drops(),
    }
}

fn last_run(run: &Run) -> LastRun {
    let (drops, examined) = run.examined();
    LastRun {
        run_id: run.run_id.clone(),
        finished_at: run.finished_at.unwrap_or(run.started_at),
        drops,
        users: examined.users,
        rows: examined.rows,
    }
}

fn of_drop(one: &SeenDrop, seen: &Snapshot) -> DropOverview {
    let drop = &one.drop;
    DropOverview {
        coupon_id: one.coupon.id,
        coupon_name: one.coupon.name.clone(),
        time_zone: one.coupon.schedule.as_ref().and_then(Schedule::time_zone),
        drop_id: drop.id,
        opens_at: drop.opens_at,
        closes_at: drop.closes_at,
        quantity: drop.quantity,
        state: state(one, seen),
        verified: one.is_verified,
        redis: one.numbers.as_ref().map(|numbers| RedisCounts {
            count: numbers.count,
            users: numbers.users,
            free: numbers.free,
            waiting: numbers.waiting,
        }),
        rows: one.counted.map(|counted| RowCount {
            rows: counted.rows,
            users: counted.users,
        }),
        failed_claims: one.dead_letters,
        stuck: one.is_stuck,
        last_run: found_in(drop.id, seen.facts.last_pass.as_deref()),
    }
}

fn state(one: &SeenDrop, seen: &Snapshot) -> DropState {
    let held = one.numbers.as_ref().map_or(0, |numbers| {
        u32::try_from(numbers.users).unwrap_or(u32::MAX)
    });
    let remaining = one.drop.quantity.saturating_sub(held);
    one.drop.state(seen.at, one.coupon.paused, remaining)
}

/// Describes the result of the last run for a drop.
fn found_in(drop: DropId, run: Option<&Run>) -> String {
    let Some(run) = run else {
        return "none yet".to_owned();
    };
    let Some(report) = run.drops.iter().find(|report| report.drop_id == drop) else {
        return "nothing found".to_owned();
    };
    let is_repaired =
        report.exact && report.before != report.after && report.after.failed_claims == 0;
    let repaired = if is_repaired { ", after repairs" } else { "" };
    format!("{}{repaired}", report.exactness())
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use firstcome_shared::domain::CouponId;

    use super::*;
    use crate::report::{DropReport, Numbers, Trigger};

    #[test]
    fn exact_drop_with_unresolved_failed_claims_is_reported_as_both() {
        let found = |exact, failed_claims| {
            let numbers = |failed_claims| Numbers {
                users: 100,
                rows: 100,
                failed_claims,
                ..Numbers::default()
            };
            let report = DropReport {
                exact,
                before: numbers(2),
                after: numbers(failed_claims),
                ..DropReport::begun(CouponId(3), DropId(7), 100)
            };
            let run = Run {
                drops: vec![report],
                ..Run::begun("1", Trigger::Cron, DateTime::UNIX_EPOCH)
            };
            found_in(DropId(7), Some(&run))
        };
        assert_eq!(found(true, 0), "exact, after repairs");
        assert_eq!(
            found(true, 2),
            "exact for everybody whom Redis knows; 2 failed claims are left"
        );
        assert_eq!(found(false, 2), "not exact");
        assert_eq!(found_in(DropId(7), None), "none yet");
    }
}
