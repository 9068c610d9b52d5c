//! Passes over other teams' coupon systems, on real servers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod careful;
mod doubts;
mod judged;
mod members;
mod nulls;
mod published;
mod queue;
mod refused;
mod stock;
mod unclear;
mod world;
