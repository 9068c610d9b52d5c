//! The whole system on this machine: the demo, and `make run`.
//!
//! - [`system`] starts it on private servers.
//! - [`demo`] lets a crowd claim, injects [`faults`] meanwhile, waits, and lets the [`proof`]
//!   decide; [`outcome`] describes the result.

pub mod demo;
pub mod faults;
pub mod outcome;
pub mod proof;
pub mod system;
