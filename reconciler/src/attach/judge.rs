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
use super::read::{NAMED, Numbers};
use crate::report::{ActionKind, Finding, Kind, Outcome};

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
    /// Members without a row, in the order of a sorted set, otherwise by name.
    pub unissued: Vec<String>,
    /// Users with a row who are no members.
    pub missing: Vec<String>,
    /// Users with several rows.
    pub twice: Vec<String>,
    /// Users of the last rows beyond the quantity.
    pub surplus: Vec<String>,
    /// Users of the first look who had a row at the second.
    pub in_flight: u64,
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
    /// Set the counter. `opens`: further users can claim then, though promises that no key names
    /// may be on their way, so that an operator confirms it.
    SetCount {
        from: Option<i64>,
        to: i64,
        opens: bool,
    },
}

/// A difference, with its repair if there is one. If no repair is tried, a person makes it, or
/// time does.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub finding: Finding,
    pub repair: Option<Repair>,
}

/// Judges a target.
pub fn judge(facts: &Facts) -> Vec<Judged> {
    let room = facts.quantity.saturating_sub(facts.numbers.rows);
    let mut judge = Judge {
        facts,
        room,
        found: Vec::new(),
    };
    let mut concerned = HashSet::new();
    for event in &facts.failed {
        judge.failed_event(event, concerned.insert(&event.user));
    }
    for user in facts
        .unissued
        .iter()
        .filter(|user| !concerned.contains(user))
    {
        judge.insert(
            Kind::Unissued,
            user,
            "it is in Redis, and no row came",
            None,
        );
    }
    for user in &facts.missing {
        let add = Some(Repair::Add(user.clone()));
        judge.found(
            Kind::MissingAdmission,
            user,
            "it has a row, and is not in Redis",
            add,
        );
    }
    // Rows are never deleted, so what only a deletion could repair is named.
    for user in &facts.twice {
        judge.found(Kind::DuplicateRow, user, "it has several rows", None);
    }
    for user in &facts.surplus {
        judge.found(
            Kind::OverIssued,
            user,
            "its row is one of the last, beyond the quantity",
            None,
        );
    }
    // Among users who are not all named, nobody knows how many coupons are given out.
    let is_cut = facts.unissued.len().max(facts.missing.len()) >= NAMED;
    if !facts.is_selling && !is_cut {
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

impl Judge<'_> {
    fn found(&mut self, kind: Kind, user: &str, why: &str, repair: Option<Repair>) {
        let action = match &repair {
            None => ActionKind::Report,
            Some(Repair::Insert(..)) => ActionKind::Issue,
            Some(Repair::Close(_)) => ActionKind::Resolve,
            Some(Repair::Add(_) | Repair::SetCount { .. }) => ActionKind::Project,
        };
        let mut finding = Finding::new(kind, action, Outcome::Skipped, why);
        finding.needs_person = true;
        finding.user_id = Some(user.to_owned()).filter(|user| !user.is_empty());
        self.found.push(Judged { finding, repair });
    }

    /// Leaves a difference to a later pass.
    fn waits(&mut self, kind: Kind, user: &str, why: &str) {
        self.found(kind, user, why, None);
        self.found
            .last_mut()
            .into_iter()
            .for_each(|it| it.finding.needs_person = false);
    }

    /// Members who were promised a coupon, if a key names them.
    fn admitted(&self) -> Option<u64> {
        let size = self.facts.numbers.size;
        size.filter(|_| self.facts.means == Some(UsersMean::Admitted))
    }

    /// Inserts a row if there is room; otherwise says what happens.
    fn insert(&mut self, kind: Kind, user: &str, why: &str, event: Option<Vec<Value>>) {
        // While it is sold, a row must not take the coupon of somebody who is on the way.
        if self.facts.is_selling && self.admitted() > Some(self.facts.quantity) {
            self.waits(
                kind,
                user,
                "more were told yes than there are coupons; it is being sold",
            );
        } else if self.room > 0 {
            self.room -= 1;
            let insert = Repair::Insert(user.to_owned(), event);
            self.found(kind, user, why, Some(insert));
        } else {
            let is_admitted = kind == Kind::Unissued;
            let kind = if is_admitted {
                Kind::OverAdmitted
            } else {
                kind
            };
            self.found(kind, user, &format!("{why}, and all are given out"), None);
        }
    }

    fn failed_event(&mut self, event: &FailedEvent, is_first: bool) {
        let (kind, user) = (Kind::FailedClaim, event.user.as_str());
        if event.has_row {
            let close = Some(Repair::Close(event.key.clone()));
            self.found(kind, user, "its user has a row: a duplicate", close);
        } else if event.is_member == Some(false) {
            let why = "its user is not in Redis: nothing tells that they were promised one";
            self.found(kind, user, why, None);
        } else if is_first {
            let why = "it failed, and nobody processed it";
            self.insert(kind, user, why, Some(event.key.clone()));
        } else {
            self.waits(kind, user, "another event of its user comes first");
        }
    }

    fn counter(&mut self) {
        let (facts, quantity) = (self.facts, self.facts.quantity);
        // What is given out, or will be by the repairs of this pass.
        let rows = quantity.saturating_sub(self.room).max(facts.numbers.rows);
        let missing = facts.missing.len() as u64;
        let members = self.admitted().map_or(0, |size| size + missing);
        let taken = rows.max(members).cast_signed();
        let (quantity, from) = (quantity.cast_signed(), facts.numbers.count);
        let count = from.unwrap_or_default();
        let is_unfilled = count >= quantity && taken < quantity;
        let is_off = match facts.count_means {
            None => false,
            Some(CountMeans::Tickets) => count < taken || is_unfilled,
            Some(CountMeans::Issued) => count != taken,
        };
        // Keys expire after the end, and nothing is opened again.
        if !is_off || facts.is_over && from.is_none() {
            return;
        }
        let kind = if is_unfilled {
            Kind::Unfilled
        } else {
            Kind::CountMismatch
        };
        let mut why = format!("the counter says {count}, and {taken} are given out");
        let opens = count > taken && self.admitted().is_none();
        if opens {
            why += "; confirm only if no message waits on your topic, since it may be a promise";
        }
        let is_reopened = count > taken && facts.is_over;
        let repair = (!is_reopened).then_some(Repair::SetCount {
            from,
            to: taken,
            opens,
        });
        self.found(kind, "", &why, repair);
    }
}
