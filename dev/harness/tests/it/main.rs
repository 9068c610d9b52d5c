//! Tests of the whole system, on real servers and with the real binaries. There is one file or
//! folder per theme, and test names read as assertions. Build the binaries first: `cargo build
//! --workspace`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers may panic, as tests may
#![allow(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

mod attach;
mod attack;
mod claims;
mod consumer;
mod drift;
mod faults;
mod operations;
mod pace;
mod pages;
mod prelude;
mod queries;
mod receiver;
mod restore;
mod schema;
mod start_up;
mod tls;
mod uses;
mod watch;
