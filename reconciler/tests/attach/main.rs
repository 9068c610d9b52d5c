//! Tests of `attach` on real servers: coupon systems as others build them, with the faults that
//! occur in them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod config;
mod crash;
mod crowd;
mod harmless;
mod http;
mod judged;
mod program;
mod property;
mod shapes;
mod start;
mod strangers;
mod world;
