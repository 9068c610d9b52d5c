//! Repairs of a drop above the repair limit, and what confirms them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A hash over a drop and its users who would lose a slot, each with that slot. An operator sends
/// it to confirm exactly these repairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(pub u64);

/// Repairs that wait for a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HeldBack {
    /// Users who would lose the slot that Redis shows.
    pub users: u64,
    /// What confirms these repairs, and no others.
    #[schema(value_type = String, example = "5f0c1d2e3a4b6978")]
    pub fingerprint: Fingerprint,
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = u64::from_str_radix(text, 16).ok();
        let fingerprint = number.map(Self).filter(|it| it.to_string() == text);
        fingerprint
            .ok_or_else(|| format!("{text:?} is not 16 hex digits, as a dry run prints them"))
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}
