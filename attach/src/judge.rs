//! Decides what two looks at a target mean, and what repairs it. Pure: users, rows and failed
//! events with their numbers in, one list of differences out, each with its repair or none.
//!
//! - A row is only inserted for a user whom their system promised one, and while rows are fewer
//!   than the quantity. Nothing here takes a row, a member or a coupon from anybody.
//! - While the numbers move, the campaign is being sold: then users and failed events that both
//!   looks saw are repaired, and a counter is only raised.
//! - A repair that may be wrong although both looks saw its reason needs a confirmation, with the
//!   sentence that says why ([`Judged::doubt`]).

use std::collections::HashSet;

use mysql_async::Value;

use crate::config::{CountMeans, UsersMean};
use crate::read::{NAMED, Numbers};
use firstcome_shared::report::{ActionKind, Finding, Kind, Outcome};

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
    /// At the first look.
    pub before: Numbers,
    /// At the second look.
    pub numbers: Numbers,
    /// The numbers moved between the looks.
    pub is_selling: bool,
    /// No user is a member and has a row.
    pub is_disjoint: bool,
    /// The users' key says who came first.
    pub is_ordered: bool,
    /// Nobody can claim any more.
    pub is_over: bool,
    /// `None` if no key names the users.
    pub means: Option<UsersMean>,
    pub count_means: Option<CountMeans>,
    pub failed: Vec<FailedEvent>,
    /// Members without a row, in the order of a sorted set, otherwise by name.
    pub unissued: Vec<String>,
    /// Members whom MySQL takes for another member, who has a row.
    pub aliases: Vec<String>,
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
    SetCount(SetCount),
}

/// A change of the counter, if its value is still between these; `from` is `None` if it was missing.
#[derive(Debug, Clone, PartialEq)]
pub struct SetCount {
    pub from: Option<i64>,
    pub most: i64,
    pub to: i64,
}

/// A difference, with its repair if there is one. If no repair is tried, a person makes it, or
/// time does.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub finding: Finding,
    pub repair: Option<Repair>,
    /// Why an operator has to confirm the repair.
    pub doubt: Option<&'static str>,
}

/// Further users can claim afterwards, while promises that no key names may be on their way.
const OPENS: &str = "others can claim then: confirm only if nobody stopped the sale by hand, and no message \
     waits on your topic, since it may be a promise";
/// Otherwise users who only asked would get what others were promised.
const UNORDERED: &str = "more are in Redis than there are coupons, and it does not say who came first; \
     if it holds everybody who asked, write means = \"applied\"";
/// The likeliest reason is a file that names another key, other rows, or ids of another form.
const DISJOINT: &str = "no user in Redis has a row: check that users and rows mean the same campaign, \
     and write ids in the same form";
/// It may have expired, and a later sale may use its name.
const GONE: &str = "the counter is gone; if it expired after the sale, do not confirm, write ends";

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
    let without_event = |user: &&String| !concerned.contains(user);
    for user in facts.unissued.iter().filter(without_event) {
        let why = "it is in Redis, and no row came";
        judge.insert(Kind::Unissued, user, why, None);
    }
    for user in &facts.aliases {
        let why = "MySQL takes it for a user who has a row: the collation of the column ignores how \
            they differ";
        judge.found(Kind::Unissued, user, why, None);
    }
    for user in &facts.missing {
        let (add, why) = if user.is_empty() {
            (None, "its row names no user")
        } else {
            let add = Repair::Add(user.clone());
            (Some(add), "it has a row, and is not in Redis")
        };
        judge.found(Kind::MissingAdmission, user, why, add);
    }
    // Rows are never deleted, so what only a deletion could repair is named.
    for user in &facts.twice {
        judge.found(Kind::DuplicateRow, user, "it has several rows", None);
    }
    for user in &facts.surplus {
        let why = "its row is one of the last, beyond the quantity";
        judge.found(Kind::OverIssued, user, why, None);
    }
    // Among users who are not all named, nobody knows how many coupons are given out.
    let is_cut = facts.unissued.len().max(facts.missing.len()) >= NAMED;
    if !is_cut {
        judge.counter();
    }
    if facts.is_disjoint {
        for it in judge.found.iter_mut().filter(|it| it.repair.is_some()) {
            it.doubts(DISJOINT);
        }
    }
    judge.found
}

impl Judged {
    /// Requires a confirmation.
    fn doubts(&mut self, why: &'static str) {
        self.finding.detail = format!("{}; {why}", self.finding.detail);
        self.doubt = Some(why);
    }
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
            Some(Repair::Add(_) | Repair::SetCount(_)) => ActionKind::Project,
        };
        let mut finding = Finding::new(kind, action, Outcome::Skipped, why);
        finding.needs_person = true;
        finding.user_id = Some(user.to_owned()).filter(|user| !user.is_empty());
        self.found.push(Judged {
            finding,
            repair,
            doubt: None,
        });
    }

    /// Leaves a difference to a later pass.
    fn waits(&mut self, kind: Kind, user: &str, why: &str) {
        self.found(kind, user, why, None);
        if let Some(it) = self.found.last_mut() {
            it.finding.needs_person = false;
        }
    }

    /// Requires a confirmation of the difference that was just found.
    fn last_doubts(&mut self, why: &'static str) {
        if let Some(it) = self.found.last_mut() {
            it.doubts(why);
        }
    }

    /// Members who were promised a coupon, if a key names them.
    fn admitted(&self) -> Option<u64> {
        self.facts.numbers.admitted(self.facts.means)
    }

    /// Inserts a row if there is room; otherwise says what happens.
    fn insert(&mut self, kind: Kind, user: &str, why: &str, event: Option<Vec<Value>>) {
        let are_too_many = self.admitted() > Some(self.facts.quantity);
        // While it is sold, a row must not take the coupon of somebody who is on the way.
        if user.is_empty() {
            self.found(kind, user, "it names no user", None);
        } else if self.facts.is_selling && are_too_many {
            let why = "more were told yes than there are coupons; it is being sold";
            self.waits(kind, user, why);
        } else if self.room > 0 {
            self.room -= 1;
            let insert = Repair::Insert(user.to_owned(), event);
            self.found(kind, user, why, Some(insert));
            if are_too_many && !self.facts.is_ordered && kind == Kind::Unissued {
                self.last_doubts(UNORDERED);
            }
        } else {
            let kind = match kind {
                Kind::Unissued => Kind::OverAdmitted,
                kind => kind,
            };
            self.found(kind, user, &format!("{why}, and all are given out"), None);
        }
    }

    fn failed_event(&mut self, event: &FailedEvent, is_first: bool) {
        let (kind, user) = (Kind::FailedClaim, event.user.as_str());
        if event.has_row && !user.is_empty() {
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
        let (quantity, is_missing) = (quantity.cast_signed(), facts.numbers.count.is_none());
        let count = facts.numbers.count.unwrap_or_default();
        // Whatever their system writes first, it has counted by the second look what the first saw.
        let before = facts.before.admitted(facts.means).unwrap_or_default();
        let before = before.max(facts.before.rows).cast_signed().min(taken);
        let counted = if facts.is_selling { before } else { taken };
        let is_unfilled = !facts.is_selling && count >= quantity && taken < quantity;
        let (is_off, to) = match facts.count_means {
            None => (false, taken),
            Some(CountMeans::Tickets) => (count < counted || is_unfilled, taken),
            Some(CountMeans::Issued) if facts.is_selling => (count < counted, counted),
            Some(CountMeans::Issued) => (count != taken, taken),
        };
        // Keys expire after the end, and nothing is opened again.
        if !is_off || facts.is_over && is_missing {
            return;
        }
        let kind = if is_unfilled {
            Kind::Unfilled
        } else {
            Kind::CountMismatch
        };
        let why = format!("the counter says {count}, and {to} are given out");
        let is_lowered = count > to;
        if is_lowered && facts.is_over {
            self.found(kind, "", &why, None);
            return;
        }
        // Beyond the quantity, only users who are refused raise it.
        let from = facts.numbers.count.map(|count| count.min(quantity));
        let most = match from {
            Some(_) if !is_lowered => to - 1,
            Some(from) if from < quantity => from,
            Some(_) | None => i64::MAX,
        };
        let set = Repair::SetCount(SetCount { from, most, to });
        self.found(kind, "", &why, Some(set));
        if is_missing {
            self.last_doubts(GONE);
        } else if is_lowered && (count >= quantity || self.admitted().is_none()) {
            self.last_doubts(OPENS);
        }
    }
}
