//! Large drops that were compared whole and are exact. A scheduled pass does not read such a drop
//! again as long as its numbers stay: count, people, free slots, waiting list, settings and rows.
//! Else an open-ended coupon that is sold out would be read whole, twice a minute, for ever.
//!
//! It is safe, since every admission, return, promotion and repair changes one of Redis's numbers,
//! or the number of rows with them, and what is on its way or among the dead letters makes a pass
//! read the whole. What keeps all numbers can only be a change by hand. Passes that somebody asks
//! for and deep ones read everything, and so does a scheduled one after [`AGAIN_AFTER`].

use std::collections::HashMap;
use std::time::Duration;

use firstcome_shared::domain::DropId;
use firstcome_shared::redis::fencing::Generation;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Broken;
use super::steps::Pass;
use crate::collect::DropHeader;
use crate::plan::Plan;
use crate::report::{Examined, Trigger};

/// A smaller drop is read as quickly as its rows are counted. In pages.
const LARGE: i64 = 10;

/// However little changes, a drop is read whole after so long.
const AGAIN_AFTER: Duration = Duration::from_secs(3_600);

/// What passes of this process have verified.
#[derive(Default)]
pub(super) struct Verified(Mutex<HashMap<DropId, Known>>);

struct Known {
    seen: Seen,
    plan: Plan,
    at: Instant,
}

/// What changes whenever anything of the drop does, but for its rows.
#[derive(PartialEq)]
struct Seen {
    generation: Option<Generation>,
    count: Option<i64>,
    numbers: [u64; 3],
    upper: i64,
    quantity: u32,
    revision: u64,
}

impl Seen {
    fn of(header: &DropHeader) -> Self {
        let facts = &header.facts;
        Self {
            generation: header.generation.clone(),
            count: facts.count,
            numbers: [facts.users, facts.free, facts.waiting],
            upper: header.upper(),
            quantity: facts.drop.quantity,
            revision: facts.coupon.revision,
        }
    }
}

impl Verified {
    /// Notes what a whole comparison came to.
    pub(super) fn note(&self, header: &DropHeader, plan: &Plan, page_slots: i64) {
        let mut known = self.0.lock();
        known.remove(&header.drop_id());
        if is_large(header, page_slots) && plan.exact && plan.items.is_empty() && plan.young == 0 && header.is_quiet() {
            // Drops that no pass looks at any more go with their age.
            known.retain(|_, known| known.at.elapsed() < AGAIN_AFTER);
            let known_now = Known { seen: Seen::of(header), plan: plan.clone(), at: Instant::now() };
            known.insert(header.drop_id(), known_now);
        }
    }

    fn plan(&self, header: &DropHeader) -> Option<Plan> {
        let known = self.0.lock();
        let known = known.get(&header.drop_id())?;
        (known.at.elapsed() < AGAIN_AFTER && known.seen == Seen::of(header)).then(|| known.plan.clone())
    }
}

fn is_large(header: &DropHeader, page_slots: i64) -> bool {
    header.upper() >= LARGE * page_slots
}

impl Pass<'_> {
    /// The plan of a drop that need not be read whole, after counting its rows.
    pub(super) async fn unchanged(&self, header: &DropHeader) -> Result<Option<Plan>, Broken> {
        let facts = &header.facts;
        let may_skip = self.request.trigger == Trigger::Cron
            && !self.request.deep
            && !facts.gate_closed
            && !facts.is_closed()
            && facts.meta_matches == Some(true)
            && facts.revocations.half.is_empty()
            && header.is_quiet();
        let Some(plan) = self.memory.verified.plan(header).filter(|_| may_skip) else { return Ok(None) };
        let rows = self.stores.db.count_rows(header.drop_id(), header.upper()).await?;
        let examined = Examined { rows, ..Examined::default() };
        Ok((rows == plan.numbers.rows).then_some(Plan { examined, ..plan }))
    }
}
