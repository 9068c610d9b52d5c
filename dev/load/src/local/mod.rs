//! The whole system on this machine: the demo, and `make run`.
//!
//! - [`system`] starts it on private servers.
//! - [`demo`] lets a crowd claim, injects [`faults`] meanwhile, and then checks the rows.
//! - [`attach`] shows coupon systems of other teams.

pub mod attach;
pub mod demo;
pub mod faults;
pub mod system;
