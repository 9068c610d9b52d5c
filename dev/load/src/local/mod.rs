//! The whole system on this machine: the demo, and `make run`.
//!
//! - [`system`] starts it on private servers; [`folder`] is where `make run` writes.
//! - [`demo`] lets a crowd claim, injects [`faults`] meanwhile, waits, and has the [`proof`]
//!   decide; [`outcome`] words the result.

pub mod demo;
pub mod faults;
pub mod folder;
pub mod outcome;
pub mod proof;
pub mod system;
