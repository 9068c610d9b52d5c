//! Passes over coupon systems of others, on real servers.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod careful;
mod doubts;
mod judged;
mod members;
mod published;
mod queue;
mod refused;
mod stock;
mod unclear;
mod world;
