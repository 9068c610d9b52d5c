//! The API of Firstcome: [`serve`] admits users, [`consume`] turns admissions into rows,
//! [`migrate`] creates tables and topic, [`coupon`] is the command line for operators.
#![warn(clippy::print_stdout, clippy::print_stderr)] // `println!` panics if output fails

pub mod cli;
pub mod consume;
pub mod coupon;
mod metrics;
pub mod migrate;
mod rows;
pub mod serve;
mod start_check;
mod user_list;
