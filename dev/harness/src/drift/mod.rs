//! Damage for tests and demonstrations (`firstcome-drift`): deliberately made differences between
//! the stores, each named after a finding that may report it. It is written with plain SQL and
//! Redis commands, so no change of the product can hide it.

mod injector;
mod kind;

pub use injector::{AffectedUser, Injected, Injector};
pub use kind::Drift;
