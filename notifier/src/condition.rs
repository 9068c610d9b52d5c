//! Conditions: what is wrong now, as enums and numbers. `conditions` derives them from a snapshot,
//! `decide` compares them with what was told, and `mails` makes text of them.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::processes::LockHolder;
use firstcome_shared::process_state::{Standstill, UnsafeSetting};
use firstcome_shared::report::{AlertKind, FailureCause, StoreRefusal};

use crate::queries::alerts::RepairsRow;

/// Something that is wrong now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its identity: kind, coupon, drop and part, joined. Nothing parses it.
    pub name: String,
    pub kind: AlertKind,
    pub coupon: Option<CouponId>,
    pub drop: Option<DropId>,
    pub cases: Cases,
    pub seen: Seen,
    pub facts: Facts,
}

impl Condition {
    /// The run that stores its findings.
    pub(crate) fn run_id(&self) -> Option<&str> {
        match &self.facts {
            Facts::Found { run_id } => Some(run_id),
            _ => None,
        }
    }
}

/// The cases of a condition: what news is compared by, and what an acknowledgement covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cases {
    /// A hash of each case.
    Each(BTreeSet<i64>),
    /// There are too many, or some are only counted.
    Number(u64),
}

/// How a condition is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// It is so at the time of the snapshot.
    Now,
    /// The first and the last look that saw it, or since when a run is due.
    Looks {
        first: DateTime<Utc>,
        last: DateTime<Utc>,
    },
}

impl Seen {
    /// For how long it has been so since `from`: for what looks see, the time between looks.
    pub(crate) fn lasted(self, from: DateTime<Utc>, now: DateTime<Utc>) -> TimeDelta {
        match self {
            Self::Now => now - from,
            Self::Looks { first, last } => last - from.max(first),
        }
    }

    pub(crate) fn is_after(self, at: DateTime<Utc>) -> bool {
        match self {
            Self::Now => true,
            Self::Looks { last, .. } => last > at,
        }
    }
}

/// What a mail says about a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Facts {
    /// What processes say about a store, each different answer once.
    Store(Vec<StoreProblem>),
    /// These coupons are closed.
    Closed(BTreeSet<CouponId>),
    /// Passes over everything fail.
    Failing { cause: FailureCause, error: String },
    /// A scheduled run, or digest, did not happen in time.
    Late {
        schedule: ScheduledRun,
        /// The pass that holds the lock.
        holder: Option<LockHolder>,
    },
    /// Settings that allow promises to be lost.
    Unsafe(Vec<UnsafeSetting>),
    /// Unread messages that no consumer reads.
    Standstill(Standstill),
    /// This run has the findings: those of this kind, coupon, drop and part.
    Found { run_id: String },
    /// Unresolved rows of `broken_promises`.
    Promises,
    /// Repairs that no mail has named yet.
    Repairs(Vec<RepairsRow>),
}

/// A problem with a store as processes report it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreProblem {
    /// `None`: it does not answer.
    pub refusal: Option<StoreRefusal>,
    /// The error in the words of the store or of its driver.
    pub error: String,
}

/// What a schedule starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScheduledRun {
    Reconcile,
    Deep,
    Digest,
}

impl ScheduledRun {
    /// The setting with its times.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::Reconcile => "RECONCILE_CRON",
            Self::Deep => "DEEP_CRON",
            Self::Digest => "DIGEST_CRON",
        }
    }
}

impl Cases {
    /// Above this number of cases, only their number is kept.
    pub const AT_MOST: usize = 2_000;

    /// Cases whose hashes are known, or their number if they are too many or two hashes are equal.
    pub fn from_hashes(hashes: impl IntoIterator<Item = i64>) -> Self {
        let mut number = 0;
        let each: BTreeSet<i64> = hashes.into_iter().inspect(|_| number += 1).collect();
        if each.len() == number && number <= Self::AT_MOST {
            Self::Each(each)
        } else {
            Self::Number(number as u64)
        }
    }

    pub fn number(&self) -> u64 {
        match self {
            Self::Each(each) => each.len() as u64,
            Self::Number(number) => *number,
        }
    }

    /// Returns the cases in both. Without hashes, the smaller number.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Each(own), Self::Each(others)) => {
                Self::Each(own.intersection(others).copied().collect())
            }
            _ => Self::Number(self.number().min(other.number())),
        }
    }

    /// Returns the cases without these.
    #[must_use]
    pub fn without(&self, hidden: &BTreeSet<i64>) -> Self {
        match self {
            Self::Each(own) => Self::Each(own.difference(hidden).copied().collect()),
            Self::Number(number) => Self::Number(*number),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.number() == 0
    }

    /// Returns 8 bytes for each hash, or `None` if they are not known.
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Each(each) => Some(each.iter().flat_map(|hash| hash.to_be_bytes()).collect()),
            Self::Number(_) => None,
        }
    }

    /// The inverse of [`Self::number`] and [`Self::to_bytes`].
    pub fn from_bytes(number: u64, bytes: Option<&[u8]>) -> Self {
        let Some(bytes) = bytes else {
            return Self::Number(number);
        };
        let hashes = bytes
            .chunks_exact(8)
            .filter_map(|hash| hash.try_into().ok());
        Self::Each(hashes.map(i64::from_be_bytes).collect())
    }
}
