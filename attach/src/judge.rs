//! What differs between promises and rows. Pure.
//!
//! owed = the coupons that rows count + the promised users without any row. So a claim on its way
//! is counted once, wherever it is, and rows can exceed the quantity by our doing only if owed
//! already does.

use firstcome_shared::report::Kind;

use crate::file::Counts;
use crate::look::{Look, Target};
use crate::users::{Hasher, UserHash, has, repeated, sorted, without};

/// One difference, as looks recognise it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// A promised user without any row, unless more is owed than the quantity.
    Unissued(UserHash),
    /// A user with a row that counts, and without a promise.
    MissingAdmission(UserHash),
    /// A user with two rows that count.
    DuplicateRow(UserHash),
    /// An open event, by the hash of its id, unless the difference of its user tells it.
    FailedClaim(UserHash),
    OverPromised,
    OverIssued,
    /// The counter, by the hash of all numbers, so that it is another one while they move.
    CountMismatch(UserHash),
    /// A row of a check, by the hash of its first column.
    Check(UserHash),
    /// Names of promises and rows do not meet.
    Apart,
    /// The key is empty, and rows exist.
    KeyGone,
}

/// The numbers that the counter is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CounterNumbers {
    /// `None`: missing.
    pub counter: Option<i64>,
    /// Coupons that the counter says were given out.
    pub given: u64,
    pub owed: u64,
    pub promised: u64,
    pub rows: u64,
}

impl Difference {
    /// The kind of its finding.
    pub fn kind(self) -> Kind {
        match self {
            Self::Unissued(_) => Kind::Unissued,
            Self::MissingAdmission(_) => Kind::MissingAdmission,
            Self::DuplicateRow(_) => Kind::DuplicateRow,
            Self::FailedClaim(_) => Kind::FailedClaim,
            Self::OverPromised => Kind::OverAdmitted,
            Self::OverIssued => Kind::OverIssued,
            Self::CountMismatch(_) => Kind::CountMismatch,
            Self::Check(_) => Kind::Check,
            Self::Apart | Self::KeyGone => Kind::Stalled,
        }
    }
}

impl CounterNumbers {
    pub fn difference(&self, hasher: &Hasher) -> Difference {
        Difference::CountMismatch(hasher.user(&format!("{self:?}")))
    }
}

/// A look, compared.
#[derive(Debug)]
pub struct Comparison<'t> {
    pub target: &'t Target<'t>,
    pub look: Look,
    pub owed: u64,
    /// Promised users who have a row.
    pub in_both: u64,
    pub lacking: u64,
    pub strangers: u64,
    pub twice: u64,
    /// `None`: no counter is described, or it cannot be compared.
    pub numbers: Option<CounterNumbers>,
    /// Sorted.
    pub differences: Vec<Difference>,
}

/// Compares what a look saw. If the names do not meet, or the key is gone, no user is named.
pub fn compare<'t>(target: &'t Target<'t>, look: Look, hasher: &Hasher) -> Comparison<'t> {
    let rows = &look.rows;
    let promised = &look.promised.users;
    let most = target.quantity.unwrap_or(u64::MAX);
    let is_described = target.block.promised.is_some();
    let lacking = without(&without(promised, &rows.counted), &rows.uncounted);
    let [strangers, twice] = if is_described {
        [without(&rows.counted, promised), repeated(&rows.counted)]
    } else {
        Default::default()
    };
    let owed = rows.coupons + lacking.len() as u64;
    let in_both = promised.len() - lacking.len();
    let numbers = numbers(target, &look, owed);
    let is_gone = is_described && promised.is_empty() && rows.coupons > 0;
    let is_over_promised = is_described && owed > most;
    let mut differences = Vec::new();
    let mut add = |users: &[UserHash], difference: fn(UserHash) -> Difference| {
        differences.extend(users.iter().copied().map(difference));
    };
    let checked: Vec<_> = look.check_rows.iter().map(|row| row.identity).collect();
    add(&checked, Difference::Check);
    if is_gone {
        differences.push(Difference::KeyGone);
    } else if in_both < lacking.len().min(strangers.len()) {
        differences.push(Difference::Apart);
    } else {
        let named = if is_over_promised { &[] } else { &lacking[..] };
        let is_told = |user: &String| has(named, hasher.user(user));
        let events = look.events.iter();
        let untold: Vec<_> = events
            .filter(|event| !event.user.as_ref().is_some_and(is_told))
            .map(|event| hasher.user(&event.id))
            .collect();
        add(named, Difference::Unissued);
        add(&strangers, Difference::MissingAdmission);
        add(&twice, Difference::DuplicateRow);
        add(&untold, Difference::FailedClaim);
        let wholes = [
            is_over_promised.then_some(Difference::OverPromised),
            (rows.coupons > most).then_some(Difference::OverIssued),
            numbers
                .filter(|numbers| numbers.given != numbers.owed)
                .map(|numbers| numbers.difference(hasher)),
        ];
        differences.extend(wholes.into_iter().flatten());
    }
    Comparison {
        target,
        owed,
        in_both: in_both as u64,
        lacking: lacking.len() as u64,
        strangers: strangers.len() as u64,
        twice: twice.len() as u64,
        numbers,
        differences: sorted(differences),
        look,
    }
}

/// Clamps the counter and what is owed to the quantity: whoever was refused may have left a counter
/// past its end. Of an unlimited number, a counter of what is left says nothing.
fn numbers(target: &Target<'_>, look: &Look, owed: u64) -> Option<CounterNumbers> {
    let count = target.block.count.as_ref()?;
    let most = match count.counts {
        Counts::Up => target.quantity.unwrap_or(u64::MAX),
        Counts::Down => target.quantity?,
    };
    let counter = look.count.unwrap_or_default();
    let clamped = u64::try_from(counter).unwrap_or_default().min(most);
    let given = match (count.counts, look.count) {
        (_, None) => 0,
        (Counts::Up, Some(_)) => clamped,
        (Counts::Down, Some(_)) => most - clamped,
    };
    Some(CounterNumbers {
        counter: look.count,
        given,
        owed: owed.min(most),
        promised: look.promised.users.len() as u64,
        rows: look.rows.number,
    })
}
