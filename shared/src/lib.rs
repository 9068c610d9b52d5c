//! The code that the API and the reconciler of Firstcome share: domain types, the names of keys,
//! tables and topics, the scripts that Redis runs, and what every process needs (settings, logs,
//! shutdown, HTTP front).
//!
//! Only this crate knows key names, table names and the form of the event.

pub mod allow_list;
pub mod config;
pub mod coupon;
pub mod crash;
pub mod domain;
pub mod drops;
pub mod event;
pub mod http;
pub mod kafka;
pub mod line_limit;
pub mod mysql;
pub mod quoted;
pub mod recover;
pub mod redis;
pub mod report;
pub mod schedule;
pub mod shutdown;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod tuning;
