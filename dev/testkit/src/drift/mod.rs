//! The drift injector deliberately creates each kind of drift in a running system, to try out the
//! reconciler and to prove that it detects each kind.
//!
//! The injector uses the product's names of keys and tables but bypasses all its rules, as a crash,
//! a lost disk or a manual change would. Never use it on a production system.
//!
//! Each call of one [`Injector`] affects users that no earlier call has affected, so that several
//! kinds can be injected into one drop.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

mod injector;
mod kind;
mod kinds;
mod stall;
mod store_args;

pub use injector::{AffectedPerson, Injected, Injector};
pub use kind::Drift;
pub use stall::Stall;
pub use store_args::DriftStoreArgs;
