//! `consume` on real servers: every claim becomes one row or one dead letter.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod batches;
mod faults;
mod issuing;
mod judged;
mod pacing;
mod positions;
mod processes;
mod refusals;
#[path = "../support/mod.rs"]
mod support;
mod world;
