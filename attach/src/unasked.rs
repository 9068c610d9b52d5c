//! Which repairs need nobody. Pure.
//!
//! A row is written unasked only if a person has confirmed a plan of this text, this process saw
//! the user arrive, their database refuses a second row, nothing in the block contradicts the
//! promises, and it stays a few. Everything else waits for a confirmation of names. That every way
//! to the row is described, the file has to say.

use firstcome_shared::report::wording::count;

use crate::look::PromisedUser;
use crate::plan::{OurRows, Trust};

/// Rows written unasked in a campaign within a day.
pub const A_DAY: u64 = 50;

/// Users who must be in both stores.
const ENOUGH: u64 = 10;

/// What the last look of a campaign says against repairs in its whole block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Users with a row that counts, and without a promise.
    pub strangers: u64,
    /// Users who had a row, and lack it now.
    pub vanished: u64,
    /// Users with two rows that count.
    pub twice: u64,
}

impl std::ops::AddAssign for Trouble {
    fn add_assign(&mut self, other: Self) {
        self.strangers += other.strangers;
        self.vanished += other.vanished;
        self.twice += other.twice;
    }
}

/// What holds for the repairs of a campaign.
#[derive(Debug, Default)]
pub struct Facts {
    /// What is recorded about the text and the stores.
    pub trust: Trust,
    /// `promised` are keys that hold their users, so that they can be counted again.
    pub is_counted: bool,
    /// A list or sorted set of the queue that was never seen filled.
    pub never_filled: Option<String>,
    /// The number of a check that returns a row.
    pub check: Option<usize>,
    /// How the counter contradicts what is owed.
    pub counter: Option<String>,
    /// In the whole block.
    pub trouble: Trouble,
    pub in_both: u64,
    pub lacking: u64,
    /// Rows of ours in this campaign.
    pub ours: OurRows,
    /// Their database refused a second row of each user with a row of theirs who was tried.
    pub refuses_second_row: bool,
}

impl Facts {
    /// Returns why the row of a user waits for a person; `None` if it may be written now.
    pub fn why_waits(&self, lost: &PromisedUser) -> Option<String> {
        let reasons = [
            (!lost.is_new).then_some("the user was there when this process began, or had a row"),
            self.ours
                .has(&lost.name)
                .then_some("it got a row of ours before"),
            (!self.refuses_second_row).then_some(
                "your database refused no second row of users who came with one since this process \
                began: ALTER TABLE … ADD UNIQUE (…)",
            ),
        ];
        let own = reasons.into_iter().flatten().next();
        self.why_all_wait().or_else(|| own.map(str::to_owned))
    }

    /// Returns why no user gets a row unasked, but for the proof that a second row is refused,
    /// which is only made if nothing else stands against a row.
    pub fn why_all_wait(&self) -> Option<String> {
        let users = |number: u64, what: &str| {
            (number > 0).then(|| format!("{} {what}", count(number, "user", "users")))
        };
        let said = |is_so: bool, what: &str| is_so.then(|| what.to_owned());
        let Trouble {
            strangers,
            vanished,
            twice,
        } = self.trouble;
        let reasons = [
            match self.trust {
                Trust::None => Some("it is the first plan of this text".to_owned()),
                Trust::Confirmed => None,
                Trust::Left => Some(
                    "users whom earlier findings named left Redis without a row: does the key \
                    hold reservations?"
                        .to_owned(),
                ),
            },
            said(
                !self.is_counted,
                "promised is a SELECT, or one key a user, and cannot be counted again",
            ),
            self.never_filled
                .as_ref()
                .map(|stage| format!("{stage} was never seen filled")),
            self.check
                .map(|number| format!("check {number} returns a row")),
            self.counter.clone(),
            users(strangers, "with a row that counts and without a promise"),
            users(vanished, "who had a row and lack it"),
            users(twice, "with two rows"),
            said(
                self.in_both < ENOUGH,
                "it takes 10 users in both stores to trust the names",
            ),
            said(
                self.in_both <= self.lacking,
                "as many lack a row as have one",
            ),
            said(self.ours.today >= A_DAY, "50 rows were written today"),
        ];
        reasons.into_iter().flatten().next()
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::report::recorded_user;

    use super::*;

    fn right() -> Facts {
        Facts {
            trust: Trust::Confirmed,
            is_counted: true,
            in_both: 10,
            lacking: 9,
            refuses_second_row: true,
            ours: OurRows {
                today: A_DAY - 1,
                ..OurRows::default()
            },
            ..Facts::default()
        }
    }

    fn user() -> PromisedUser {
        PromisedUser {
            name: "user".to_owned(),
            is_new: true,
            ..PromisedUser::default()
        }
    }

    #[test]
    fn row_is_written_unasked_only_if_every_condition_holds() {
        assert_eq!(right().why_waits(&user()), None);
        let off = |edit: &dyn Fn(&mut Facts, &mut PromisedUser)| {
            let mut facts = right();
            let mut user = user();
            edit(&mut facts, &mut user);
            facts.why_waits(&user).unwrap_or_default()
        };
        for (found, expected) in [
            (off(&|facts, _| facts.trust = Trust::None), "first plan"),
            (off(&|facts, _| facts.trust = Trust::Left), "reservations"),
            (off(&|facts, _| facts.is_counted = false), "promised is"),
            (
                off(&|facts, _| facts.trouble.strangers = 1),
                "1 user with a row",
            ),
            (
                off(&|facts, _| facts.trouble.vanished = 1),
                "1 user who had",
            ),
            (off(&|facts, _| facts.trouble.twice = 1), "with two rows"),
            (
                off(&|facts, _| facts.never_filled = Some("list \"q\"".to_owned())),
                "never seen filled",
            ),
            (off(&|facts, _| facts.check = Some(1)), "check 1 returns"),
            (off(&|facts, _| facts.counter = Some("97".to_owned())), "97"),
            (off(&|facts, _| facts.in_both = 9), "in both"),
            (off(&|facts, _| facts.lacking = 10), "as many lack"),
            (off(&|facts, _| facts.ours.today = A_DAY), "50 rows"),
            (
                off(&|facts, _| facts.refuses_second_row = false),
                "ADD UNIQUE",
            ),
            (off(&|_, user| user.is_new = false), "was there"),
            (
                off(&|facts, user| _ = facts.ours.users.insert(user.name.clone())),
                "a row of ours",
            ),
            (
                off(&|facts, user| {
                    user.name = "김".to_owned();
                    facts.ours.users.insert(recorded_user("김"));
                }),
                "a row of ours",
            ),
        ] {
            assert!(found.contains(expected), "{found:?} {expected}");
        }
    }
}
