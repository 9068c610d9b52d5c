//! Decides what two looks at a target mean, and what repairs it. Pure: three inputs (users, rows,
//! failed events, each with its numbers), one list of differences, each with its repair or none.
//!
//! The rules:
//! - A row is only inserted for a user whom their system promised one, and while rows are fewer
//!   than the quantity. Nothing here takes a row, a member or a coupon from anybody.
//! - While the numbers move, the campaign is being sold: then only users and failed events that
//!   both looks saw are repaired, never a counter.
//! - A repair that lets further users claim (a counter is lowered) needs a confirmation, unless the
//!   users' key names everybody who was promised one: otherwise messages that wait on a topic would
//!   be promises that nothing here can see.

use std::cmp::Ordering;
use std::collections::HashMap;

use mysql_async::Value;

use super::config::{CountMeans, UsersMean};
use super::read::Numbers;
use crate::report::{ActionKind, Kind};

/// A member of the users' key without a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    pub user: String,
    /// In a sorted set.
    pub score: Option<f64>,
}

/// An open row of their table of failed events.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedEvent {
    pub key: Vec<Value>,
    pub user: String,
    /// Rows of its user.
    pub rows: u64,
    /// Whether the users' key has its user; `None` if there is no such key.
    pub is_member: Option<bool>,
}

/// What both looks saw of a target.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    pub quantity: u64,
    /// At the second look.
    pub numbers: Numbers,
    /// The numbers moved between the looks.
    pub is_selling: bool,
    /// Nobody can claim any more.
    pub is_over: bool,
    /// `None` if no key names the users.
    pub means: Option<UsersMean>,
    pub count_means: Option<CountMeans>,
    pub failed: Vec<FailedEvent>,
    pub unissued: Vec<Member>,
    /// Users with a row who are not in the users' key.
    pub missing: Vec<String>,
    /// Users with several rows.
    pub twice: Vec<(String, u64)>,
    /// Users of the last rows beyond the quantity.
    pub surplus: Vec<String>,
    /// Users of the first look who had a row at the second.
    pub in_flight: u64,
    /// Differences that were counted, not named.
    pub more: u64,
}

/// A change in their stores.
#[derive(Debug, Clone, PartialEq)]
pub enum Repair {
    /// Insert a row, and close these failed events with it.
    Insert { user: String, events: Vec<Vec<Value>> },
    /// Close a failed event.
    Close { event: Vec<Value> },
    /// Add a member.
    Add { user: String },
    SetCount { from: Option<i64>, to: i64 },
    SetLeft { from: i64, to: i64 },
}

/// A difference, with its repair if there is one.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub kind: Kind,
    pub user: Option<String>,
    pub detail: String,
    pub repair: Option<Repair>,
    /// The repair lets further users claim, though promises may be on their way.
    pub needs_confirmation: bool,
    /// The next pass decides it: the campaign is being sold.
    pub waits: bool,
}

impl Judged {
    fn new(kind: Kind, user: Option<&str>, detail: impl Into<String>) -> Self {
        Self {
            kind,
            user: user.map(str::to_owned),
            detail: detail.into(),
            repair: None,
            needs_confirmation: false,
            waits: false,
        }
    }

    fn by(self, repair: Repair) -> Self {
        Self { repair: Some(repair), ..self }
    }

    pub fn action(&self) -> ActionKind {
        match self.repair {
            None => ActionKind::Report,
            Some(Repair::Insert { .. }) => ActionKind::Issue,
            Some(Repair::Close { .. }) => ActionKind::Resolve,
            Some(Repair::Add { .. } | Repair::SetCount { .. } | Repair::SetLeft { .. }) => {
                ActionKind::Project
            }
        }
    }
}

/// Judges a target.
pub fn judge(facts: &Facts) -> Vec<Judged> {
    let mut judge = Judge {
        facts,
        room: facts.quantity.saturating_sub(facts.numbers.rows),
        inserted: 0,
        found: Vec::new(),
    };
    let given = judge.failed_events();
    judge.unissued(&given);
    judge.redis();
    judge.rows();
    // With users that are only counted, nobody knows how many coupons are given out.
    if !facts.is_selling && facts.more == 0 {
        judge.counter();
        judge.stock();
    }
    if facts.more > 0 {
        let detail = format!("{} more differences are counted, not named; the next pass goes on", facts.more);
        judge.found.push(Judged::new(Kind::Unissued, None, detail));
    }
    judge.found
}

/// Whether the counter contradicts what was given out, by its meaning.
pub fn is_off(means: CountMeans, count: Option<i64>, taken: u64, quantity: u64) -> bool {
    let count = u64::try_from(count.unwrap_or_default()).unwrap_or_default();
    match means {
        CountMeans::Tickets => count < taken || count >= quantity && taken < quantity,
        CountMeans::Issued => count != taken,
    }
}

struct Judge<'a> {
    facts: &'a Facts,
    /// Rows that may still be inserted.
    room: u64,
    inserted: u64,
    found: Vec<Judged>,
}

const BEING_SOLD: &str = "it is being sold, so this waits until it rests";

impl<'a> Judge<'a> {
    /// Members who were promised a coupon, if a key names them.
    fn admitted(&self) -> Option<u64> {
        let size = self.facts.numbers.size?;
        (self.facts.means == Some(UsersMean::Admitted)).then_some(size)
    }

    /// Whether a row for one user can take no coupon from another: the campaign rests, or everybody
    /// who was promised one gets one.
    fn may_issue(&self) -> bool {
        let fits = self.admitted().is_none_or(|size| size <= self.facts.quantity);
        !self.facts.is_selling || fits && self.facts.numbers.left.is_none()
    }

    /// Inserts a row if there is room; otherwise says what happens.
    fn insert(&mut self, kind: Kind, user: &str, detail: &str, events: Vec<Vec<Value>>) {
        let found = Judged::new(kind, Some(user), detail);
        if !self.may_issue() {
            let waits = Judged { waits: true, detail: format!("{detail}; {BEING_SOLD}"), ..found };
            return self.found.push(waits);
        }
        if self.room > 0 {
            self.room -= 1;
            self.inserted += 1;
            let user = user.to_owned();
            return self.found.push(found.by(Repair::Insert { user, events }));
        }
        let quantity = self.facts.quantity;
        let is_admitted = kind == Kind::Unissued;
        let kind = if is_admitted { Kind::OverAdmitted } else { kind };
        let detail = format!("{detail}, and all {quantity} are given out");
        self.found.push(Judged { kind, detail, ..found });
    }

    /// Judges failed events in their order. Returns the users whom they concern.
    fn failed_events(&mut self) -> HashMap<&'a str, Vec<Vec<Value>>> {
        let mut by_user: HashMap<&str, Vec<Vec<Value>>> = HashMap::new();
        let mut users: Vec<&FailedEvent> = Vec::new();
        for event in &self.facts.failed {
            let events = by_user.entry(&event.user).or_default();
            if events.is_empty() {
                users.push(event);
            }
            events.push(event.key.clone());
        }
        for event in users {
            let events = by_user[event.user.as_str()].clone();
            let user = event.user.as_str();
            if event.rows > 0 {
                for event in events {
                    let found = Judged::new(Kind::FailedClaim, Some(user), "its user has a row: a duplicate");
                    self.found.push(found.by(Repair::Close { event }));
                }
            } else if event.is_member == Some(false) {
                let why = "its user is not in Redis, so nothing tells that they were promised one";
                self.found.push(Judged::new(Kind::FailedClaim, Some(user), why));
            } else {
                self.insert(Kind::FailedClaim, user, "it failed and nobody processed it", events);
            }
        }
        by_user
    }

    fn unissued(&mut self, given: &HashMap<&str, Vec<Vec<Value>>>) {
        let mut members: Vec<&Member> = self.facts.unissued.iter().collect();
        members.retain(|member| !given.contains_key(member.user.as_str()));
        let score = |member: &Member| member.score.unwrap_or_default();
        members.sort_by(|a, b| {
            let by_score = score(a).partial_cmp(&score(b)).unwrap_or(Ordering::Equal);
            by_score.then_with(|| a.user.cmp(&b.user))
        });
        for member in members {
            self.insert(Kind::Unissued, &member.user, "it is in Redis, and no row came", Vec::new());
        }
    }

    fn redis(&mut self) {
        for user in &self.facts.missing {
            let found = Judged::new(Kind::MissingAdmission, Some(user), "it has a row, and is not in Redis");
            self.found.push(found.by(Repair::Add { user: user.clone() }));
        }
    }

    /// What no repair may touch: rows are never deleted.
    fn rows(&mut self) {
        for (user, rows) in &self.facts.twice {
            let detail = format!("it has {rows} rows");
            self.found.push(Judged::new(Kind::DuplicateRow, Some(user), detail));
        }
        let (rows, quantity) = (self.facts.numbers.rows, self.facts.quantity);
        for user in &self.facts.surplus {
            let detail = format!("its row is one of the last {} of {rows}; the quantity is {quantity}", rows - quantity);
            self.found.push(Judged::new(Kind::OverIssued, Some(user), detail));
        }
        let named = self.facts.surplus.len() as u64;
        if let Some(more) = rows.saturating_sub(quantity).checked_sub(named).filter(|more| *more > 0) {
            let detail = format!("{more} more rows are beyond the quantity");
            self.found.push(Judged::new(Kind::OverIssued, None, detail));
        }
    }

    /// Coupons that are given out, or will be by the repairs of this pass.
    fn taken(&self) -> u64 {
        let members = self.admitted().map(|size| size + self.facts.missing.len() as u64);
        (self.facts.numbers.rows + self.inserted).max(members.unwrap_or_default())
    }

    fn counter(&mut self) {
        let facts = self.facts;
        let (Some(means), quantity, taken) = (facts.count_means, facts.quantity, self.taken()) else {
            return;
        };
        let count = facts.numbers.count;
        // Keys expire after the end.
        if !is_off(means, count, taken, quantity) || facts.is_over && count.is_none() {
            return;
        }
        let says = count.map_or("is missing".to_owned(), |count| format!("says {count}"));
        let is_lowered = count.is_some_and(|count| count > taken.cast_signed());
        let is_unfilled = is_lowered && taken < quantity && count >= Some(quantity.cast_signed());
        let found = if is_unfilled {
            let left = quantity - taken;
            let detail = format!("{left} of {quantity} are left, but the counter {says}: nobody can claim them");
            Judged::new(Kind::Unfilled, None, detail)
        } else {
            let detail = format!("the counter {says}, and {taken} are given out");
            Judged::new(Kind::CountMismatch, None, detail)
        };
        if is_lowered && facts.is_over {
            let detail = format!("{}; it is over", found.detail);
            return self.found.push(Judged { detail, ..found });
        }
        let repair = Repair::SetCount { from: count, to: taken.cast_signed() };
        self.opening(found.by(repair), is_lowered);
    }

    fn stock(&mut self) {
        let Some(left) = self.facts.numbers.left else {
            return;
        };
        let rows = self.facts.numbers.rows + self.inserted;
        let expected = self.facts.quantity.cast_signed() - rows.cast_signed();
        let expected = expected.max(0);
        if left == expected {
            return;
        }
        let detail = format!("the stock row says {left} left, and {expected} are: {rows} rows of {}", self.facts.quantity);
        let found = Judged::new(Kind::CountMismatch, None, detail);
        let repair = Repair::SetLeft { from: left, to: expected };
        self.opening(found.by(repair), expected > left);
    }

    /// A repair that may let further users claim.
    fn opening(&mut self, found: Judged, opens: bool) {
        let needs_confirmation = opens && self.admitted().is_none();
        let mut detail = found.detail.clone();
        if needs_confirmation {
            detail = format!("{detail}; confirm only if no message waits on your topic: it may be a promise that is on its way");
        }
        self.found.push(Judged { detail, needs_confirmation, ..found });
    }
}
