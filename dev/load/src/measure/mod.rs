//! Meters: the cost of some work on the servers, and the rows of a coupon.

mod database;
mod meter;
mod process;

pub use database::{CountedRow, Database};
pub use meter::{Cost, Meter, server_cpu};
pub use process::{cpu_seconds, memory_kb};
