//! Tests the planner with tables and properties, on a small in-memory world whose repairs behave
//! like the Lua scripts and MySQL's schema.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{DropId, OncePer, Slot, UserId};
use firstcome_shared::redis::repair::{SlotChange, Wanted};
use proptest::prelude::*;

use super::{
    Action, DropRepair, LetterEnd, PhaseStep, Plan, Planned, Planner, RepairPolicy, RowChange,
    steps,
};
use crate::collect::snapshot::{
    DeadLetter, DropFacts, DropRevocations, Promises, RowFacts, SlotRange, sample,
};
use crate::report::Kind;
use crate::topic::InFlight;

mod free;
mod messages;
mod properties;
mod table;

/// Slots per page: few enough that a world of a dozen slots has several pages.
const PAGE: i64 = 5;
const NOW_MS: i64 = 1_000_000_000;

/// The state of a drop in all stores.
#[derive(Debug, Clone)]
struct DropWorld {
    quantity: Slot,
    once_per: OncePer,
    closed: bool,
    paused: bool,
    meta: Option<bool>,
    list_differs: bool,
    gate_closed: bool,
    count: Option<i64>,
    users: BTreeMap<UserId, i64>,
    free: BTreeSet<i64>,
    waiting: Vec<UserId>,
    rows: BTreeMap<Slot, UserId>,
    elsewhere: BTreeSet<UserId>,
    in_flight: Vec<(Slot, UserId)>,
    /// Whether the topic cannot be read.
    topic_away: bool,
    /// Milliseconds since admission, by slot. Slots without an entry have an unknown time of
    /// admission.
    ages: HashMap<i64, i64>,
    /// Milliseconds from the start of the pass until its pages are read.
    lasts_ms: i64,
    failed: Vec<(i64, Option<i64>, Option<UserId>)>,
    broken: BTreeSet<UserId>,
    /// Maximum number of single-page repairs that a plan keeps.
    kept: usize,
}

fn user(n: u32) -> UserId {
    format!("u-{n}").parse().unwrap()
}

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms).unwrap()
}

impl DropWorld {
    /// Returns a consistent drop with `held` users on the slots from 1 up, each with a row.
    fn exact(quantity: Slot, held: u32) -> Self {
        Self {
            quantity,
            once_per: OncePer::Drop,
            closed: false,
            paused: false,
            meta: Some(true),
            list_differs: false,
            gate_closed: false,
            count: Some(i64::from(held)),
            users: (1..=held).map(|n| (user(n), i64::from(n))).collect(),
            free: BTreeSet::new(),
            waiting: Vec::new(),
            rows: (1..=held).map(|n| (n, user(n))).collect(),
            elsewhere: BTreeSet::new(),
            in_flight: Vec::new(),
            topic_away: false,
            ages: HashMap::new(),
            lasts_ms: 0,
            failed: Vec::new(),
            broken: BTreeSet::new(),
            kept: RepairPolicy::default().kept,
        }
    }

    fn lose_redis(&mut self) {
        self.meta = None;
        self.count = None;
        self.users.clear();
    }

    fn policy(&self) -> RepairPolicy {
        RepairPolicy {
            kept: self.kept,
            ..RepairPolicy::default()
        }
    }

    fn facts(&self) -> DropFacts {
        let opens = at(NOW_MS) - TimeDelta::hours(1);
        let closes = if self.closed {
            at(NOW_MS) - TimeDelta::minutes(1)
        } else {
            at(NOW_MS) + TimeDelta::hours(1)
        };
        let (coupon, drop) = sample(1, self.quantity);
        DropFacts {
            coupon: Coupon {
                once_per: self.once_per,
                waiting_list: 10,
                paused: self.paused,
                ..coupon
            },
            drop: Drop {
                opens_at: opens,
                closes_at: Some(closes),
                ..drop
            },
            meta_matches: self.meta,
            allow_list_differs: self.list_differs,
            count: self.count,
            users: self.users.len() as u64,
            free: self.free.len() as u64,
            waiting: self.waiting.len() as u64,
            first_waiting: self.waiting.clone(),
            failed_claims: self.failed.len() as u64,
            read_at_ms: NOW_MS,
            latest_ms: NOW_MS,
            tail_known: !self.topic_away,
            revocations: DropRevocations::default(),
            promises: self.promises(),
            gate_closed: self.gate_closed,
        }
    }

    fn promises(&self) -> Promises {
        let (kept, open): (Vec<_>, Vec<_>) = self
            .broken
            .iter()
            .cloned()
            .partition(|who| self.row_of(who).is_some());
        let out = |who: &UserId| !self.users.contains_key(who) && !self.waiting.contains(who);
        let out_of_line = open
            .iter()
            .filter(|who| out(who))
            .map(|who| (who.clone(), 99))
            .collect();
        Promises {
            open: open.len() as u64,
            kept,
            out_of_line,
        }
    }

    fn row_of(&self, who: &UserId) -> Option<(DropId, Slot)> {
        let here = self
            .rows
            .iter()
            .find(|(_, u)| *u == who)
            .map(|(slot, _)| (DropId(1), *slot));
        here.or_else(|| self.elsewhere.contains(who).then_some((DropId(9), 1)))
    }

    fn pages(&self) -> Vec<SlotRange> {
        let top = [
            self.count.unwrap_or(0).min(i64::from(self.quantity)),
            self.rows.keys().next_back().map_or(0, |s| i64::from(*s)),
        ];
        let top = top.into_iter().max().unwrap_or(0);
        let mut pages = Vec::new();
        let mut from = 1;
        while from + PAGE <= top {
            pages.push(self.page(from, Some(from + PAGE - 1)));
            from += PAGE;
        }
        pages.push(self.page(from, None));
        pages
    }

    fn page(&self, from: i64, to: Option<i64>) -> SlotRange {
        let lowest = if from == 1 { i64::MIN } else { from };
        let within = |slot: i64| slot >= lowest && to.is_none_or(|to| slot <= to);
        let mut users: Vec<(i64, UserId)> = self
            .users
            .iter()
            .filter(|(_, s)| within(**s))
            .map(|(u, s)| (*s, u.clone()))
            .collect();
        users.sort();
        let mut page = SlotRange {
            from: lowest,
            to,
            count: self.count.unwrap_or(0),
            users,
            free: self.free.iter().copied().filter(|s| within(*s)).collect(),
            rows: self
                .rows
                .iter()
                .filter(|(s, _)| within(i64::from(**s)))
                .map(|(s, u)| RowFacts {
                    slot: *s,
                    user: u.clone(),
                    claimed_at: at(NOW_MS - 60_000),
                })
                .collect(),
            in_flight: self
                .in_flight
                .iter()
                .filter(|(s, _)| within(i64::from(*s)))
                .map(|(s, u)| InFlight {
                    slot: *s,
                    user: u.clone(),
                    claimed_at: at(NOW_MS - 1_000),
                })
                .collect(),
            dead_letters: self
                .failed
                .iter()
                .filter(|(_, s, _)| within(s.unwrap_or(i64::MIN)))
                .map(|(id, s, u)| DeadLetter {
                    id: *id,
                    coupon: None,
                    drop: None,
                    slot: *s,
                    user: u.clone(),
                    claimed_at: None,
                    reason: "test".into(),
                    unreadable: None,
                    is_of_message: true,
                    trace: None,
                })
                .collect(),
            admitted_at_ms: self
                .ages
                .iter()
                .map(|(slot, age)| (*slot, NOW_MS - age))
                .collect(),
            read_until_ms: NOW_MS + self.lasts_ms,
            ..SlotRange::default()
        };
        let questions = page.questions(i64::from(self.quantity));
        page.has_row = questions
            .ask_mysql
            .iter()
            .filter_map(|u| Some((u.clone(), self.row_of(u)?)))
            .collect();
        page.now_on_slot = questions
            .ask_redis
            .iter()
            .filter_map(|u| Some((u.clone(), *self.users.get(u)?)))
            .collect();
        page
    }

    fn plan(&self) -> Plan {
        let facts = self.facts();
        let mut planner = Planner::new(self.policy(), &facts);
        for page in self.pages() {
            planner.page(&page);
        }
        planner.finish()
    }

    /// Returns kind, slot and user of each finding.
    fn findings(&self) -> Vec<(Kind, Option<i64>, Option<String>)> {
        self.plan()
            .items
            .into_iter()
            .map(|i| (i.kind, i.slot, i.user.map(|u| u.to_string())))
            .collect()
    }
}

/// Repairs that behave like the Lua scripts and MySQL's schema.
impl DropWorld {
    fn apply(&mut self, plan: &Plan) {
        let counter_waits = plan.counter_waits || !plan.beyond.is_empty();
        for step in steps(&plan.items) {
            match step {
                PhaseStep::Repairs(items) => items.iter().for_each(|item| self.one(item)),
                PhaseStep::Counter => self.settle_unless(counter_waits),
            }
        }
    }

    /// Carries out the repairs that the plan does not keep, page by page, each planned from the
    /// current state.
    fn apply_pages(&mut self, plan: &Plan) {
        let facts = self.facts();
        let mut planner = Planner::new(self.policy(), &facts);
        let mut number = 0;
        while let Some(page) = self.pages().into_iter().nth(number) {
            for item in planner.repairs_of(&page) {
                self.one(&item);
            }
            number += 1;
        }
        self.settle_unless(plan.counter_waits || planner.has_absent());
    }

    fn settle_unless(&mut self, counter_waits: bool) {
        if !counter_waits {
            self.settle();
        }
    }

    fn one(&mut self, item: &Planned) {
        let Some(action) = &item.action else { return };
        match action {
            Action::Drop(DropRepair::Settings) => self.meta = Some(true),
            Action::Drop(DropRepair::AllowList) => self.list_differs = false,
            Action::Drop(DropRepair::Everything { holdings, .. }) => {
                for change in holdings {
                    self.change(change);
                }
                self.meta = Some(true);
                self.list_differs = false;
                self.settle();
            }
            Action::Slot(change) => self.change(change),
            Action::Drop(DropRepair::Count) => self.settle(),
            Action::Row(RowChange {
                claim,
                letter: None,
                ..
            }) => self.insert(claim.slot, &claim.user_id),
            Action::Row(RowChange {
                claim,
                letter: Some(id),
                put_back,
            }) => {
                let user = &claim.user_id;
                if self.row_of(user).is_none() {
                    if *put_back {
                        self.change(&SlotChange::put_back(user.clone(), claim.slot, None));
                    }
                    // If the script does not put the user on the slot, no row is inserted.
                    if !put_back || self.users.get(user) == Some(&i64::from(claim.slot)) {
                        self.insert(claim.slot, user);
                    }
                }
                self.resolve(*id, &claim.user_id);
            }
            Action::Letter(letter) => {
                if matches!(letter.end, LetterEnd::Readmitted { .. })
                    && !self.users.contains_key(&letter.user)
                    && let Some(slot) = self.next_slot()
                {
                    self.take(&letter.user, slot);
                }
                self.resolve(letter.id, &letter.user);
            }
            Action::Drop(DropRepair::Line(_)) => {
                if let Some(first) = self.waiting.first().cloned() {
                    if self.users.contains_key(&first) {
                        self.waiting.remove(0);
                    } else if let Some(slot) = self.next_slot() {
                        self.take(&first, slot);
                        self.broken.remove(&first);
                    }
                }
            }
            Action::Drop(DropRepair::Revocation(_)) => {}
        }
    }

    fn insert(&mut self, slot: Slot, who: &UserId) {
        let refused = slot < 1
            || slot > self.quantity
            || self.rows.contains_key(&slot)
            || self.row_of(who).is_some();
        if !refused {
            self.rows.insert(slot, who.clone());
        }
    }

    fn resolve(&mut self, id: i64, who: &UserId) {
        if self.row_of(who).is_some() {
            self.failed.retain(|(known, ..)| *known != id);
        }
    }

    fn owners(&self, slot: i64) -> usize {
        self.users.values().filter(|s| **s == slot).count()
    }

    fn put_back(&mut self, who: &UserId, slot: i64, certain: bool) {
        if !certain && self.users.iter().any(|(u, s)| *s == slot && u != who) {
            return;
        }
        self.users.insert(who.clone(), slot);
        self.free.remove(&slot);
        self.count = Some(self.count.unwrap_or(0).max(slot));
    }

    fn settle(&mut self) {
        let highest = self.users.values().copied().max().unwrap_or(0).max(0);
        let top = highest.min(i64::from(self.quantity));
        let used: BTreeSet<i64> = self.users.values().copied().collect();
        self.free = (1..=top).filter(|slot| !used.contains(slot)).collect();
        self.count = Some(highest);
        // The next claim gets a free slot or the slot after the counter. Neither may have a row.
        let given_away = self
            .rows
            .keys()
            .find(|slot| !used.contains(&i64::from(**slot)));
        assert_eq!(
            given_away, None,
            "a slot with a row could be given to another user: {self:#?}"
        );
    }

    fn next_slot(&mut self) -> Option<i64> {
        let quantity = i64::from(self.quantity);
        let free = self
            .free
            .iter()
            .copied()
            .find(|slot| (1..=quantity).contains(slot) && self.owners(*slot) == 0);
        free.or_else(|| {
            (self.count.unwrap_or(0).max(0) + 1..=quantity).find(|slot| self.owners(*slot) == 0)
        })
    }

    /// Admits a user to a slot and inserts the row.
    fn take(&mut self, who: &UserId, slot: i64) {
        self.free.remove(&slot);
        self.waiting.retain(|u| u != who);
        self.users.insert(who.clone(), slot);
        self.count = Some(self.count.unwrap_or(0).max(slot));
        self.insert(Slot::try_from(slot).unwrap(), who);
    }

    /// Changes a user's slot. A slot that loses its user becomes free only in
    /// [`DropWorld::settle`].
    fn change(&mut self, change: &SlotChange) {
        let who = &change.user;
        let seen = change.seen.map(|seen| seen.slot);
        let now = self.users.get(who).copied();
        match change.wanted {
            Wanted::Slot { slot, has_row, .. } => {
                if now.is_none() || now == seen || now == change.wanted_slot() {
                    self.put_back(who, i64::from(slot), has_row);
                }
            }
            _ if now != seen => {}
            Wanted::Any => {
                if let Some(slot) = self.next_slot() {
                    self.take(who, slot);
                } else {
                    self.users.remove(who);
                    self.waiting.insert(0, who.clone());
                    self.broken.insert(who.clone());
                }
            }
            Wanted::Nothing => _ = self.users.remove(who),
            Wanted::Front(_) => self.waiting.insert(0, who.clone()),
        }
    }
}
