//! The API of Firstcome: [`serve`] admits users, [`consume`] turns admissions into rows,
//! [`migrate`] creates tables and topic, [`coupon`] is the command line for operators.
#![warn(clippy::print_stdout, clippy::print_stderr)] // `say!` and `complain!` never end the program

pub mod cli;
pub mod consume;
pub mod coupon;
mod metrics;
pub mod migrate;
mod rows;
pub mod serve;
mod start_check;
mod user_list;
