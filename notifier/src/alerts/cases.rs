//! The cases of a problem as a set of fingerprints: an alert remembers which ones its last mail was
//! about, so that an acknowledgement covers these and no others.

use std::collections::BTreeSet;

use super::{Cause, Finding};

/// A problem with more cases is compared by their number and checksum only.
const AT_MOST: usize = 1_000;

/// A set of cases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cases(BTreeSet<i64>);

impl Cases {
    /// Returns the cases that these findings stand for, or `None` if some are only counted or
    /// equal, or if there are too many.
    pub(super) fn from_findings(findings: &[Finding]) -> Option<Self> {
        let is_counted = |it: &Finding| matches!(it.cause, Cause::MoreLeft(_));
        if findings.len() > AT_MOST || findings.iter().any(is_counted) {
            return None;
        }
        let all: BTreeSet<i64> = findings.iter().map(Finding::identity).collect();
        // Two findings with the same identity must not count as one.
        (all.len() == findings.len()).then_some(Self(all))
    }

    /// Parses the text that an alert stores.
    pub(super) fn from_text(text: &str) -> Option<Self> {
        let all: Result<BTreeSet<i64>, _> = text.split_whitespace().map(str::parse).collect();
        all.ok().map(Self)
    }

    pub(super) fn to_text(&self) -> String {
        let all = self.0.iter().map(ToString::to_string);
        all.collect::<Vec<_>>().join(" ")
    }

    /// Returns those that are in both sets.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    pub(super) fn number(&self) -> u64 {
        self.0.len() as u64
    }

    /// Returns their checksum.
    pub(super) fn content(&self) -> i64 {
        self.0.iter().copied().fold(0, i64::wrapping_add)
    }
}
