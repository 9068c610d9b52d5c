//! Baselines to compare Firstcome with: other designs of first-come coupons, and a route that does
//! nothing.
//!
//! - [`designs`]: the usual designs, behind the same HTTP front as Firstcome.
//! - [`comparison`]: the same rush on each of them and on Firstcome, as a table.
//! - [`routes`]: a route that does nothing.

pub mod comparison;
pub mod designs;
pub mod routes;

pub use comparison::{Comparison, DesignRun, RushSize};
pub use designs::Design;

/// The program for the processes of the designs.
pub const PROGRAM: &str = "firstcome-baselines";
