//! Decides how dead letters end.

use firstcome_shared::domain::{Slot, UserId};
use firstcome_shared::model::OwedUser;

use super::{Dirt, DueRow, Given, Judgement, Page};
use crate::report::Kind;

/// An open dead letter of the drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub id: i64,
    pub slot: Option<i64>,
    pub user: Option<UserId>,
    pub at_ms: Option<i64>,
    /// Why the claim cannot be of this drop, if only a message says that it is.
    pub fault: Option<&'static str>,
}

/// How a dead letter ends, or why it stays open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LetterEnd {
    /// The user has a row.
    Duplicate,
    /// The claim was given back or revoked.
    Revoked,
    /// Another user has the row of its slot, or now gets it: the user of the letter is owed a slot.
    Owed(OwedUser),
    /// The user's claim on another slot in Redis, or in another dead letter, becomes a row first.
    Waits,
    /// An operator has to decide.
    Left(&'static str),
}

impl LetterEnd {
    /// Returns the user who is owed a slot.
    pub(crate) fn owed(&self) -> Option<&OwedUser> {
        match self {
            Self::Owed(owed) => Some(owed),
            Self::Duplicate | Self::Revoked | Self::Waits | Self::Left(_) => None,
        }
    }

    /// Returns the resolution to store, or `None` if the letter stays open, and the reason.
    pub fn says(&self) -> (Option<&'static str>, &'static str) {
        match self {
            Self::Duplicate => (Some("duplicate"), "its user holds a row"),
            Self::Revoked => (Some("revoked"), "its claim was given back or revoked"),
            Self::Owed(_) => (
                Some("owed"),
                "another user has its slot; its user is first in line for the next one",
            ),
            Self::Waits => (None, "the claim that Redis has comes first"),
            Self::Left(why) => (None, why),
        }
    }
}

/// Decides what becomes of the dead letters of a page. At an open gate, a dead letter becomes a row
/// only if Redis has its user on its slot: a slot that looks vacant may be given to somebody else
/// at this moment. At a closed gate, dead letters get their slots before users whom only Redis
/// names.
pub(super) fn judge_letters(page: &Page<'_>, given: &mut Given, judged: &mut Judgement) {
    for letter in &page.mysql.letters {
        if page.again.open_letters.contains(&letter.id) {
            judge_letter(page, letter, given, judged);
        }
    }
}

fn judge_letter(page: &Page<'_>, letter: &Letter, given: &mut Given, judged: &mut Judgement) {
    let mut end = |end| judged.letters.push((letter.clone(), end));
    let Some(user) = &letter.user else {
        return end(LetterEnd::Left("it names no user"));
    };
    if page.again.revocations.voids(user, letter.at_ms) {
        return end(LetterEnd::Revoked);
    }
    if page
        .again
        .rows_of_users
        .get(user)
        .is_some_and(|rows| !rows.is_empty())
    {
        return end(LetterEnd::Duplicate);
    }
    let in_redis = page.of_users.get(user).copied();
    if in_redis.is_some() && in_redis != letter.slot {
        return end(LetterEnd::Waits);
    }
    if let (Some(fault), None) = (letter.fault, in_redis) {
        return end(LetterEnd::Left(fault));
    }
    let number = letter.slot.and_then(|slot| Slot::try_from(slot).ok());
    let Some(slot) = number.filter(|slot| (1..=page.again.quantity).contains(slot)) else {
        return end(LetterEnd::Left("the drop has no such slot"));
    };
    if given.users.contains(user) {
        return end(LetterEnd::Waits);
    }
    if page.rows_again.contains_key(&slot) || given.slots.contains(&slot) {
        return end(LetterEnd::Owed(OwedUser {
            user: user.clone(),
            slot: Some(slot.into()),
        }));
    }
    let agrees = in_redis.is_some() && page.on_slots[&i64::from(slot)].as_slice() == [user];
    if agrees || page.moment.is_closed {
        // Redis has the time of the admission. A letter that was inserted by hand has none.
        let held = page.held_again.get(user);
        let due = DueRow {
            slot,
            user: user.clone(),
            at_ms: letter.at_ms.or_else(|| held.and_then(|it| it.at_ms)),
            letter: Some(letter.id),
        };
        given.give(due, judged);
    } else {
        let detail = "a failed claim names a slot on which Redis does not have its user";
        let dirt = Dirt::new(Kind::FailedClaim, Some(slot.into()), detail);
        judged.dirt.push(dirt.with_user(user));
    }
}
