//! Tests of the demo's parts against real servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail by panicking"
)]

mod compose;
mod faults;
mod whole;
