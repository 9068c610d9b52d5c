//! The whole system on this machine: the demo, and `make run`.
//!
//! - [`system`] starts it on private servers; [`folder`] is the output folder of `make run`.
//! - [`demo`] lets a crowd claim, injects [`faults`] meanwhile, waits, and lets the [`proof`]
//!   decide; [`outcome`] describes the result.

pub mod demo;
pub mod faults;
pub mod folder;
pub mod outcome;
pub mod proof;
pub mod system;
