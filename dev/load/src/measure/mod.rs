//! Meters: the cost of a piece of work on the servers, and the contents of the tables.

mod database;
mod meter;
mod process;

pub use database::{CountedRow, Database};
pub use meter::{Cost, Meter, server_cpu};
pub use process::{cpu_seconds, memory_kb};
