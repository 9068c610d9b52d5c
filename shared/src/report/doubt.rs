//! Why an attached campaign may have no difference although one was found, or why its repair may be
//! wrong. This is the headline of the mail and of the page, before any consequence.

use serde::{Deserialize, Serialize};
use strum::{IntoStaticStr, VariantArray};

/// Why an operator has to confirm a repair. The gravest comes first, because a mail gives only one
/// reason.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    IntoStaticStr,
    VariantArray,
    Serialize,
    Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Doubt {
    /// No user in Redis has a row. Most likely, the file names another key or other rows, or the ids
    /// are in another form.
    Disjoint,
    /// The users' key may have expired. A key that is created again has no expiry.
    UsersGone,
    /// A later sale may use the key: then its users are not those of the rows.
    MostMissing,
    /// The most harmful mistake in a file: the number that is left is taken for the number that was
    /// given out.
    CountsDown,
    /// The counter may have expired, and a later sale may use its name.
    CounterGone,
    /// A later sale may use the counter's name.
    Reset,
    /// A refund may keep the row, with another status.
    TakenBack,
    /// Without a confirmation, users who only asked could get what others were promised.
    Unordered,
    /// Further users can claim afterwards, although a queue may hold promises that no key contains.
    Opens,
    /// A repair added the user to Redis because of a row, which may have been deleted on purpose.
    AddedByUs,
    /// The row may be of the claim that seems to lack one.
    NextDay,
    /// A user who is added to a drop by mistake cannot claim there.
    DayBefore,
    /// A member in another form may be the user who seems to be missing.
    OtherForm,
    /// No unique key would refuse a second row, from a message that arrives late.
    MayDouble,
    /// Added coupons look like a wrong counter: without `quantity_sql`, or since the quantity
    /// changed.
    StockAdded,
    /// No comparison with this part of the file was clean, and no plan of it was confirmed.
    Untrusted,
    /// More repairs than the limit.
    Many,
}

/// The words for a doubt. Both fields are parts of sentences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtWords {
    pub headline: &'static str,
    pub advice: &'static str,
}

impl Doubt {
    /// Returns the word that distinguishes it in the identity of findings.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    pub const fn words(self) -> DoubtWords {
        match self {
            Self::Disjoint => DoubtWords {
                headline: "no user in Redis has a row",
                advice: "check that users and rows mean the same campaign, and write ids in the \
                    same form",
            },
            Self::UsersGone => DoubtWords {
                headline: "the key of the users is gone",
                advice: "if it expired after the sale, do not confirm, write ends: it would come \
                    back without its expiry",
            },
            Self::MostMissing => DoubtWords {
                headline: "most users who have rows are not in Redis",
                advice: "do not confirm if another sale uses its key: write ends",
            },
            Self::CountsDown => DoubtWords {
                headline: "this counter seems to count down",
                advice: "then write means = \"left\" instead of confirming",
            },
            Self::CounterGone => DoubtWords {
                headline: "the counter is gone",
                advice: "if it expired after the sale, do not confirm, write ends",
            },
            Self::Reset => DoubtWords {
                headline: "the counter is far behind the rows, as after a reset",
                advice: "confirm only if no other sale uses this key, and nobody adds stock",
            },
            Self::TakenBack => DoubtWords {
                headline: "a row may be of a coupon that was taken back",
                advice: "confirm only if it was not, or write the column that tells in rows.where, \
                    with all values of issued coupons",
            },
            Self::Unordered => DoubtWords {
                headline: "more are in Redis than there are coupons, and it does not say who came \
                    first",
                advice: "if it holds everybody who asked, write means = \"applied\"",
            },
            Self::Opens => DoubtWords {
                headline: "a repair opens the sale again",
                advice: "confirm only if nobody stopped the sale by hand, and no message waits on \
                    your topic, since it may be a promise",
            },
            Self::AddedByUs => DoubtWords {
                headline: "a repair added its user to Redis because of a row that is gone",
                advice: "if you took the row back, remove the user from Redis, too; confirm only \
                    if they were promised a coupon",
            },
            Self::NextDay => DoubtWords {
                headline: "the user's row is dated the next day, so this may be a second one",
                advice: "confirm only if they claimed on both days, or else correct the row's date",
            },
            Self::DayBefore => DoubtWords {
                headline: "this may be a claim of the day before, whose row is dated a day late",
                advice: "confirm only if they claimed on both days, or else correct the row's date",
            },
            Self::OtherForm => DoubtWords {
                headline: "some members are in another form than users of rows",
                advice: "bring them into one form, name placeholders in users.except, or confirm \
                    only if none of them is this user",
            },
            Self::MayDouble => DoubtWords {
                headline: "nothing refuses a second row",
                advice: "confirm only if no message waits on your topic, or describe it (queue) \
                    and wait until nothing is sold",
            },
            Self::StockAdded => DoubtWords {
                headline: "somebody may have added stock",
                advice: "confirm only if nobody adds it to the counter by hand",
            },
            Self::Untrusted => DoubtWords {
                headline: "nothing was repaired with this part of the file yet, and no look was \
                    clean",
                advice: "confirm its first plan",
            },
            Self::Many => DoubtWords {
                headline: "this many at once are rarely right",
                advice: "see why before you confirm them",
            },
        }
    }

    /// Whether there may be no difference at all; otherwise, only its repair may be wrong.
    pub const fn may_be_none(self) -> bool {
        match self {
            Self::Disjoint
            | Self::UsersGone
            | Self::MostMissing
            | Self::CountsDown
            | Self::CounterGone
            | Self::Reset
            | Self::TakenBack
            | Self::Unordered
            | Self::AddedByUs
            | Self::NextDay
            | Self::DayBefore
            | Self::OtherForm => true,
            Self::Opens | Self::MayDouble | Self::StockAdded | Self::Untrusted | Self::Many => {
                false
            }
        }
    }

    /// Returns headline and advice in one text.
    pub fn says(self) -> String {
        let DoubtWords { headline, advice } = self.words();
        format!("{headline}: {advice}")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_doubt_has_advice_and_its_own_headline_that_fits_a_lock_screen() {
        let mut headlines = HashSet::new();
        for doubt in Doubt::VARIANTS {
            let DoubtWords { headline, advice } = doubt.words();
            assert!(headlines.insert(headline), "{headline}");
            assert!(
                headline.len() <= 85 && !headline.contains(':'),
                "{headline}"
            );
            assert!(!advice.is_empty() && !advice.ends_with('.'), "{advice}");
        }
    }
}
