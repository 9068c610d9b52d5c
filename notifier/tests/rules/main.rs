//! Tests the pure rules of alerts: what is wrong as processes and looks say it, and what is told
//! about it over time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod folding;
mod outages;
mod player;
mod situations;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_notifier::times::Policy;

const POLICY: Policy = Policy {
    repeat: TimeDelta::hours(4),
    patience: TimeDelta::seconds(30),
    is_last: false,
};

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}
