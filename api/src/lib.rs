//! The API of Firstcome: [`serve`] admits people, [`consume`] turns admissions into rows,
//! [`migrate`] makes what both need, [`coupon`] is the command line of operators.

pub mod cli;
pub mod consume;
pub mod coupon;
pub mod migrate;
mod percent;
pub mod serve;
mod stores;
