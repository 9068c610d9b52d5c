//! The drift injector: makes each kind of drift on purpose in a running system, to try the
//! reconciler out, and to prove that each kind is caught.
//!
//! It writes where the product writes, and by the product's own names of keys and tables, but past
//! all its rules: what it does is what a crash, a lost disk or a hand at a console would have done.
//! Never point it at a system that people use.
//!
//! Each call of one [`Injector`] hits people that no earlier call has hit, so that several kinds
//! can be made in one drop.
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
