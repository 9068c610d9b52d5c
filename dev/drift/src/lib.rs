//! The drift injector: deliberately creates each kind of drift in a running system, to try out the
//! reconciler and to prove that it detects each kind.
//!
//! It uses the product's own names of keys and tables but bypasses all its rules, as a crash, a
//! lost disk or a manual change would. Never point it at a production system.
//!
//! ```no_run
//! # async fn demo(stores: firstcome_drift::DriftStoreArgs) -> anyhow::Result<()> {
//! use firstcome_drift::{Drift, Injector};
//! let mut injector = Injector::new(&stores, None, None).await?;
//! let done = injector.make(Drift::Unissued, 3).await?;
//! println!("{}", done.summary); // and `done.people` names those who lost their row
//! # Ok(()) }
//! ```
//!
//! Each call of one [`Injector`] hits users that no earlier call has hit, so that several kinds can
//! be injected into one drop.

mod injector;
mod kind;
mod kinds;
mod stall;
mod store_args;

pub use injector::{AffectedPerson, Injected, Injector};
pub use kind::Drift;
pub use stall::Stall;
pub use store_args::DriftStoreArgs;
