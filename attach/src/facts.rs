//! The facts from two looks at a target: the input of [`judge`](super::judge).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use firstcome_shared::domain::UserId;
use firstcome_shared::report::Unproven;
use mysql_async::Value;

use crate::config::{CountMeans, UsersMean};

/// Maximum number of users with the same kind of difference whom a pass reports and repairs: of
/// members without a row, the first ones. Later passes report the others, once these are repaired.
pub const NAMED: usize = 100_000;

/// The numbers of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// The number of members of the users' key; `None` if the file names no such key, or if it
    /// expired after the end.
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
    /// Some users who differ are left out, because they are more than [`NAMED`].
    pub is_cut: bool,
}

impl UserSets {
    /// Returns the users in whom two looks saw the same difference. A member with another score
    /// left Redis and claimed again: their new message may be on its way.
    #[must_use]
    pub fn both(mut self, other: &Self) -> Self {
        self.unissued
            .retain(|user, score| other.unissued.get(user) == Some(score));
        Self {
            unissued: self.unissued,
            aliases: &self.aliases & &other.aliases,
            refused: &self.refused & &other.refused,
            strange: &self.strange & &other.strange,
            unstorable: &self.unstorable & &other.unstorable,
            taken_back: &self.taken_back & &other.taken_back,
            missing: &self.missing & &other.missing,
            twice: &self.twice & &other.twice,
            is_cut: self.is_cut || other.is_cut,
        }
    }

    /// Returns the sets that concern rows. Members who only applied for a coupon need no row. The
    /// rows alone say how many coupons are given out, so it does not matter if some users were left
    /// out.
    #[must_use]
    pub fn of_rows(self) -> Self {
        Self {
            missing: self.missing,
            twice: self.twice,
            ..Self::default()
        }
    }

    /// Returns the members without a row, in the order of their scores, or of their names if they
    /// have no scores.
    pub fn unissued_in_order(&self) -> Vec<&String> {
        let mut unissued: Vec<(&String, f64)> = self
            .unissued
            .iter()
            .map(|(user, score)| (user, score.unwrap_or_default()))
            .collect();
        unissued.sort_by(|a, b| a.1.total_cmp(&b.1));
        unissued.into_iter().map(|(user, _)| user).collect()
    }

    /// Returns the text around ids with which most members would be users who have rows, such as
    /// `user:{id}`. Logs and mails show it, so it must be no part of an id: several members share
    /// it, and neither of its ends may be a part of a longer id. `has_row` knows all rows, also of
    /// users who were left out.
    pub fn text_around(&self, has_row: impl Fn(&str) -> bool) -> Option<String> {
        let members: Vec<&String> = self.unissued.keys().take(TRIED).collect();
        let users = self.missing.iter().filter(|it| !it.is_empty());
        for user in users.take(TRIED) {
            for member in &members {
                let Some((before, after)) = member.split_once(user.as_str()) else {
                    continue;
                };
                if may_be_of_id(before.chars().rev(), user.chars().next())
                    || may_be_of_id(after.chars(), user.chars().next_back())
                {
                    continue;
                }
                let ids = members
                    .iter()
                    .filter_map(|it| it.strip_prefix(before)?.strip_suffix(after));
                let users = ids.filter(|id| has_row(id)).count();
                if users > 1 && users * 2 > members.len() {
                    return Some(format!("{before}{{id}}{after}"));
                }
            }
        }
        None
    }
}

/// Number of members, and of users, from which the text around an id is guessed.
const TRIED: usize = 100;

/// Whether the text beside an id may be a part of a longer id, such as the start that many UUIDs
/// share: the word next to the id contains a digit, or goes on in the id. `text` begins at the id.
fn may_be_of_id(text: impl Iterator<Item = char>, end_of_id: Option<char>) -> bool {
    let word: Vec<char> = text.take_while(|it| it.is_alphanumeric()).collect();
    let goes_on = !word.is_empty() && end_of_id.is_some_and(char::is_alphabetic);
    goes_on || word.iter().any(|it| it.is_numeric())
}

/// The counter column of their stock row.
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
    /// Whether the event's user is a member of the users' key; `None` if the file names no such
    /// key.
    pub is_member: Option<bool>,
}

impl FailedEvent {
    /// Whether nothing tells that its user was promised a coupon: a users' key does not name them,
    /// and they have no row.
    pub fn is_of_stranger(&self) -> bool {
        self.is_member == Some(false) && !self.has_row
    }
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
    /// Between the looks, numbers changed that change only while coupons are being sold.
    pub is_selling: bool,
    /// There are members or rows, but no user is a member and has a row.
    pub is_disjoint: bool,
    /// If `is_disjoint`: the text around ids with which most members would be users who have rows
    /// ([`UserSets::text_around`]).
    pub member: Option<String>,
    /// The users' key says who came first.
    pub is_ordered: bool,
    /// Users can no longer claim.
    pub is_over: bool,
    /// Keys in Redis that the file names are gone after the end.
    pub has_expired: bool,
    /// What an entry in the users' key means; `None` if the file names no such key, or if it
    /// expired after the end.
    pub means: Option<UsersMean>,
    pub count_means: Option<CountMeans>,
    /// Their MySQL holds the quantity, and it has not changed since the last clean look, if there
    /// was one: nobody is adding stock.
    pub is_quantity_settled: bool,
    /// A late message may write a second row: neither a unique key nor a lock prevents it, and the
    /// file names no queue, or new messages may have come to the queue between the looks.
    pub may_double: bool,
    /// Users whom earlier repairs added to Redis because they had rows, by their [`recorded`]
    /// names. Their membership does not prove that anybody promised them a coupon.
    pub added: HashSet<String>,
    /// The column of the stock row, if both looks saw the same.
    pub stock: Option<StockColumn>,
    /// Whether their Redis says that something is left, if both looks saw the same.
    pub sale: Option<bool>,
    /// The sale key changed between the looks, or the column of the stock row did and is wrong at
    /// the second look.
    pub has_moved: bool,
    pub failed: Vec<FailedEvent>,
    /// A column of the rows that the file does not name, and that may say that a coupon was taken
    /// back.
    pub unselected: Option<String>,
    /// Some rows do not count: they have no user, or another value in a column of `where` that
    /// changes later. Their coupons may still be given out.
    pub leaves_out_rows: bool,
    /// The number of users who are members and have a row.
    pub in_both: u64,
    /// Most of these users are spelled otherwise in Redis than in their rows, so the row of a user
    /// does not show how their program spells the member.
    pub are_respelled: bool,
    /// Users of the last rows beyond the quantity.
    pub surplus: Vec<String>,
    /// The number of rows beyond the quantity, if nothing shows which ones came last.
    pub unnamed_surplus: u64,
    /// Users whose row MySQL refused within the last day.
    pub failing: HashSet<String>,
    /// Users whose row may be dated the day after their claim. Of those to whom a row is promised:
    /// they have one of the next day. Of `missing`: they were promised one the day before, and have
    /// none of that day.
    pub dated_late: BTreeSet<String>,
    /// The number of users without a row at the first look who had one, or had left Redis, at the
    /// second.
    pub in_flight: u64,
}

impl Facts {
    /// Returns why the looks prove nothing, if they saw nothing wrong.
    pub fn unproven(&self) -> Option<Unproven> {
        let admitted = self.now.admitted(self.means).unwrap_or_default();
        if self.has_expired {
            Some(Unproven::KeysExpired)
        } else if admitted == 0 && self.now.rows == 0 {
            Some(Unproven::NothingFound)
        } else {
            None
        }
    }

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

#[cfg(test)]
mod tests {
    use super::UserSets;

    #[test]
    fn text_around_ids_is_guessed_if_most_members_share_it_and_it_is_no_part_of_ids() {
        for (members, users, expected) in [
            (
                &["user:1", "user:2"][..],
                &["1", "2"][..],
                Some("user:{id}"),
            ),
            (&["u1", "u2", "u3"], &["1", "2"], Some("u{id}")),
            (&["7:1:a", "7:2:a"], &["1", "2"], Some("7:{id}:a")),
            (&["user:1", "user:2", "user:3", "user:4"], &["1", "2"], None),
            (&["1001"], &["1"], None),
            (&["1001", "1002"], &["1", "2"], None),
            (&["2110", "2111"], &["10", "11"], None),
            (&["kim"], &["k"], None),
            (&["customer-4711"], &["4711"], None),
            (&["kim-1", "lee-2"], &["1", "2"], None),
            // Neighbours among ObjectIds, and among UUIDs of version 7.
            (
                &["65f0a3b4c5d6e7f8a9b0c0d1", "65f0a3b4c5d6e7f8a9b0c0d2"],
                &["1", "2"],
                None,
            ),
            (
                &[
                    "0190a4b4-c5d6-7e7f-8a9b-c0d4e4f5a6b2",
                    "0190a4b4-c5d6-7e7f-8a9b-c0d4e4f5a6b3",
                ],
                &["2", "3"],
                None,
            ),
            (&["1d0c0b9", "2d0c0b9"], &["1", "2"], None),
            (&["user7x1", "user7x2"], &["1", "2"], None),
            (
                &["v2:user:1", "v2:user:3"],
                &["1", "3"],
                Some("v2:user:{id}"),
            ),
        ] {
            let sets = UserSets {
                unissued: members.iter().map(|it| ((*it).to_owned(), None)).collect(),
                missing: users.iter().map(|it| (*it).to_owned()).collect(),
                ..UserSets::default()
            };
            let text = sets.text_around(|id| users.contains(&id));
            assert_eq!(text.as_deref(), expected, "{members:?}");
        }
    }

    /// The sets hold only the first [`NAMED`](super::NAMED) users.
    #[test]
    fn text_around_ids_is_found_if_few_users_with_rows_are_named() {
        let members = (1..=9).map(|id| (format!("user:{id}"), None));
        let sets = UserSets {
            unissued: members.collect(),
            missing: ["1".to_owned()].into(),
            ..UserSets::default()
        };
        let text = sets.text_around(|id| id.parse().is_ok_and(|id: u32| id <= 9));
        assert_eq!(text.as_deref(), Some("user:{id}"));
    }
}
