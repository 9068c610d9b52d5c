//! Other designs of first-come coupons, to be compared with Firstcome.
//!
//! - [`designs`]: each one as write-ups end with it, behind the same HTTP front as Firstcome.
//! - [`comparison`]: the same rush on each of them and on Firstcome, as table, page and picture.

pub mod comparison;
pub mod designs;

pub use comparison::{Comparison, DesignRun, RushSize};
pub use designs::{Design, listen};

/// The program of the designs' processes.
pub const PROGRAM: &str = "firstcome-baselines";
