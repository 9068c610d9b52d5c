//! The load generator and the load tool, against small servers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail by panicking")]

mod crowd;
mod rush;
