//! Which repairs need nobody. Pure.
//!
//! A row is written unasked only if a person has confirmed a plan of this text, this process saw
//! the user arrive, every way to the row is described and passed, their database refuses a second
//! row, nothing in the block contradicts the promises, and it stays a few. Everything else waits
//! for a confirmation of names.

use std::fmt;

use firstcome_shared::report::wording::count;

/// Rows written unasked in a campaign within a day.
pub const A_DAY: u64 = 50;

/// Users who must be in both stores.
const ENOUGH: u64 = 10;

/// What holds for all campaigns of a block.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct BlockFacts {
    /// A person confirmed a plan of this text and these stores.
    pub is_confirmed: bool,
    /// Users whom findings named as unissued, and who left Redis without a row.
    pub left: u64,
    /// Users with a row that counts, and without a promise.
    pub strangers: u64,
    /// Users who had a row, and lack it now.
    pub vanished: u64,
    /// Users with two rows that count.
    pub twice: u64,
    pub promised: Source,
    /// `check` is written.
    pub describes_checks: bool,
    /// `queue` is written.
    pub describes_queue: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Source {
    /// Keys that hold their users.
    #[default]
    Keys,
    /// One key for each user, or a SELECT: it cannot be asked how many there are now.
    Uncounted,
}

/// What holds for one campaign.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CampaignFacts {
    pub in_both: u64,
    pub lacking: u64,
    /// The number of a check that returns a row.
    pub check: Option<usize>,
    /// The counter contradicts what is owed.
    pub counter: Option<Contradiction>,
    /// A list or sorted set of the queue that was never seen filled.
    pub never_filled: Option<String>,
    /// Their database refused a second row of each user of theirs who was tried.
    pub refuses_second_row: bool,
    /// Rows of ours within a day.
    pub made_today: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contradiction {
    pub given: u64,
    pub owed: u64,
}

/// What holds for one user.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UserFacts {
    /// This process saw them arrive.
    pub is_new: bool,
    /// They got a row of ours before.
    pub got_ours: bool,
    /// Our records can hold the name.
    pub is_recordable: bool,
}

/// Why a repair waits for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waits {
    FirstPlan,
    Left(u64),
    NotNew,
    Uncounted,
    QueueNotDescribed,
    NeverFilled(String),
    ChecksNotDescribed,
    Check(usize),
    Counter(Contradiction),
    Strangers(u64),
    Vanished(u64),
    Twice(u64),
    MoreLack,
    FewInBoth(u64),
    AcceptsSecondRow,
    ManyToday,
    GotOurs,
    NotRecordable,
}

/// Returns why the row of a user waits for a person; `None` if it may be written now.
pub fn why_waits(block: &BlockFacts, campaign: &CampaignFacts, user: UserFacts) -> Option<Waits> {
    why_all_wait(block, campaign).or(match user {
        UserFacts { is_new: false, .. } => Some(Waits::NotNew),
        UserFacts { got_ours: true, .. } => Some(Waits::GotOurs),
        UserFacts {
            is_recordable: false,
            ..
        } => Some(Waits::NotRecordable),
        UserFacts { is_new: true, .. } => {
            (!campaign.refuses_second_row).then_some(Waits::AcceptsSecondRow)
        }
    })
}

/// Returns why no user of a campaign gets a row unasked, but for the proof, which is only made if
/// nothing else stands against a row.
pub fn why_all_wait(block: &BlockFacts, campaign: &CampaignFacts) -> Option<Waits> {
    let reasons = [
        (!block.is_confirmed).then_some(Waits::FirstPlan),
        (block.left > 0).then_some(Waits::Left(block.left)),
        (block.promised == Source::Uncounted).then_some(Waits::Uncounted),
        (!block.describes_queue).then_some(Waits::QueueNotDescribed),
        campaign.never_filled.clone().map(Waits::NeverFilled),
        (!block.describes_checks).then_some(Waits::ChecksNotDescribed),
        campaign.check.map(Waits::Check),
        campaign.counter.map(Waits::Counter),
        (block.strangers > 0).then_some(Waits::Strangers(block.strangers)),
        (block.vanished > 0).then_some(Waits::Vanished(block.vanished)),
        (block.twice > 0).then_some(Waits::Twice(block.twice)),
        (campaign.in_both < ENOUGH).then_some(Waits::FewInBoth(campaign.in_both)),
        (campaign.in_both <= campaign.lacking).then_some(Waits::MoreLack),
        (campaign.made_today >= A_DAY).then_some(Waits::ManyToday),
    ];
    reasons.into_iter().flatten().next()
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users = |number: u64| count(number, "user", "users");
        match self {
            Self::FirstPlan => f.write_str("it is the first plan of this text"),
            Self::Left(number) => write!(
                f,
                "{} whom earlier findings named left Redis without a row: does the key hold \
                reservations?",
                users(*number)
            ),
            Self::NotNew => f.write_str("the user was there when this process began, or had a row"),
            Self::Uncounted => {
                f.write_str("promised is a SELECT, or one key a user, and cannot be counted again")
            }
            Self::QueueNotDescribed => f.write_str("queue is not written"),
            Self::NeverFilled(stage) => write!(f, "{stage} was never seen filled"),
            Self::ChecksNotDescribed => f.write_str("check is not written"),
            Self::Check(number) => write!(f, "check {number} returns a row"),
            Self::Counter(Contradiction { given, owed }) => write!(
                f,
                "the counter says {given}, and {owed} are owed: were some refused?"
            ),
            Self::Strangers(number) => write!(
                f,
                "{} with a row that counts and without a promise",
                users(*number)
            ),
            Self::Vanished(number) => write!(f, "{} who had a row and lack it", users(*number)),
            Self::Twice(number) => write!(f, "{} with two rows", users(*number)),
            Self::MoreLack => f.write_str("as many lack a row as have one"),
            Self::FewInBoth(number) => write!(
                f,
                "{} in both stores, and it takes {ENOUGH} to trust the names",
                users(*number)
            ),
            Self::AcceptsSecondRow => f.write_str(
                "your database accepts a second row of a user: ALTER TABLE … ADD UNIQUE (…)",
            ),
            Self::ManyToday => write!(f, "{A_DAY} rows were written today"),
            Self::GotOurs => f.write_str("it got a row of ours before"),
            Self::NotRecordable => f.write_str("our records cannot hold its name"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn right() -> (BlockFacts, CampaignFacts, UserFacts) {
        let block = BlockFacts {
            is_confirmed: true,
            describes_checks: true,
            describes_queue: true,
            ..BlockFacts::default()
        };
        let campaign = CampaignFacts {
            in_both: 10,
            lacking: 9,
            refuses_second_row: true,
            made_today: A_DAY - 1,
            ..CampaignFacts::default()
        };
        let user = UserFacts {
            is_new: true,
            got_ours: false,
            is_recordable: true,
        };
        (block, campaign, user)
    }

    #[test]
    fn row_is_written_unasked_only_if_every_condition_holds() {
        let (block, campaign, user) = right();
        assert_eq!(why_waits(&block, &campaign, user), None);
        let off = |edit: &dyn Fn(&mut BlockFacts, &mut CampaignFacts, &mut UserFacts)| {
            let (mut block, mut campaign, mut user) = right();
            edit(&mut block, &mut campaign, &mut user);
            why_waits(&block, &campaign, user)
        };
        let contradiction = Contradiction {
            given: 97,
            owed: 100,
        };
        for (found, expected) in [
            (
                off(&|block, _, _| block.is_confirmed = false),
                Waits::FirstPlan,
            ),
            (off(&|block, _, _| block.left = 1), Waits::Left(1)),
            (
                off(&|block, _, _| block.promised = Source::Uncounted),
                Waits::Uncounted,
            ),
            (
                off(&|block, _, _| block.describes_queue = false),
                Waits::QueueNotDescribed,
            ),
            (
                off(&|block, _, _| block.describes_checks = false),
                Waits::ChecksNotDescribed,
            ),
            (off(&|block, _, _| block.strangers = 1), Waits::Strangers(1)),
            (off(&|block, _, _| block.vanished = 1), Waits::Vanished(1)),
            (off(&|block, _, _| block.twice = 1), Waits::Twice(1)),
            (
                off(&|_, campaign, _| campaign.never_filled = Some("list \"q\"".to_owned())),
                Waits::NeverFilled("list \"q\"".to_owned()),
            ),
            (
                off(&|_, campaign, _| campaign.check = Some(1)),
                Waits::Check(1),
            ),
            (
                off(&|_, campaign, _| campaign.counter = Some(contradiction)),
                Waits::Counter(contradiction),
            ),
            (
                off(&|_, campaign, _| campaign.in_both = 9),
                Waits::FewInBoth(9),
            ),
            (
                off(&|_, campaign, _| campaign.lacking = 10),
                Waits::MoreLack,
            ),
            (
                off(&|_, campaign, _| campaign.made_today = A_DAY),
                Waits::ManyToday,
            ),
            (
                off(&|_, campaign, _| campaign.refuses_second_row = false),
                Waits::AcceptsSecondRow,
            ),
            (off(&|_, _, user| user.is_new = false), Waits::NotNew),
            (off(&|_, _, user| user.got_ours = true), Waits::GotOurs),
            (
                off(&|_, _, user| user.is_recordable = false),
                Waits::NotRecordable,
            ),
        ] {
            assert_eq!(found, Some(expected));
        }
    }
}
