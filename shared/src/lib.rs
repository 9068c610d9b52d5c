//! The code shared by Firstcome's programs: domain types, names of keys, tables and topics, Redis
//! scripts, and the parts of every process (settings, logs, shutdown, HTTP front end).
//!
//! Only this package defines the names of Firstcome's Redis keys and the format of messages.
#![warn(clippy::print_stdout, clippy::print_stderr)] // `say!` and `complain!` never end the program

pub mod allow_list;
pub mod claim;
pub mod columns;
pub mod config;
pub mod coupon;
pub mod crash;
pub mod domain;
pub mod drops;
pub mod hash;
pub mod http;
pub mod kafka;
pub mod line_limit;
pub mod model;
pub mod mysql;
pub mod output;
pub mod process_state;
pub mod quoted;
pub mod recover;
pub mod redis;
pub mod report;
pub mod schedule;
#[allow(clippy::wildcard_imports)] // as diesel prints it
pub mod schema;
pub mod shutdown;
pub mod spreadsheet;
pub mod subject;
pub mod telemetry;
pub mod tls;
pub mod trace;
pub mod tuning;

/// Why an operation on MySQL and Redis failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Db(#[from] crate::mysql::DbError),
    #[error("Redis: {0}")]
    Redis(#[from] crate::redis::RedisError),
}
