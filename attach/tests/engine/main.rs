//! The engine against a real MySQL and Redis: what a look costs, and the rules of a repair.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cost;
mod shop;
mod unasked;
