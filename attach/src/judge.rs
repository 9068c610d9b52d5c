//! Decides what two looks at a target mean, and what repairs it. Pure: users, rows and failed
//! events with their numbers in, one list of differences out, each with its repair or none.
//!
//! - A row is only inserted for a user whom their system promised a coupon, and while rows are
//!   fewer than the quantity. Nothing here takes a row, a member or a coupon from anybody.
//! - While the numbers move, the campaign is being sold: then users and failed events that both
//!   looks saw are repaired, and a counter is only moved towards more coupons given out.
//! - A repair that may be wrong although both looks saw its reason needs a confirmation, with the
//!   sentence that says why ([`Judged::doubt`]).

use std::collections::HashSet;

use mysql_async::Value;

use crate::counter::{Counter, CounterState};
use crate::facts::{Facts, FailedEvent, Numbers, StockColumn};
use crate::held::HeldBecause;
use crate::keys::MoveCount;
use firstcome_shared::report::{ActionKind, Cause, Doubt, Finding, Kind, Outcome};

/// A change in their stores.
#[derive(Debug, Clone, PartialEq)]
pub enum Repair {
    /// Insert a row, and close the failed event with it, if there is one.
    Insert(String, Option<Vec<Value>>),
    /// Close a failed event.
    Close(Vec<Value>),
    /// Add a member.
    Add(String),
    MoveCount(MoveCount),
}

/// A difference, with its repair if there is one. Without a repair, an operator has to act, or a
/// later pass decides.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub finding: Finding,
    pub repair: Option<Repair>,
    /// Why an operator has to confirm the repair.
    pub doubt: Option<Doubt>,
    /// The repair moves a counter to a value that includes rows which other repairs insert.
    pub counts_inserts: bool,
}

/// The differences that two looks at the stores of a campaign show, with their repairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    pub found: Vec<Judged>,
    /// The looks do not show whether the counter, the sale key and the stock row are right, so
    /// `found` may lack differences of these.
    pub counts_unclear: bool,
}

impl Judgement {
    /// Whether the looks show that everything is right: there are no findings, and the
    /// counts are clear.
    pub fn is_clean(&self) -> bool {
        self.found.is_empty() && !self.counts_unclear
    }
}

/// Returns the differences between the stores of a target, with their repairs.
pub fn judge(facts: &Facts) -> Judgement {
    let room = facts.quantity.saturating_sub(facts.now.rows);
    let mut judge = Judge {
        facts,
        room,
        second_rows: facts.sets.twice.len(),
        found: Vec::new(),
        counts_unclear: facts.sets.is_cut || facts.has_moved,
    };
    judge.promises();
    judge.members_without_promise();
    judge.users_not_in_redis();
    judge.rows();
    // If some users were left out of the sets, the number of coupons given out is unknown.
    if !facts.sets.is_cut {
        judge.counter();
        judge.sale();
    }
    judge.stock();
    judge.doubt_unclear_users();
    judge.doubt_few_in_both();
    judge.doubt_counter_of_doubted();
    Judgement {
        found: judge.found,
        counts_unclear: judge.counts_unclear,
    }
}

impl Judged {
    /// Whether it follows from comparing the stores: it is about a user who is in only one of them,
    /// or it has a repair that is not doubtful.
    fn compares_stores(&self) -> bool {
        match self.finding.kind {
            Kind::Unissued | Kind::OverAdmitted | Kind::MissingAdmission => true,
            _ => self.repair.is_some() && self.doubt.is_none(),
        }
    }

    /// Holds its repair back. If the finding already has a graver doubt, that stays.
    pub(super) fn hold_back(&mut self, why: HeldBecause) {
        if let Some(doubt) = why.doubt() {
            let gravest = self.doubt.map_or(doubt, |own| own.min(doubt));
            self.finding.cause = Cause::Doubted(gravest);
        }
        self.became((Outcome::Planned, why.to_string()));
    }

    /// Requires a confirmation of its repair, if it has one.
    pub(super) fn doubts(&mut self, doubt: Doubt) {
        self.finding.detail = format!("{}; {}", self.finding.detail, doubt.says());
        self.finding.cause = Cause::Doubted(doubt);
        self.doubt = Some(doubt);
    }
}

/// A counter that lags by no more than this, or by a twentieth of the quantity if that is more, is
/// taken to have lost decrements: hardly anybody adds so few coupons to a stock.
const FEW: i64 = 10;

/// The reason for a member whose row `rows.where` does not select.
pub const TAKEN_BACK: &str = "a row of its user has another value in a column of rows.where: if it \
    was taken back, remove the user from Redis; if not, write all values of issued coupons there, \
    such as [\"ISSUED\", \"USED\"]";

struct Judge<'a> {
    facts: &'a Facts,
    /// Rows that may still be inserted.
    room: u64,
    /// The number of second rows that no finding has yet given as the reason why another user gets
    /// no coupon.
    second_rows: usize,
    found: Vec<Judged>,
    counts_unclear: bool,
}

impl Judge<'_> {
    /// Plans rows for users who were promised a coupon.
    fn promises(&mut self) {
        let facts = self.facts;
        let mut concerned = HashSet::new();
        for event in &facts.failed {
            self.failed_event(event, concerned.insert(&event.user));
        }
        let mut promised = facts.sets.unissued_in_order();
        promised.retain(|user: &&String| !concerned.contains(user));
        // Users whom a repair added, who need a confirmation, and users whose rows failed before
        // come last: neither may take the room of others.
        promised.sort_by_key(|user| (facts.was_added(user), facts.failing.contains(*user)));
        for user in promised {
            let why = "it is in Redis, and no row came";
            self.insert(Kind::Unissued, user, why, None);
        }
    }

    /// Reports members who get no row.
    fn members_without_promise(&mut self) {
        let facts = self.facts;
        for (users, why) in [
            (
                &facts.sets.aliases,
                "MySQL takes it for a user who has a row: the collation of the column ignores how \
                they differ",
            ),
            (&facts.sets.taken_back, TAKEN_BACK),
            (
                &facts.sets.refused,
                "a failed event says that its user was refused (failed.skip), and the user is in \
                Redis: remove the user there, or the event",
            ),
            (
                &facts.sets.unstorable,
                "it is in Redis, and the column of users cannot hold it",
            ),
            (
                &facts.sets.strange,
                "it is in Redis, in another form than users.form and users.member say: which user \
                it means, and whether that user has a row, cannot be told",
            ),
        ] {
            for user in users {
                self.found(Kind::Unissued, user, why, None);
            }
        }
    }

    /// Plans to add to Redis the users who have a row and are not members.
    fn users_not_in_redis(&mut self) {
        let facts = self.facts;
        let surplus: HashSet<&String> = facts.surplus.iter().collect();
        let number = facts.sets.missing.len();
        if facts.is_over && number as u64 > facts.in_both.max(1) {
            let why = format!(
                "{number} users have rows and are not in Redis, as if another sale used its key; \
                after the end nothing is written there"
            );
            self.found(Kind::MissingAdmission, "", &why, None);
            return;
        }
        let mut has_row = "it has a row, and is not in Redis".to_owned();
        if let Some(column) = &facts.unselected {
            has_row = format!("{has_row}; {column} of its row is not in rows.where");
        }
        for user in &facts.sets.missing {
            let (add, why) = if user.is_empty() {
                (None, "its row names no user".to_owned())
            } else if facts.is_over {
                let why = format!("{has_row}; after the end nothing is written there");
                (None, why)
            } else if surplus.contains(user) || facts.unnamed_surplus > 0 {
                let why = format!(
                    "{has_row}; its row may be beyond the quantity, and was never promised then"
                );
                (None, why)
            } else if facts.are_respelled {
                let why = format!(
                    "{has_row}; most users are spelled otherwise in Redis than in their rows \
                    (case, hyphens): add it with your program"
                );
                (None, why)
            } else {
                (Some(Repair::Add(user.clone())), has_row.clone())
            };
            self.found(Kind::MissingAdmission, user, &why, add);
        }
    }

    /// Reports users with several rows, and rows beyond the quantity. Rows are never deleted, so
    /// these findings have no repair.
    fn rows(&mut self) {
        for user in &self.facts.sets.twice {
            self.found(Kind::DuplicateRow, user, "it has several rows", None);
        }
        let unnamed = self.facts.unnamed_surplus;
        if unnamed > 0 {
            let why = format!(
                "{unnamed} rows are beyond the quantity; to see which came last, write rows.order"
            );
            self.found(Kind::OverIssued, "", &why, None);
        }
        for user in &self.facts.surplus {
            let why = "its row is one of the last, beyond the quantity";
            self.found(Kind::OverIssued, user, why, None);
        }
    }

    /// Reports a column of the stock row that contradicts the rows.
    fn stock(&mut self) {
        let Some(StockColumn { says, due }) = self.facts.stock.filter(|it| it.says != it.due)
        else {
            return;
        };
        let why =
            format!("the column of the stock row says {says}, and {due} is right by the rows");
        if self.facts.is_selling {
            let why = format!("{why}; it is being sold");
            self.waits(Kind::CountMismatch, "", &why);
        } else {
            let why = format!("{why}; a person corrects it with one UPDATE");
            self.found(Kind::CountMismatch, "", &why, None);
        }
    }

    /// Doubts the addition of a user whose row may be of the day before, who may be a member in
    /// another form, or whose coupon may be one that was taken back. Doubts the move of a counter if
    /// it is unclear whether some members count.
    fn doubt_unclear_users(&mut self) {
        let facts = self.facts;
        let is_strange = !facts.sets.strange.is_empty();
        for it in &mut self.found {
            let doubt = match &it.repair {
                Some(Repair::Add(user)) if facts.dated_late.contains(user) => Doubt::DayBefore,
                Some(Repair::Add(_)) if is_strange => Doubt::OtherForm,
                Some(Repair::Add(_)) if facts.unselected.is_some() => Doubt::TakenBack,
                Some(Repair::MoveCount(_)) if !facts.sets.taken_back.is_empty() => Doubt::TakenBack,
                Some(Repair::MoveCount(_)) if is_strange || !facts.sets.unstorable.is_empty() => {
                    Doubt::OtherForm
                }
                _ => continue,
            };
            if it.doubt.is_none() {
                it.doubts(doubt);
            }
        }
    }

    /// If no user is both a member and has a row, the file is probably wrong, or the key was lost;
    /// if few users are, another sale may use the key.
    fn doubt_few_in_both(&mut self) {
        let facts = self.facts;
        if !facts.is_disjoint {
            let are_most = |users: usize| users as u64 > facts.in_both;
            let are_others = are_most(facts.sets.unissued.len());
            let are_most_missing = are_most(facts.sets.missing.len());
            for it in self.found.iter_mut().filter(|_| are_most_missing) {
                match it.repair {
                    Some(Repair::Add(_)) => it.doubts(Doubt::MostMissing),
                    Some(Repair::Insert(_, None)) if are_others => it.doubts(Doubt::MostMissing),
                    _ => {}
                }
            }
            return;
        }
        let is_gone = facts.now.size == Some(0);
        let doubt = if is_gone {
            Doubt::UsersGone
        } else {
            Doubt::Disjoint
        };
        for it in self.found.iter_mut().filter(|it| it.compares_stores()) {
            it.doubts(doubt);
            if let Some(text) = &facts.member {
                let detail = &it.finding.detail;
                it.finding.detail = format!("{detail}; try users.member = {text:?}");
            }
        }
    }

    /// If the repair of a user needs a confirmation, so does the move of a counter that counts this
    /// user.
    fn doubt_counter_of_doubted(&mut self) {
        let counts_promises = self.taken() > self.facts.now.rows;
        let users = self.found.iter().filter(|it: &&Judged| match it.repair {
            Some(Repair::Add(_)) => true,
            Some(Repair::Insert(..)) => counts_promises,
            _ => false,
        });
        let Some(gravest) = users.filter_map(|it| it.doubt).min() else {
            return;
        };
        for it in &mut self.found {
            if matches!(it.repair, Some(Repair::MoveCount(_))) && it.doubt.is_none() {
                it.doubts(gravest);
            }
        }
    }

    /// Adds a difference, and returns it.
    fn found(&mut self, kind: Kind, user: &str, why: &str, repair: Option<Repair>) -> &mut Judged {
        let action = match &repair {
            None => ActionKind::Report,
            Some(Repair::Insert(..)) => ActionKind::Issue,
            Some(Repair::Close(_)) => ActionKind::Resolve,
            Some(Repair::Add(_)) => ActionKind::AddUser,
            Some(Repair::MoveCount(_)) => ActionKind::SetCounter,
        };
        let mut finding = Finding::new(kind, action, Outcome::Skipped, why);
        finding.needs_person = true;
        finding.user_id = Some(user.to_owned()).filter(|user| !user.is_empty());
        self.found.push_mut(Judged {
            finding,
            repair,
            doubt: None,
            counts_inserts: false,
        })
    }

    /// Leaves a difference to a later pass.
    fn waits(&mut self, kind: Kind, user: &str, why: &str) {
        self.found(kind, user, why, None).finding.needs_person = false;
    }

    /// Returns the number of members who are promised a coupon; `None` if no key names them.
    fn admitted(&self) -> Option<u64> {
        self.promised(self.facts.now)
    }

    /// The same for the numbers of either look.
    fn promised(&self, numbers: Numbers) -> Option<u64> {
        let others = self.facts.sets.refused.len() + self.facts.sets.taken_back.len();
        let members = numbers.admitted(self.facts.means)?;
        Some(members.saturating_sub(others as u64))
    }

    /// Plans a row for a user if there is room; otherwise reports why not.
    fn insert(&mut self, kind: Kind, user: &str, why: &str, event: Option<Vec<Value>>) {
        let facts = self.facts;
        let are_too_many = self.admitted() > Some(facts.quantity);
        if user.is_empty() {
            self.found(kind, user, "it names no user", None);
        } else if facts.is_selling && are_too_many {
            // A row must not take the coupon of a user whose claim is still on its way.
            let why = "more were promised a coupon than there are coupons; it is being sold";
            self.waits(kind, user, why);
        } else if self.room > 0 {
            self.room -= 1;
            let insert = Repair::Insert(user.to_owned(), event);
            let judged = self.found(kind, user, why, Some(insert));
            if are_too_many && !facts.is_ordered && kind == Kind::Unissued {
                judged.doubts(Doubt::Unordered);
            }
            // The message of a failed event has left the topic, so it cannot write a second row.
            if facts.may_double && kind == Kind::Unissued {
                judged.doubts(Doubt::MayDouble);
            }
            if facts.dated_late.contains(user) {
                judged.doubts(Doubt::NextDay);
            }
            if facts.was_added(user) {
                judged.doubts(Doubt::AddedByUs);
            }
        } else {
            self.all_are_given_out(kind, user, why);
        }
    }

    /// Reports a user for whom no coupon is left, perhaps because another user has a second row.
    fn all_are_given_out(&mut self, kind: Kind, user: &str, why: &str) {
        let kind = match kind {
            Kind::Unissued => Kind::OverAdmitted,
            kind => kind,
        };
        let all = format!("{why}, and all are given out");
        if kind != Kind::OverAdmitted || self.second_rows == 0 {
            let facts = self.facts;
            let judged = self.found(kind, user, &all, None);
            if kind == Kind::OverAdmitted && facts.was_added(user) {
                judged.doubts(Doubt::AddedByUs);
            }
            return;
        }
        self.second_rows -= 1;
        let why = format!(
            "{all}, one of them to a user who has several rows: delete the second row, and the \
             next pass gives it"
        );
        self.found(kind, user, &why, None).finding.cause = Cause::SecondRow;
    }

    fn failed_event(&mut self, event: &FailedEvent, is_first: bool) {
        let kind = Kind::FailedClaim;
        let user = event.user.as_str();
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

    /// The number of coupons given out, including those that the repairs of this pass give out.
    fn taken(&self) -> u64 {
        let rows = self.facts.quantity.saturating_sub(self.room);
        rows.max(self.taken_before())
    }

    /// The number of coupons given out even if no row of this pass is inserted.
    fn taken_before(&self) -> u64 {
        let facts = self.facts;
        let missing = facts.sets.missing.len() as u64;
        let members = self.admitted().map_or(0, |size| size + missing);
        members.max(facts.now.rows)
    }

    /// Reports a sale key that contradicts the numbers. Before the first coupon is given out, a
    /// missing key is no contradiction: the sale may not have begun.
    fn sale(&mut self) {
        let facts = self.facts;
        let Some(is_on) = facts.sale.filter(|_| !facts.is_over) else {
            return;
        };
        let taken = self.taken();
        let left = facts.quantity.saturating_sub(taken);
        let (kind, why) = if is_on && left == 0 {
            let why = "the key of the sale says that something is left, and all are given out";
            (Kind::CountMismatch, why.to_owned())
        } else if !is_on && left > 0 && taken > 0 {
            let why = format!(
                "the key of the sale says that nothing is left, and {left} are: open it again, \
                unless somebody stopped the sale"
            );
            (Kind::Unfilled, why)
        } else {
            return;
        };
        if facts.is_selling {
            self.waits(kind, "", &format!("{why}; it is being sold"));
        } else {
            self.found(kind, "", &why, None);
        }
    }

    /// Returns the number of coupons that the counter should count. During a sale, that is what the
    /// first look saw: whichever store their system writes first, by the second look it has counted
    /// that.
    fn to_be_counted(&self) -> i64 {
        let facts = self.facts;
        let taken = self.taken();
        if !facts.is_selling {
            return taken.cast_signed();
        }
        let admitted = self.promised(facts.before).unwrap_or_default();
        admitted.max(facts.before.rows).min(taken).cast_signed()
    }

    fn counter(&mut self) {
        let facts = self.facts;
        let Some(means) = facts.count_means else {
            return;
        };
        let counter = Counter {
            means,
            value: facts.now.count,
            quantity: facts.quantity.cast_signed(),
            given: self.to_be_counted(),
            is_selling: facts.is_selling,
            is_over: facts.is_over,
        };
        // A running sale hides a counter that is too high, or too low by a few.
        let at_rest = Counter {
            given: self.taken().cast_signed(),
            is_selling: false,
            ..counter
        };
        // It counts, but nothing shows what: the file may name other rows or another counter.
        let counts_nothing_known = self.taken() == 0 && counter.counted() > Some(0);
        let (kind, doubt) = match counter.state() {
            CounterState::Right | CounterState::Expired => {
                self.counts_unclear |= counts_nothing_known || at_rest.state() != counter.state();
                return;
            }
            CounterState::Gone => (Kind::CountMismatch, Some(Doubt::CounterGone)),
            CounterState::Unfilled => (Kind::Unfilled, self.doubt_of_high_count(counter)),
            CounterState::Ahead => (Kind::CountMismatch, self.doubt_of_high_count(counter)),
            CounterState::Behind(by) => (Kind::CountMismatch, self.doubt_of_low_count(counter, by)),
        };
        let mut why = counter.says();
        if facts.leaves_out_rows {
            why = format!(
                "{why}; rows without a user, or with another value in a column of rows.where, do \
                not count as given out"
            );
        }
        self.counter_differs(counter, kind, &why, doubt);
    }

    /// Plans to move a counter that differs, or reports why not.
    fn counter_differs(&mut self, counter: Counter, kind: Kind, why: &str, doubt: Option<Doubt>) {
        let facts = self.facts;
        let means = counter.means;
        if facts.is_over {
            let why = format!("{why}; after the end nothing is written there");
            self.found(kind, "", &why, None);
            return;
        }
        if !facts.is_selling && facts.before.count != facts.now.count {
            // A refused claim moves the counter, and may be about to give back what it took.
            let why = format!("{why}; it is moving, and is repaired when it rests");
            self.waits(kind, "", &why);
            return;
        }
        // Once that claim gives back what it took, a counter that was moved would show too much.
        if counter.holds_refused_claim() {
            let losers = if means.is_left() {
                "left tickets"
            } else {
                "tickets"
            };
            let why = format!(
                "{why}; a refused claim has not given back what it took: if it stays so, correct \
                the counter by hand if that claim died, or write means = \"{losers}\" if losers \
                run it past the end"
            );
            self.found(kind, "", &why, None);
            return;
        }
        let may_move = match (facts.is_selling, means.is_left()) {
            (false, _) => 0,
            (true, true) => -1,
            (true, false) => 1,
        };
        let repair = Repair::MoveCount(MoveCount {
            seen: counter.value,
            may_move,
            by: counter.distance(),
        });
        let counts_inserts = counter.given > self.taken_before().cast_signed();
        let judged = self.found(kind, "", why, Some(repair));
        judged.counts_inserts = counts_inserts;
        if let Some(doubt) = doubt {
            judged.doubts(doubt);
        }
    }

    /// Returns why it may be wrong to count `behind` more coupons as given out.
    fn doubt_of_low_count(&self, counter: Counter, behind: i64) -> Option<Doubt> {
        let facts = self.facts;
        let counted = counter.given - behind;
        // Somebody may add stock to the counter before or after they raise the quantity. If the
        // difference is small, their program has probably lost decrements, and would sell those
        // coupons a second time.
        let are_many = behind > FEW.max(counter.quantity / 20);
        if !counter.means.is_left() && self.seems_to_count_down(counted) {
            Some(Doubt::CountsDown)
        } else if counted < facts.now.rows.cast_signed() / 2 {
            Some(Doubt::Reset)
        } else if facts.unselected.is_some() {
            Some(Doubt::TakenBack)
        } else if counter.means.is_left() && (are_many || !facts.is_quantity_settled) {
            Some(Doubt::StockAdded)
        } else {
            None
        }
    }

    /// Returns why it may be wrong to count fewer coupons as given out, so that more are left.
    fn doubt_of_high_count(&self, counter: Counter) -> Option<Doubt> {
        let counts_all = counter.counted() >= Some(counter.quantity);
        if counter.means.is_left() && !self.facts.is_quantity_settled {
            Some(Doubt::StockAdded)
        } else if counts_all || self.admitted().is_none() || self.facts.leaves_out_rows {
            Some(Doubt::Opens)
        } else {
            None
        }
    }

    /// Whether a counter that is behind seems to show what is left: it is negative, or falls while
    /// rows come, or adds up to the quantity together with the rows, except for a few on their way.
    fn seems_to_count_down(&self, value: i64) -> bool {
        let facts = self.facts;
        let quantity = facts.quantity.cast_signed();
        let rows = facts.now.rows.cast_signed();
        let has_fallen = facts.before.count > Some(value) && facts.before.rows < facts.now.rows;
        let on_their_way = (quantity - value - rows).abs();
        value < 0 || has_fallen || value > 0 && on_their_way <= 2 + quantity / 50
    }
}

#[cfg(test)]
mod tests {
    use super::{Repair, judge};
    use crate::config::{CountMeans, UsersMean};
    use crate::facts::{Facts, Numbers, UserSets};
    use crate::keys::MoveCount;
    use firstcome_shared::report::Unproven;

    /// Returns the facts about ten coupons, of which the counter counts eight.
    fn facts() -> Facts {
        let numbers = Numbers {
            size: Some(5),
            count: Some(8),
            rows: 5,
        };
        Facts {
            quantity: 10,
            before: numbers,
            now: numbers,
            means: Some(UsersMean::Admitted),
            count_means: Some(CountMeans::Issued),
            ..Facts::default()
        }
    }

    fn missing(users: [&str; 3], is_cut: bool) -> UserSets {
        UserSets {
            missing: users.map(str::to_owned).into(),
            is_cut,
            ..UserSets::default()
        }
    }

    /// Looks that leave users out may leave out different ones, so that few users are in both.
    #[test]
    fn counter_is_not_lowered_if_a_look_could_not_name_all_users() {
        for (is_first_cut, is_second_cut, expected) in [
            (false, false, Some(6)),
            (true, false, None),
            (false, true, None),
            (true, true, None),
        ] {
            let first = missing(["a", "b", "c"], is_first_cut);
            let second = missing(["c", "d", "e"], is_second_cut);
            let sets = second.both(&first);
            let judged = judge(&Facts { sets, ..facts() });
            assert_eq!(judged.counts_unclear, expected.is_none());
            let moves = judged.found.iter().find_map(|it| match it.repair {
                Some(Repair::MoveCount(MoveCount { by, .. })) => Some(8 + by),
                _ => None,
            });
            assert_eq!(moves, expected, "{is_first_cut} {is_second_cut}");
        }
    }

    /// Either `where` selects no row of the campaign, or the key counts something else.
    #[test]
    fn campaign_without_rows_and_members_is_not_shown_to_be_right() {
        let numbers = |count, rows| Numbers {
            size: Some(0),
            count: Some(count),
            rows,
        };
        let nothing = Some(Unproven::NothingFound);
        for (count, rows, unproven, is_unclear) in [
            (0, 0, nothing, false),
            (8, 0, nothing, true),
            (8, 1, None, false),
        ] {
            let now = numbers(count, rows);
            let looks = Facts {
                before: now,
                now,
                means: Some(UsersMean::Applied),
                count_means: Some(CountMeans::Tickets),
                ..facts()
            };
            let judged = judge(&looks);
            assert!(judged.found.is_empty(), "{judged:?}");
            assert_eq!(judged.counts_unclear, is_unclear, "{count} {rows}");
            assert_eq!(looks.unproven(), unproven, "{count} {rows}");
        }
    }

    /// An alert about a counter must not end because a sale hides the difference.
    #[test]
    fn counter_is_unclear_while_a_sale_hides_what_it_would_be_at_rest() {
        let (tickets, issued) = (CountMeans::Tickets, CountMeans::Issued);
        for (means, count, rows_before, is_unclear) in [
            (issued, 5, 4, false),
            (issued, 6, 4, true),
            (issued, 4, 4, true),
            (tickets, 9, 4, false),
            (tickets, 10, 4, true),
            (tickets, 4, 4, true),
        ] {
            let mut selling = Facts {
                is_selling: true,
                count_means: Some(means),
                ..facts()
            };
            selling.now.count = Some(count);
            selling.before = Numbers {
                size: Some(rows_before),
                count: Some(count),
                rows: rows_before,
            };
            let judged = judge(&selling);
            assert!(judged.found.is_empty(), "{judged:?}");
            assert_eq!(judged.counts_unclear, is_unclear, "{means:?} {count}");
            assert_eq!(judged.is_clean(), !is_unclear, "{means:?} {count}");
            let resting = Facts {
                is_selling: false,
                ..selling
            };
            let judged = judge(&resting);
            assert_eq!(!judged.found.is_empty(), is_unclear, "{means:?} {count}");
            assert!(!judged.counts_unclear);
        }
    }
}
