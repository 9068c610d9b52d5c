//! What two looks at a target saw: the input of [`judge`](super::judge).

use std::collections::HashSet;

use firstcome_shared::domain::UserId;
use mysql_async::Value;

use crate::config::{CountMeans, UsersMean};

/// The most users of one kind that a pass names and repairs. The next pass goes on.
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
    /// Members who were promised a coupon, if a key names them.
    pub fn admitted(self, means: Option<UsersMean>) -> Option<u64> {
        self.size.filter(|_| means == Some(UsersMean::Admitted))
    }
}

/// The column of their stock row that counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StockColumn {
    pub says: i64,
    /// What it should say by the rows.
    pub due: i64,
}

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
    /// Then the text around ids with which most members would be users, such as `user:{id}`.
    pub member: Option<String>,
    /// The users' key says who came first.
    pub is_ordered: bool,
    /// Nobody can claim any more.
    pub is_over: bool,
    /// `None` if no key names the users.
    pub means: Option<UsersMean>,
    pub count_means: Option<CountMeans>,
    /// Their MySQL tells the quantity, and told the same at the last look that was clean: nobody is
    /// adding stock.
    pub is_quantity_settled: bool,
    /// A late message may write a second row: no unique key refuses it, and nothing tells what
    /// waits on their topic.
    pub may_double: bool,
    /// Users whom earlier repairs added to Redis because they had rows, as the record has them.
    /// Their membership does not prove that anybody promised them a coupon.
    pub added: HashSet<String>,
    /// The column of the stock row, if both looks saw the same.
    pub stock: Option<StockColumn>,
    /// Whether their Redis says that something is left, if both looks saw the same.
    pub sale: Option<bool>,
    pub failed: Vec<FailedEvent>,
    /// Members without a row, in the order of a sorted set, otherwise by name.
    pub unissued: Vec<String>,
    /// Members whom MySQL takes for another member, who has a row.
    pub aliases: Vec<String>,
    /// Members without a row whom a failed event calls refused.
    pub refused: Vec<String>,
    /// Members in another form than the file says.
    pub strange: Vec<String>,
    /// Members without a row whom the column of users cannot hold.
    pub unstorable: Vec<String>,
    /// Members whose row `where` does not select, because a status or the like has another value.
    pub taken_back: Vec<String>,
    /// A column of the rows that the file does not name, and that may say that a coupon was taken
    /// back.
    pub unselected: Option<String>,
    /// Users who are members and have a row.
    pub in_both: u64,
    /// Users with a row who are no members.
    pub missing: Vec<String>,
    /// Users with several rows.
    pub twice: Vec<String>,
    /// Users of the last rows beyond the quantity.
    pub surplus: Vec<String>,
    /// Rows beyond the quantity, if nothing tells which ones came last.
    pub unnamed_surplus: u64,
    /// Users whose row MySQL refused within a day.
    pub failing: HashSet<String>,
    /// Users of the first look who had a row at the second.
    pub in_flight: u64,
}

impl Facts {
    /// Whether an earlier repair added this user to Redis.
    pub fn was_added(&self, user: &str) -> bool {
        self.added.contains(recorded(user))
    }
}

/// The name of a user in the record of repairs. It cannot hold every id of theirs, so those without
/// a name stand for each other.
pub fn recorded(user: &str) -> &str {
    let has_name = user.is_ascii() && user.len() <= UserId::MAX_LEN;
    if has_name { user } else { "" }
}
