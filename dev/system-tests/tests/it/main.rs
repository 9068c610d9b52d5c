//! What the whole system must show, on real servers and with the real binaries. Each file has one theme; test names read as
//! assertions. Build the binaries first: `cargo build --workspace && cargo test -p firstcome-system-tests`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // helpers of tests are tests too

mod acknowledged;
mod answers;
mod backup;
mod checker;
mod consumer;
mod crashes;
mod cycles;
mod daily;
mod database;
mod drift_asked;
mod drift_crashes;
mod drift_explain;
mod drift_flight;
mod drift_kinds;
mod drift_left;
mod drift_load;
mod drift_mail;
mod drift_many;
mod drift_metrics;
mod drift_missed;
mod drift_outages;
mod drift_repair_limit;
mod drift_sealing;
mod drift_support;
mod drift_waiting;
mod faults;
mod operators;
mod outages;
mod processes;
mod repairs;
mod restarts;
mod rush;
mod schema;
mod second_store;
mod slow;
mod startup;
