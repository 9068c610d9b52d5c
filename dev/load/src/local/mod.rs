//! The whole system on this machine: the demo, and `make run`.
//!
//! - [`system`] starts it on private servers.
//! - [`demo`] lets a crowd claim and injects [`faults`] meanwhile; then the rows decide.
//! - [`attach`] shows systems of others.

pub mod attach;
pub mod demo;
pub mod faults;
pub mod system;
