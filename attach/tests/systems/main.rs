//! Coupon systems of other teams over real stores: each is described by a file, broken, named, and
//! repaired if that can be proved.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod checks;
mod cost;
mod crowd;
mod daemon;
mod harm;
mod locks;
mod products;
mod queue;
mod repairs;
mod schedules;
mod shapes;
mod system;
mod world;
