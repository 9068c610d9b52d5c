//! Findings of a campaign, and its report.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use firstcome_shared::hash::hash64;
use firstcome_shared::report::wording::person;
use firstcome_shared::report::{
    AlertKind, Cause, DropReport, Examined, Finding, Judged, Kind, Kinds, Numbers, Outcome,
};

use crate::checks::CheckRow;
use crate::forms;
use crate::judge::{Comparison, Difference};
use crate::look::{Event, Look, NAMED, PromisedUser, Target};
use crate::memory::Memory;
use crate::repair::{LostUser, Repaired};
use crate::says;
use crate::sql::ColumnType;
use crate::unasked::Waits;
use crate::users::{Hasher, UserHash};

/// A look with what was found in it.
pub(crate) struct Looked<'t> {
    pub(crate) target: &'t Target<'t>,
    pub(crate) look: Look,
    pub(crate) check_rows: Vec<CheckRow>,
    pub(crate) compared: Comparison,
    /// Checks that could not be run.
    pub(crate) unchecked: Vec<String>,
    /// The numbers are those of the look before.
    pub(crate) is_at_rest: bool,
}

/// A finding, and the repair that would end it.
pub(crate) struct Found {
    pub(crate) finding: Finding,
    pub(crate) lost: Option<LostUser>,
    pub(crate) is_new: bool,
}

impl Found {
    pub(crate) fn report(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            finding: Finding::report(kind, detail),
            lost: None,
            is_new: false,
        }
    }

    /// The campaign cannot be compared, or a part of it.
    pub(crate) fn not_compared(why: impl Into<String>) -> Self {
        let mut found = Self::report(Kind::Stalled, why);
        found.finding.cause = Cause::NotCompared;
        found
    }

    /// A stage of the queue stands.
    pub(crate) fn stands(why: String) -> Self {
        let mut found = Self::report(Kind::Stalled, why);
        found.finding.cause = Cause::ConsumerStands;
        found
    }

    /// A row of a check, with what to do about it.
    pub(crate) fn of_check(row: &CheckRow, to_do: Option<&str>) -> Self {
        let number = row.check;
        let what = match &row.first {
            Some(first) => format!("a row with {}", person(first)),
            None => "more than 100 rows".to_owned(),
        };
        let mut found = Self::report(
            Kind::Check,
            match to_do {
                Some(to_do) => format!("{what}: {to_do}"),
                None => format!("check {number} returns {what}"),
            },
        );
        let identity = hash64(format!("{number}\n{:?}", row.first));
        found.finding.dead_letter = Some(identity.cast_signed());
        found
    }

    pub(crate) fn of_user(mut self, user: &str) -> Self {
        self.finding.user_id = Some(user.to_owned());
        self
    }

    pub(crate) fn hold(&mut self, waits: &Waits) {
        let detail = &mut self.finding.detail;
        *detail = format!("{detail}; it waits for a confirmation: {waits}");
    }

    pub(crate) fn ended(&mut self, repaired: Repaired) {
        let finding = &mut self.finding;
        let (result, why) = match repaired {
            Repaired::Written => (Outcome::Applied, None),
            Repaired::Skipped(why) => (Outcome::Skipped, Some(why)),
            Repaired::Failed(why) => (Outcome::Failed, Some(why)),
            Repaired::Unknown => {
                let why = "the answer to COMMIT was lost: the next look tells";
                (Outcome::Skipped, Some(why.to_owned()))
            }
        };
        finding.result = result;
        if let Some(why) = why {
            finding.detail = format!("{}; {why}", finding.detail);
        }
    }
}

/// Says of each repair why it waits.
pub(crate) fn hold(found: &mut [Found], why: impl Fn(&Found) -> Option<Waits>) {
    for found in found.iter_mut().filter(|it| it.lost.is_some()) {
        if let Some(waits) = why(found) {
            found.hold(&waits);
        }
    }
}

/// A promised user without a row. Without a promise that can be written, only a person can help.
pub(crate) fn unissued(
    looked: &Looked<'_>,
    user: &PromisedUser,
    event: Option<&Event>,
    is_new: bool,
) -> Found {
    let is_integer = looked.look.rows.user_type == ColumnType::Integer;
    if is_integer && forms::number(&user.name).is_none() {
        return Found::report(Kind::Unissued, says::NO_NUMBER).of_user(&user.name);
    }
    let (kind, detail) = match event {
        None => (Kind::Unissued, says::UNISSUED),
        Some(_) => (Kind::FailedClaim, says::EVENT_OF_LOST),
    };
    let mut found = Found::report(kind, detail).of_user(&user.name);
    found.finding.dead_letter = event.and_then(|event| event.id.parse().ok());
    found.is_new = is_new;
    if !looked.target.block.issue.is_empty() {
        let is_closed = looked.target.block.resolve.is_some();
        found.lost = Some(LostUser {
            user: user.clone(),
            event: event.filter(|_| is_closed).map(|event| event.id.clone()),
        });
    }
    found
}

/// An open event that no repair closes: its user has a row, or is promised nothing.
pub(crate) fn failed_claim(looked: &Looked<'_>, event: &Event, hasher: &Hasher) -> Option<Found> {
    let user = event.user.as_ref().map(|user| hasher.user(user));
    let has_row = user.is_some_and(|user| looked.look.rows.has(user));
    let promised = looked.look.promised.as_ref();
    let is_promised = user.is_some_and(|user| {
        promised.is_some_and(|promised| promised.users.binary_search(&user).is_ok())
    });
    let detail = match (has_row, is_promised) {
        // The finding of the user names it.
        (false, true) if !looked.compared.is_over_promised() => return None,
        (true, _) => says::EVENT_WITH_ROW,
        (false, _) => says::EVENT_WITHOUT_PROMISE,
    };
    let mut found = Found::report(Kind::FailedClaim, detail);
    found.finding.user_id.clone_from(&event.user);
    found.finding.dead_letter = event.id.parse().ok();
    Some(found)
}

/// The open events of a look.
pub(crate) struct Events<'e> {
    by_id: HashMap<UserHash, &'e Event>,
    by_user: HashMap<UserHash, &'e Event>,
}

impl<'e> Events<'e> {
    pub(crate) fn new(events: &'e [Event], hasher: &Hasher) -> Self {
        let by_id = events.iter().map(|event| (hasher.user(&event.id), event));
        let by_user = events.iter().filter_map(|event| {
            let user = event.user.as_ref()?;
            Some((hasher.user(user), event))
        });
        Self {
            by_id: by_id.collect(),
            by_user: by_user.collect(),
        }
    }

    pub(crate) fn by_id(&self, id: UserHash) -> Option<&'e Event> {
        self.by_id.get(&id).copied()
    }

    pub(crate) fn of_user(&self, user: UserHash) -> Option<&'e Event> {
        self.by_user.get(&user).copied()
    }
}

/// Names at most 10,000 findings of a kind, and counts the others.
pub(crate) fn limit(found: Vec<Found>) -> Vec<Found> {
    let mut numbers: BTreeMap<Kind, usize> = BTreeMap::new();
    let mut kept = Vec::with_capacity(found.len().min(NAMED));
    for found in found {
        let number = numbers.entry(found.finding.kind).or_default();
        *number += 1;
        if *number <= NAMED {
            kept.push(found);
        }
    }
    for (kind, number) in numbers {
        if number > NAMED {
            let more = (number - NAMED) as u64;
            let mut found = Found::report(kind, format!("{more} more, which are not listed"));
            found.finding.cause = Cause::MoreLeft(more);
            kept.push(found);
        }
    }
    kept
}

/// Returns the kinds that the look would have found. A difference that is too young to be named
/// may be one that an earlier process has named.
fn judged(looked: &Looked<'_>, memory: &Memory, is_stalled: bool) -> Judged {
    let stalled = AlertKind::Left(Kind::Stalled);
    if is_stalled {
        return Judged::of(Kinds::only([stalled, AlertKind::TheirsQueue]));
    }
    if looked.compared.is_apart() {
        return Judged::of(Kinds::only([stalled, AlertKind::Left(Kind::Check)]));
    }
    let lost = [
        AlertKind::Left(Kind::Unissued),
        AlertKind::Left(Kind::FailedClaim),
        AlertKind::Braked,
    ];
    let mut open = BTreeSet::new();
    for difference in memory.young(looked.look.began) {
        match difference {
            Difference::Unissued(_) | Difference::FailedClaim(_) => open.extend(lost),
            other => drop(open.insert(AlertKind::Left(kind(other)))),
        }
    }
    if looked.compared.is_over_promised() {
        open.extend(lost);
    }
    if !looked.unchecked.is_empty() {
        open.insert(AlertKind::Left(Kind::Check));
    }
    Judged::of(Kinds::all_but(open))
}

/// The kind under which a difference is found.
fn kind(difference: Difference) -> Kind {
    match difference {
        Difference::Unissued(_) => Kind::Unissued,
        Difference::MissingAdmission(_) => Kind::MissingAdmission,
        Difference::DuplicateRow(_) => Kind::DuplicateRow,
        Difference::FailedClaim(_) => Kind::FailedClaim,
        Difference::OverPromised => Kind::OverAdmitted,
        Difference::OverIssued => Kind::OverIssued,
        Difference::CountMismatch(_) => Kind::CountMismatch,
        Difference::Check(_) => Kind::Check,
        Difference::Apart | Difference::KeyGone => Kind::Stalled,
    }
}

/// The report of a look.
pub(crate) fn report(
    looked: &Looked<'_>,
    memory: &Memory,
    found: Vec<Found>,
    written: u64,
) -> DropReport {
    let is_stalled = found
        .iter()
        .any(|it| it.finding.cause == Cause::ConsumerStands);
    let Looked { target, look, .. } = looked;
    let promised = look.promised.as_ref().map_or(0, |it| it.users.len() as u64);
    let young = memory.young(look.began).count() as u64;
    let before = Numbers {
        count: look.count.unwrap_or_default(),
        users: promised,
        rows: look.rows.number,
        failed_claims: look.events.len() as u64,
        in_flight: young,
        ..Numbers::default()
    };
    let closed = found
        .iter()
        .filter(|it| it.finding.result == Outcome::Applied && it.finding.kind == Kind::FailedClaim);
    let after = Numbers {
        rows: before.rows + written,
        failed_claims: before.failed_claims - closed.count() as u64,
        ..before
    };
    let is_repaired = found.iter().all(|it| it.finding.result == Outcome::Applied);
    let is_nothing = promised == 0 && look.rows.number == 0;
    let quantity = target.quantity.unwrap_or(u64::from(u32::MAX));
    let mut report = blank(target);
    report.exact = is_repaired && young == 0 && !is_nothing && look.rows.coupons <= quantity;
    report.judged = judged(looked, memory, is_stalled);
    report.before = before;
    report.after = after;
    report.examined = Examined {
        users: before.users,
        rows: before.rows,
        failed_claims: before.failed_claims,
    };
    report.findings = found.into_iter().map(|it| it.finding).collect();
    for finding in &mut report.findings {
        finding.coupon_id = Some(report.coupon_id);
        finding.drop_id = Some(report.drop_id);
    }
    report
}

/// A report of a campaign that was not compared.
pub(crate) fn blank(target: &Target<'_>) -> DropReport {
    let quantity = target.quantity.unwrap_or(u64::from(u32::MAX));
    let quantity = u32::try_from(quantity).unwrap_or(u32::MAX);
    DropReport {
        coupon_name: target.name.clone(),
        ..DropReport::begun(target.block.coupon_id(), target.drop_id, quantity)
    }
}
