//! Decides what two looks at a target mean, and what repairs it. Pure: users, rows and failed
//! events with their numbers in, one list of differences out, each with its repair or none.
//!
//! - A row is only inserted for a user whom their system promised one, and while rows are fewer
//!   than the quantity. Nothing here takes a row, a member or a coupon from anybody.
//! - While the numbers move, the campaign is being sold: then users and failed events that both
//!   looks saw are repaired, but never a counter.
//! - A repair that lets further users claim (the counter is lowered) needs a confirmation, unless
//!   the users' key names everybody who was promised one: otherwise messages that wait on a topic
//!   would be promises that nothing here can see.

use std::collections::HashSet;

use mysql_async::Value;

use super::config::{CountMeans, UsersMean};
use super::read::Numbers;
use crate::report::{ActionKind, Kind};

/// An open row of their table of failed events.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedEvent {
    pub key: Vec<Value>,
    pub user: String,
    pub has_row: bool,
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
    /// Members without a row, with their scores in a sorted set.
    pub unissued: Vec<(String, Option<f64>)>,
    /// Users with a row who are no members.
    pub missing: Vec<String>,
    /// Users with several rows.
    pub twice: Vec<String>,
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
    /// Insert a row, and close the failed event with it, if there is one.
    Insert(String, Option<Vec<Value>>),
    /// Close a failed event.
    Close(Vec<Value>),
    /// Add a member.
    Add(String),
    SetCount {
        from: Option<i64>,
        to: i64,
    },
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
    /// A later pass decides it.
    pub waits: bool,
}

impl Judged {
    pub fn action(&self) -> ActionKind {
        match self.repair {
            None => ActionKind::Report,
            Some(Repair::Insert(..)) => ActionKind::Issue,
            Some(Repair::Close(_)) => ActionKind::Resolve,
            Some(Repair::Add(_) | Repair::SetCount { .. }) => ActionKind::Project,
        }
    }
}

/// Judges a target.
pub fn judge(facts: &Facts) -> Vec<Judged> {
    let mut judge = Judge {
        facts,
        room: facts.quantity.saturating_sub(facts.numbers.rows),
        found: Vec::new(),
    };
    let concerned = judge.failed_events();
    judge.unissued(&concerned);
    judge.users_and_rows();
    // With users that are only counted, nobody knows how many coupons are given out.
    if facts.more > 0 {
        let detail = format!("{} more differences are only counted", facts.more);
        judge.found(Kind::Unissued, None, detail, None);
    } else if !facts.is_selling {
        judge.counter();
    }
    judge.found
}

struct Judge<'a> {
    facts: &'a Facts,
    /// Rows that may still be inserted.
    room: u64,
    found: Vec<Judged>,
}

impl<'a> Judge<'a> {
    fn found(
        &mut self,
        kind: Kind,
        user: Option<&str>,
        detail: impl Into<String>,
        repair: Option<Repair>,
    ) {
        self.found.push(Judged {
            kind,
            user: user.map(str::to_owned),
            detail: detail.into(),
            repair,
            needs_confirmation: false,
            waits: false,
        });
    }

    fn waits(&mut self, kind: Kind, user: &str, detail: String) {
        self.found(kind, Some(user), detail, None);
        if let Some(found) = self.found.last_mut() {
            found.waits = true;
        }
    }

    /// Members who were promised a coupon, if a key names them.
    fn admitted(&self) -> Option<u64> {
        let size = self.facts.numbers.size;
        size.filter(|_| self.facts.means == Some(UsersMean::Admitted))
    }

    /// Inserts a row if there is room; otherwise says what happens.
    fn insert(&mut self, kind: Kind, user: &str, why: &str, event: Option<Vec<Value>>) {
        let facts = self.facts;
        // While it is sold, a row must not take the coupon of somebody who is on the way.
        if facts.is_selling && self.admitted() > Some(facts.quantity) {
            self.waits(
                kind,
                user,
                format!("{why}; more were told yes than there are coupons"),
            );
        } else if self.room > 0 {
            self.room -= 1;
            let insert = Repair::Insert(user.to_owned(), event);
            self.found(kind, Some(user), why, Some(insert));
        } else {
            let is_admitted = kind == Kind::Unissued;
            let kind = if is_admitted {
                Kind::OverAdmitted
            } else {
                kind
            };
            let detail = format!("{why}, and all {} are given out", facts.quantity);
            self.found(kind, Some(user), detail, None);
        }
    }

    /// Judges failed events in their order. Returns the users whom they concern.
    fn failed_events(&mut self) -> HashSet<&'a str> {
        let kind = Kind::FailedClaim;
        let mut concerned = HashSet::new();
        for event in &self.facts.failed {
            let user = event.user.as_str();
            let is_first = concerned.insert(user);
            if event.has_row {
                let close = Some(Repair::Close(event.key.clone()));
                self.found(kind, Some(user), "its user has a row: a duplicate", close);
            } else if event.is_member == Some(false) {
                let why = "its user is not in Redis: nothing tells that they were promised one";
                self.found(kind, Some(user), why, None);
            } else if !is_first {
                self.waits(
                    kind,
                    user,
                    "another event of its user is repaired first".to_owned(),
                );
            } else {
                let why = "it failed, and nobody processed it";
                self.insert(kind, user, why, Some(event.key.clone()));
            }
        }
        concerned
    }

    /// Judges members without a row, in the order of a sorted set, otherwise by name.
    fn unissued(&mut self, concerned: &HashSet<&str>) {
        let unissued = self.facts.unissued.iter();
        let mut unissued: Vec<_> = unissued
            .filter(|(user, _)| !concerned.contains(user.as_str()))
            .collect();
        let score = |score: Option<f64>| score.unwrap_or_default();
        unissued.sort_by(|a, b| {
            score(a.1)
                .total_cmp(&score(b.1))
                .then_with(|| a.0.cmp(&b.0))
        });
        for (user, _) in unissued {
            self.insert(
                Kind::Unissued,
                user,
                "it is in Redis, and no row came",
                None,
            );
        }
    }

    /// Rows are never deleted, so what only a deletion could repair is named.
    fn users_and_rows(&mut self) {
        let (facts, quantity) = (self.facts, self.facts.quantity);
        for user in &facts.missing {
            let add = Some(Repair::Add(user.clone()));
            let detail = "it has a row, and is not in Redis";
            self.found(Kind::MissingAdmission, Some(user), detail, add);
        }
        for user in &facts.twice {
            self.found(Kind::DuplicateRow, Some(user), "it has several rows", None);
        }
        let surplus = facts.numbers.rows.saturating_sub(quantity);
        for user in &facts.surplus {
            let detail = format!("its row is one of the last {surplus}, beyond the quantity");
            self.found(Kind::OverIssued, Some(user), detail, None);
        }
        let unnamed = surplus.saturating_sub(facts.surplus.len() as u64);
        if unnamed > 0 {
            let detail = format!("{unnamed} more rows are beyond the quantity");
            self.found(Kind::OverIssued, None, detail, None);
        }
    }

    fn counter(&mut self) {
        let (facts, quantity) = (self.facts, self.facts.quantity);
        // What is given out, or will be by the repairs of this pass.
        let rows = quantity.saturating_sub(self.room).max(facts.numbers.rows);
        let members = self
            .admitted()
            .map(|size| size + facts.missing.len() as u64);
        let taken = rows.max(members.unwrap_or_default()).cast_signed();
        let (quantity, from) = (quantity.cast_signed(), facts.numbers.count);
        let count = from.unwrap_or_default();
        let is_unfilled = count >= quantity && taken < quantity;
        let is_off = match facts.count_means {
            None => false,
            Some(CountMeans::Tickets) => count < taken || is_unfilled,
            Some(CountMeans::Issued) => count != taken,
        };
        // Keys expire after the end.
        if !is_off || facts.is_over && from.is_none() {
            return;
        }
        let kind = if is_unfilled {
            Kind::Unfilled
        } else {
            Kind::CountMismatch
        };
        let mut detail = format!("the counter says {count}, and {taken} are given out");
        if is_unfilled {
            detail = format!(
                "{detail}: nobody can claim the {} that are left",
                quantity - taken
            );
        }
        let opens = count > taken;
        let needs_confirmation = opens && self.admitted().is_none();
        if needs_confirmation {
            detail += "; confirm only if no message waits on your topic, since it may be a promise";
        }
        let repair = (!(opens && facts.is_over)).then_some(Repair::SetCount { from, to: taken });
        self.found(kind, None, detail, repair);
        if let Some(found) = self.found.last_mut() {
            found.needs_confirmation = needs_confirmation;
        }
    }
}
