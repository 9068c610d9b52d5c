//! Runs the checker on good and spoiled histories.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod allowed;
mod events;
mod revoked;
mod spoiled;
