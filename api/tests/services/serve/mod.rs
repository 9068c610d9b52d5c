//! `serve` on real servers, through HTTP.

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
mod table;
mod uses;
mod who;
mod world;
