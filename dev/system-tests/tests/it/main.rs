//! What the whole system must show, on real servers and with the real binaries. Each file has one theme; test names read as
//! assertions. Build the binaries first: `cargo build --workspace && cargo test -p firstcome-system-tests`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests too

mod answers;
mod consumer;
mod daily;
mod database;
mod outages;
mod processes;
mod repairs;
mod rush;
mod schema;
mod startup;
