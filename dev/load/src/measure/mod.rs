//! Meters: what a piece of work cost the servers, and what the tables hold.

mod database;
mod meter;
mod process;

pub use database::{CountedRow, Database};
pub use meter::{Cost, Meter, server_cpu};
pub use process::{cpu_seconds, memory_kb};
