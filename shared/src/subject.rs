//! What a report, an alert or a screen is about: a drop of Firstcome, or a campaign of `attach`. All
//! differences between the two are in `match` expressions on [`Subject`]. Only this module knows
//! that campaigns have negative ids in Firstcome's tables.

use chrono::NaiveDate;

use crate::domain::{CouponId, DropId};
use crate::hash::hash64;

/// What passes compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Subject {
    /// A drop of a Firstcome coupon.
    #[default]
    Drop,
    /// A campaign of an attached coupon system.
    Campaign,
}

impl Subject {
    /// Its word in tables.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Campaign => "campaign",
        }
    }

    /// The inverse of [`Self::word`].
    pub fn from_word(word: &str) -> Self {
        if word == Self::Campaign.word() {
            Self::Campaign
        } else {
            Self::Drop
        }
    }

    /// Its name in lists, singular and plural.
    pub const fn nouns(self) -> [&'static str; 2] {
        match self {
            Self::Drop => ["drop", "drops"],
            Self::Campaign => ["campaign", "campaigns"],
        }
    }

    /// Its name as the heading of a column.
    pub const fn one(self) -> &'static str {
        match self {
            Self::Drop => "Drop",
            Self::Campaign => "Campaign",
        }
    }

    /// Its name as the title of a table.
    pub const fn many(self) -> &'static str {
        match self {
            Self::Drop => "Drops",
            Self::Campaign => "Campaigns",
        }
    }

    const fn from_id(id: i64) -> Self {
        if id < 0 { Self::Campaign } else { Self::Drop }
    }

    /// Returns the id of a campaign: the first 52 bits of a hash, negative. It is exact in JSON,
    /// and no coupon or drop of Firstcome has it.
    fn id_of_campaign(name: &str) -> i64 {
        let hash = hash64(format!("attach\n{name}"));
        -(hash >> 12).cast_signed() - 1
    }
}

macro_rules! ids_of_subjects {
    ($($Id:ident: $noun:literal),+) => {$(
        impl $Id {
            pub const fn subject(self) -> Subject {
                Subject::from_id(self.0)
            }

            /// Returns a name such as `coupon 7`, or `None` for a campaign, which operators know by
            /// its name.
            pub fn label(self) -> Option<String> {
                match self.subject() {
                    Subject::Drop => Some(format!(concat!($noun, " {}"), self)),
                    Subject::Campaign => None,
                }
            }
        }
    )+};
}

ids_of_subjects!(CouponId: "coupon", DropId: "drop");

impl CouponId {
    /// Returns the id under which a campaign is recorded.
    pub fn of_campaign(name: &str) -> Self {
        Self(Subject::id_of_campaign(name))
    }
}

impl DropId {
    /// Returns the id under which one day of a campaign is recorded, or, without a day, a campaign
    /// that is compared as a whole.
    pub fn of_campaign(name: &str, day: Option<NaiveDate>) -> Self {
        Self(Subject::id_of_campaign(&format!("{name}\n{day:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn campaigns_are_distinguished_from_drops_and_have_no_label() {
        let own = [CouponId(0).subject(), CouponId(i64::MAX).subject()];
        assert_eq!(own, [Subject::Drop; 2]);
        assert_eq!(DropId(7).label().as_deref(), Some("drop 7"));
        assert_eq!(CouponId(5).label().as_deref(), Some("coupon 5"));
        for name in ["", "Winter 2026", "쿠폰\nNone"] {
            let coupon = CouponId::of_campaign(name);
            let drop = DropId::of_campaign(name, None);
            assert_eq!([coupon.subject(), drop.subject()], [Subject::Campaign; 2]);
            assert_eq!([coupon.label(), drop.label()], [None, None]);
            // JavaScript reads numbers as doubles.
            assert!(coupon.0 > -(1 << 53), "{coupon}");
        }
    }
}
