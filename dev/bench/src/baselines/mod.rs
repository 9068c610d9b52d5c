//! Baselines: other designs of first-come coupons and the least that a route can do, to be compared
//! with Firstcome.
//!
//! - [`designs`]: each one as write-ups end with it, behind the same HTTP front as Firstcome.
//! - [`comparison`]: the same rush on each of them and on Firstcome, as table and picture.
//! - [`routes`]: a route that does nothing, and one that does only the necessary.

pub mod comparison;
pub mod designs;
pub mod routes;

pub use comparison::{Comparison, DesignRun, RushSize};
pub use designs::Design;

/// The program of the designs' processes.
pub const PROGRAM: &str = "firstcome-baselines";
