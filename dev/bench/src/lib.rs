//! Measures Firstcome against its own ceilings and against other designs, in one run on real
//! servers.
//!
//! - [`designs`]: the usual designs of first-come coupons, as programs.
//! - [`sections`]: the measurements. Each can run alone, and starts once the machine is [`quiet`].
//! - [`stores`]: the least work on the stores that has the same result as the product.
//! - [`report`]: the table and `report.json`.
//!
//! `firstcome-load` generates the load and starts the processes.

pub mod cli;
pub mod designs;
pub mod quiet;
pub mod report;
pub mod sections;
pub mod stores;
