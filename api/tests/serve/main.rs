//! `serve` on real servers, through HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::too_many_lines, reason = "a scenario reads best in one piece")]

mod admission;
mod allowed;
mod bulkheads;
mod catalogue;
mod changes;
mod defences;
mod fast_path;
mod issued;
mod next_day;
mod operators;
mod pages;
mod people;
mod promises;
mod sold_out;
mod stores_away;
#[path = "../support/mod.rs"]
mod support;
mod uses;
mod who;
mod world;
