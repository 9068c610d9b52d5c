//! The API of Firstcome: [`serve`] admits people, [`consume`] turns admissions into rows,
//! [`migrate`] creates what both need, [`coupon`] is the operators' command line.

pub mod cli;
pub mod consume;
pub mod coupon;
pub mod migrate;
mod percent;
pub mod serve;
mod stores;
