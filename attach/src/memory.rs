//! What a process remembers of a campaign between looks: whom it has seen, which differences are
//! open since when, how far the queue is, and when the next look is due.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::{DropReport, Judged, Outcome};

use crate::dead_letters::DeadLetters;
use crate::error::Answer;
use crate::file::Stage;
use crate::judge::{Comparison, Difference, Numbers};
use crate::look::Look;
use crate::queue::{Rounds, StageReader};
use crate::users::{Before, Seen, UserHash};

/// A campaign rests for so many times what its look took.
const REST: u32 = 10;

/// What earlier looks saw of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// When the look ended that saw it first. Each look since has seen it.
    pub first: Duration,
    /// This process saw the user arrive: an earlier look saw them in neither store.
    pub is_new: bool,
}

#[derive(Default)]
pub struct Memory {
    seen: Seen,
    has_looked: bool,
    open: HashMap<Difference, Open>,
    pub rounds: Rounds,
    pub rests_until: Duration,
    pub letters: Option<DeadLetters>,
    /// The stages of the queue, with the campaign's id in their names.
    pub stages: Vec<Stage>,
    pub in_flight: Duration,
    /// The campaign's id.
    pub id: String,
    /// The numbers of the last look.
    pub numbers: Option<Numbers>,
    /// Since when looks fail although the stores answer.
    pub failing_since: Option<Duration>,
    /// Users whom a finding has named as unissued.
    named: HashSet<UserHash>,
    pub trouble: Trouble,
    last_report: Option<DropReport>,
    /// When the last look began.
    looked_at: Duration,
    pub block: Option<CouponId>,
}

/// What an open difference waits for before it can be a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wait {
    Nothing,
    Look,
    Time,
}

/// What the last look of a campaign says against repairs in its whole block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Users with a row that counts, and without a promise.
    pub strangers: u64,
    /// Users who had a row, and lack it now.
    pub vanished: u64,
    /// Users with two rows that count.
    pub twice: u64,
}

impl Trouble {
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            strangers: self.strangers + other.strangers,
            vanished: self.vanished + other.vanished,
            twice: self.twice + other.twice,
        }
    }
}

/// The memories of all campaigns.
pub type Memories = BTreeMap<DropId, Memory>;

impl Memory {
    /// Adds a look. Differences that it did not see are closed.
    pub fn add(&mut self, look: &Look, compared: &Comparison) {
        let mut open = HashMap::with_capacity(compared.differences.len());
        let mut vanished = 0;
        for difference in &compared.differences {
            let mut is_new = false;
            if let Difference::Unissued(user) = difference {
                let before = self.seen.before(*user);
                is_new = self.has_looked && before == Before::Never;
                vanished += u64::from(before == Before::WithRow);
            }
            let first = Open {
                first: look.ended,
                is_new,
            };
            let known = self.open.get(difference).copied();
            open.insert(*difference, known.unwrap_or(first));
        }
        self.open = open;
        self.has_looked = true;
        self.looked_at = look.began;
        let promised = look.promised.as_ref().map(|it| it.users.as_slice());
        let rows = [look.rows.counted.as_slice(), &look.rows.uncounted];
        self.seen.add(promised.unwrap_or_default(), &rows);
        self.trouble = Trouble {
            strangers: compared.strangers,
            // For ever: whoever deletes rows may have deleted some that no look has seen.
            vanished: self.trouble.vanished.max(vanished),
            twice: compared.twice,
        };
        let took = look.ended.saturating_sub(look.began);
        self.rests_until = look.ended + took * REST;
    }

    pub fn open(&self, difference: Difference) -> Option<Open> {
        self.open.get(&difference).copied()
    }

    /// Returns the open differences that a look that began at this time may not yet name.
    pub fn young(&self, began: Duration) -> impl Iterator<Item = Difference> {
        let open = self.open.iter();
        open.filter(move |(_, open)| !self.is_old(**open, began))
            .map(|(difference, _)| *difference)
    }

    /// Whether a difference is old enough to be a finding: each look for `in_flight` saw it and,
    /// with stages, a round began after that and ended before this look.
    pub fn is_ripe(&self, difference: Difference, began: Duration) -> bool {
        let open = self.open.get(&difference);
        open.is_some_and(|open| self.is_old(*open, began))
    }

    fn is_old(&self, open: Open, began: Duration) -> bool {
        let old_enough = open.first + self.in_flight;
        if self.stages.is_empty() {
            return began >= old_enough;
        }
        let round = self.rounds.ended;
        round.is_some_and(|round| round.began >= old_enough && round.ended <= began)
    }

    /// Whether a difference that was seen until then could be named by a look at this time, or by
    /// a later one.
    pub fn waits_for(&self, until: Duration, now: Duration) -> Wait {
        if self.rounds.stalled(&self.stages, now).is_some() {
            return Wait::Nothing;
        }
        let open = self.open.values().filter(|open| open.first <= until);
        let waits = open.map(|open| {
            if self.is_old(*open, self.looked_at) {
                Wait::Nothing
            } else if self.is_old(*open, now) {
                Wait::Look
            } else {
                Wait::Time
            }
        });
        waits.max().unwrap_or(Wait::Nothing)
    }

    /// Returns when the difference was first seen that the next round has to cover: the oldest
    /// one that no round has covered.
    pub fn first_uncovered(&self) -> Option<Duration> {
        let covered = self.rounds.ended.map(|round| round.began);
        let firsts = self.open.values().map(|open| open.first);
        firsts
            .filter(|first| covered.is_none_or(|began| *first + self.in_flight > began))
            .min()
    }

    /// Moves the round of the queue as far as possible.
    pub async fn advance(&mut self, reader: &mut StageReader<'_>, now: Duration) -> Answer<()> {
        if self.stages.is_empty() {
            return Ok(());
        }
        let first = self.first_uncovered();
        let rounds = &mut self.rounds;
        rounds
            .advance(&self.stages, self.in_flight, first, now, reader)
            .await
    }

    pub fn report(&mut self, report: &DropReport) {
        self.failing_since = None;
        self.last_report = Some(report.clone());
    }

    /// Returns the last report again, for a pass in which the campaign rests: it judges nothing.
    pub fn last_report(&self, blank: DropReport) -> DropReport {
        let Some(last) = &self.last_report else {
            return blank;
        };
        let mut report = last.clone();
        report.judged = Judged::default();
        report.before = report.after;
        report.findings.retain(|it| it.result != Outcome::Applied);
        report
    }

    /// Notes users whom a finding names as unissued.
    pub fn name(&mut self, users: impl IntoIterator<Item = UserHash>) {
        self.named.extend(users);
    }

    /// Returns how many named users have since left Redis without ever having had a row, and
    /// forgets them.
    pub fn left_without_row(&mut self, look: &Look) -> u64 {
        let Some(promised) = &look.promised else {
            return 0;
        };
        let before = self.named.len();
        let mut answered = 0;
        self.named.retain(|user| {
            let has_row = look.rows.has(*user);
            answered += usize::from(has_row);
            !has_row && promised.users.binary_search(user).is_ok()
        });
        (before - self.named.len() - answered) as u64
    }
}
