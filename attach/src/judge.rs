//! What differs between promises and rows. Pure.
//!
//! owed = the coupons that rows count + the promised users without any row. So a claim on its way
//! is counted once, wherever it is, and rows can exceed the quantity by our doing only if owed
//! already does.

use firstcome_shared::report::Kind;

use crate::file::Counts;
use crate::look::{Look, Target};
use crate::users::{Hasher, UserHash, has, repeated, without};

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
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Comparison {
    pub owed: u64,
    /// Promised users who have a row.
    pub in_both: u64,
    pub lacking: u64,
    pub strangers: u64,
    pub twice: u64,
    /// The names do not meet, or the key is gone, so that no user is named.
    pub is_apart: bool,
    pub is_over_promised: bool,
    /// `None`: no counter is described, or it cannot be compared.
    pub numbers: Option<CounterNumbers>,
    /// Sorted.
    pub differences: Vec<Difference>,
}

/// Compares what a look saw.
pub fn compare(target: &Target<'_>, look: &Look, hasher: &Hasher) -> Comparison {
    let mut found = in_any_order(target, look, hasher);
    found.differences.sort_unstable();
    found
}

fn in_any_order(target: &Target<'_>, look: &Look, hasher: &Hasher) -> Comparison {
    let rows = &look.rows;
    let most = target.quantity.unwrap_or(u64::MAX);
    let mut found = Comparison {
        owed: rows.coupons,
        ..Comparison::default()
    };
    if let Some(promised) = &look.promised {
        found.compare_users(&promised.users, look, most);
    }
    let is_told = |user: &String| {
        let lacking = Difference::Unissued(hasher.user(user));
        has(&found.differences, lacking)
    };
    let untold: Vec<_> = look
        .events
        .iter()
        .filter(|event| !event.user.as_ref().is_some_and(is_told))
        .map(|event| hasher.user(&event.id))
        .collect();
    let checked = look.check_rows.iter();
    found.add(checked.map(|row| row.identity), Difference::Check);
    if found.is_apart {
        return found;
    }
    found.add(untold, Difference::FailedClaim);
    found.numbers = numbers(target, look, found.owed);
    let wholes = [
        found.is_over_promised.then_some(Difference::OverPromised),
        (rows.coupons > most).then_some(Difference::OverIssued),
        found
            .numbers
            .filter(|numbers| numbers.given != numbers.owed)
            .map(|numbers| numbers.difference(hasher)),
    ];
    found.differences.extend(wholes.into_iter().flatten());
    found
}

impl Comparison {
    fn add(
        &mut self,
        users: impl IntoIterator<Item = UserHash>,
        difference: fn(UserHash) -> Difference,
    ) {
        self.differences.extend(users.into_iter().map(difference));
    }

    fn compare_users(&mut self, promised: &[UserHash], look: &Look, most: u64) {
        let rows = &look.rows;
        let lacking = without(&without(promised, &rows.counted), &rows.uncounted);
        let strangers = without(&rows.counted, promised);
        let twice = repeated(&rows.counted);
        self.owed += lacking.len() as u64;
        self.in_both = (promised.len() - lacking.len()) as u64;
        self.lacking = lacking.len() as u64;
        self.strangers = strangers.len() as u64;
        self.twice = twice.len() as u64;
        self.is_over_promised = self.owed > most;
        let is_gone = promised.is_empty() && rows.coupons > 0;
        let is_apart = self.in_both < self.lacking.min(self.strangers);
        self.is_apart = is_gone || is_apart;
        if is_gone {
            self.differences.push(Difference::KeyGone);
        } else if is_apart {
            self.differences.push(Difference::Apart);
        } else {
            if !self.is_over_promised {
                self.add(lacking, Difference::Unissued);
            }
            self.add(strangers, Difference::MissingAdmission);
            self.add(twice, Difference::DuplicateRow);
        }
    }
}

/// Clamps the counter and what is owed to the quantity: whoever was refused may have left a counter
/// past its end.
fn numbers(target: &Target<'_>, look: &Look, owed: u64) -> Option<CounterNumbers> {
    let count = target.block.count.as_ref()?;
    let most = target.quantity.unwrap_or(u64::MAX);
    let counter = look.count.unwrap_or_default();
    let clamped = u64::try_from(counter).unwrap_or_default().min(most);
    let given = match (count.counts, look.count) {
        (_, None) => 0,
        (Counts::Up, Some(_)) => clamped,
        // Of an unlimited number, nothing is left over.
        (Counts::Down, Some(_)) => target.quantity? - clamped,
    };
    Some(CounterNumbers {
        counter: look.count,
        given,
        owed: owed.min(most),
        promised: look.promised.as_ref().map_or(0, |it| it.users.len() as u64),
        rows: look.rows.number,
    })
}
