//! The facts from two looks at a target: the input of [`judge`](super::judge).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use firstcome_shared::domain::UserId;
use mysql_async::Value;

use crate::config::{CountMeans, UsersMean};

/// Maximum number of users of one kind that a pass names and repairs. The next pass continues.
pub const NAMED: usize = 100_000;

/// The numbers of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Members of the users' key; `None` if there is no such key, or it expired after the end.
    pub size: Option<u64>,
    pub count: Option<i64>,
    pub rows: u64,
}

impl Numbers {
    /// The number of members who were promised a coupon; `None` if no key names them.
    pub fn admitted(self, means: Option<UsersMean>) -> Option<u64> {
        self.size.filter(|_| means == Some(UsersMean::Admitted))
    }
}

/// The users in whom the stores differ, by how they differ.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct UserSets {
    /// Members without a row, with their scores in a sorted set.
    pub unissued: BTreeMap<String, Option<f64>>,
    /// Members that MySQL compares as equal to another member, who has a row.
    pub aliases: BTreeSet<String>,
    /// Members without a row for whom a failed event records a refusal.
    pub refused: BTreeSet<String>,
    /// Members in another form than the file says.
    pub strange: BTreeSet<String>,
    /// Members without a row whom the column of users cannot hold.
    pub unstorable: BTreeSet<String>,
    /// Members whose row `where` does not select, because a status or the like has another value.
    pub taken_back: BTreeSet<String>,
    /// Users with a row who are not members.
    pub missing: BTreeSet<String>,
    /// Users with several rows.
    pub twice: BTreeSet<String>,
}

impl UserSets {
    /// Returns the users in whom two looks saw the same difference, with the scores of this look.
    #[must_use]
    pub fn both(mut self, other: &Self) -> Self {
        self.unissued
            .retain(|user, _| other.unissued.contains_key(user));
        Self {
            unissued: self.unissued,
            aliases: &self.aliases & &other.aliases,
            refused: &self.refused & &other.refused,
            strange: &self.strange & &other.strange,
            unstorable: &self.unstorable & &other.unstorable,
            taken_back: &self.taken_back & &other.taken_back,
            missing: &self.missing & &other.missing,
            twice: &self.twice & &other.twice,
        }
    }

    /// Returns those that concern rows. Members who only applied for a coupon need none.
    #[must_use]
    pub fn of_rows(self) -> Self {
        Self {
            missing: self.missing,
            twice: self.twice,
            ..Self::default()
        }
    }

    /// Returns the members without a row, in the order of their scores, without scores by name.
    pub fn unissued_in_order(&self) -> Vec<&String> {
        let mut unissued: Vec<(&String, f64)> = self
            .unissued
            .iter()
            .map(|(user, score)| (user, score.unwrap_or_default()))
            .collect();
        unissued.sort_by(|a, b| a.1.total_cmp(&b.1));
        unissued.into_iter().map(|(user, _)| user).collect()
    }
}

/// The counter column of their stock row: its value, and the value that follows from the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StockColumn {
    pub says: i64,
    /// The value that follows from the rows.
    pub due: i64,
}

/// An open row of their table of failed events.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedEvent {
    pub key: Vec<Value>,
    pub user: String,
    pub has_row: bool,
    /// Whether the users' key has its user; `None` if the file names no such key.
    pub is_member: Option<bool>,
}

/// What two looks at a campaign, or at its drop of one day, saw: the input of `judge`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    pub quantity: u64,
    /// At the first look.
    pub before: Numbers,
    /// At the second look.
    pub now: Numbers,
    pub sets: UserSets,
    /// The numbers moved between the looks.
    pub is_selling: bool,
    /// No user is a member and has a row.
    pub is_disjoint: bool,
    /// Then the text around ids with which most members would be users, such as `user:{id}`.
    pub member: Option<String>,
    /// The users' key says who came first.
    pub is_ordered: bool,
    /// Users can no longer claim.
    pub is_over: bool,
    /// `None` if no key names the users.
    pub means: Option<UsersMean>,
    pub count_means: Option<CountMeans>,
    /// Their MySQL holds the quantity, and it has not changed since the last clean look, if there
    /// was one: nobody is adding stock.
    pub is_quantity_settled: bool,
    /// A late message may write a second row: no unique key refuses it, and the file names no
    /// queue, so a message may still wait on their topic.
    pub may_double: bool,
    /// Users whom earlier repairs added to Redis because they had rows, as the record has them.
    /// Their membership does not prove that anybody promised them a coupon.
    pub added: HashSet<String>,
    /// The column of the stock row, if both looks saw the same.
    pub stock: Option<StockColumn>,
    /// Whether their Redis says that something is left, if both looks saw the same.
    pub sale: Option<bool>,
    pub failed: Vec<FailedEvent>,
    /// A column of the rows that the file does not name, and that may say that a coupon was taken
    /// back.
    pub unselected: Option<String>,
    /// Users who are members and have a row.
    pub in_both: u64,
    /// Users of the last rows beyond the quantity.
    pub surplus: Vec<String>,
    /// The number of rows beyond the quantity, if nothing shows which ones came last.
    pub unnamed_surplus: u64,
    /// Users whose row MySQL refused within the last day.
    pub failing: HashSet<String>,
    /// The number of users without a row at the first look who had one, or had left Redis, at the
    /// second.
    pub in_flight: u64,
}

impl Facts {
    /// Whether an earlier repair added this user to Redis.
    pub fn was_added(&self, user: &str) -> bool {
        self.added.contains(recorded(user))
    }
}

/// The name of a user in the record of repairs. The record cannot hold every id of theirs: all ids
/// that do not fit share the empty name.
pub fn recorded(user: &str) -> &str {
    let has_name = user.is_ascii() && user.len() <= UserId::MAX_LEN;
    if has_name { user } else { "" }
}
