//! The API of Firstcome: [`serve`] admits people, [`consume`] turns admissions into rows,
//! [`migrate`] makes what both need.

pub mod cli;
pub mod consume;
pub mod migrate;
pub mod serve;
mod stores;
