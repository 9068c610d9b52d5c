//! The whole system on this machine: the demo, and `make run`.
//!
//! - [`system`] starts it on private servers; [`folder`] is the output folder of `make run`.
//! - [`demo`] lets a crowd claim and injects [`faults`] meanwhile; then the [`proof`] decides, and
//!   [`outcome`] describes the result. [`attach`] shows five systems of others.

pub mod attach;
pub mod demo;
pub mod faults;
pub mod folder;
pub mod outcome;
pub mod proof;
pub mod system;
