//! Runs the checker on good and spoiled histories, and as a program.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod allowed;
mod events;
mod good;
mod program;
mod properties;
mod revoked;
mod spoiled;
