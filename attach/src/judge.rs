//! What differs between promises and rows. Pure.
//!
//! owed = the coupons that rows count + the promised users without any row. So a claim on its way
//! is counted once, wherever it is, and rows can exceed the quantity by our doing only if owed
//! already does.

use crate::file::Counts;
use crate::look::{Look, Target};
use crate::users::{UserHash, repeated, without};

/// One difference, as looks recognise it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Difference {
    /// A promised user without any row.
    Unissued(UserHash),
    /// A user with a row that counts, and without a promise.
    MissingAdmission(UserHash),
    /// A user with two rows that count.
    DuplicateRow(UserHash),
    /// An open event, by the hash of its id.
    FailedClaim(UserHash),
    OverPromised,
    OverIssued,
    /// The counter, while all numbers rest.
    CountMismatch(Numbers),
    /// A row of a check, by the hash of its first column.
    Check(UserHash),
    /// Names of promises and rows do not meet.
    Apart,
    /// The key is empty, and rows exist.
    KeyGone,
}

/// The numbers that the counter is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Numbers {
    /// `None`: missing.
    pub counter: Option<i64>,
    /// Coupons that the counter says were given out.
    pub given: u64,
    pub owed: u64,
    pub promised: u64,
    pub rows: u64,
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
    /// `None`: no counter is described, or it cannot be compared.
    pub numbers: Option<Numbers>,
    pub differences: Vec<Difference>,
    /// Two users with rows of theirs, for the proof that a second row is refused.
    pub with_rows: Vec<UserHash>,
}

/// Users whose second row the database has to refuse, so that it counts as proof.
const PROOFS: usize = 3;

/// Compares what a look saw.
pub fn compare(
    target: &Target<'_>,
    look: &Look,
    events: impl IntoIterator<Item = UserHash>,
    check_rows: impl IntoIterator<Item = UserHash>,
) -> Comparison {
    let rows = &look.rows;
    let mut found = Comparison {
        owed: rows.coupons,
        ..Comparison::default()
    };
    if let Some(promised) = &look.promised {
        let users = &promised.users;
        let without_counting_row = without(users, &rows.counted);
        let lacking = without(&without_counting_row, &rows.uncounted);
        let strangers = without(&rows.counted, users);
        let twice = repeated(&rows.counted);
        found.owed += lacking.len() as u64;
        found.in_both = (users.len() - lacking.len()) as u64;
        found.lacking = lacking.len() as u64;
        found.strangers = strangers.len() as u64;
        found.twice = twice.len() as u64;
        found.with_rows = with_rows(users, &rows.counted);
        if users.is_empty() && rows.coupons > 0 {
            found.differences.push(Difference::KeyGone);
        } else if found.in_both < found.lacking && found.in_both < found.strangers {
            found.differences.push(Difference::Apart);
        } else {
            let each = |users: Vec<UserHash>, difference: fn(UserHash) -> Difference| {
                users.into_iter().map(difference)
            };
            found
                .differences
                .extend(each(lacking, Difference::Unissued));
            found
                .differences
                .extend(each(strangers, Difference::MissingAdmission));
            found
                .differences
                .extend(each(twice, Difference::DuplicateRow));
        }
    }
    if found.is_apart() {
        found
            .differences
            .extend(check_rows.into_iter().map(Difference::Check));
        return found;
    }
    found
        .differences
        .extend(events.into_iter().map(Difference::FailedClaim));
    found
        .differences
        .extend(check_rows.into_iter().map(Difference::Check));
    if target
        .quantity
        .is_some_and(|quantity| found.owed > quantity)
    {
        found.differences.push(Difference::OverPromised);
    }
    if target
        .quantity
        .is_some_and(|quantity| rows.coupons > quantity)
    {
        found.differences.push(Difference::OverIssued);
    }
    found.numbers = numbers(target, look, found.owed);
    if let Some(numbers) = found.numbers
        && numbers.given != numbers.owed
    {
        found.differences.push(Difference::CountMismatch(numbers));
    }
    found
}

impl Comparison {
    /// Whether the names do not meet, or a key is gone, so that no user is named.
    pub fn is_apart(&self) -> bool {
        let apart = [Difference::Apart, Difference::KeyGone];
        self.differences.iter().any(|it| apart.contains(it))
    }

    pub fn is_over_promised(&self) -> bool {
        self.differences.contains(&Difference::OverPromised)
    }
}

/// Clamps the counter and what is owed to the quantity: whoever was refused may have left a counter
/// past its end.
fn numbers(target: &Target<'_>, look: &Look, owed: u64) -> Option<Numbers> {
    let count = target.block.count.as_ref()?;
    let most = target.quantity.unwrap_or(u64::MAX);
    let clamped = u64::try_from(look.count.unwrap_or(0))
        .unwrap_or(0)
        .min(most);
    let given = match (count.counts, look.count, target.quantity) {
        (_, None, _) => 0,
        (Counts::Up, Some(_), _) => clamped,
        (Counts::Down, Some(_), Some(quantity)) => quantity - clamped,
        // Of an unlimited number, nothing is left over.
        (Counts::Down, Some(_), None) => return None,
    };
    Some(Numbers {
        counter: look.count,
        given,
        owed: owed.min(most),
        promised: look.promised.as_ref().map_or(0, |it| it.users.len() as u64),
        rows: look.rows.number,
    })
}

fn with_rows(promised: &[UserHash], counted: &[UserHash]) -> Vec<UserHash> {
    let both = promised
        .iter()
        .filter(|user| counted.binary_search(user).is_ok());
    both.take(PROOFS).copied().collect()
}
