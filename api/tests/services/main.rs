//! The programs of this crate on real servers. One test program has the tests of both, so that they
//! share their servers.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking
#![allow(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

mod consume;
mod serve;
mod support;
