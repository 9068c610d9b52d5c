//! Redis: key names ([`keys`]), admission ([`admission`]) and its gate ([`gate`]), fencing tokens
//! ([`fencing`]), the
//! scripts repairs are made of ([`repair`]), reads ([`reads`]), and the checks that refuse a Redis
//! that could forget ([`safety`]).

pub mod admission;
mod client;
mod connection;
pub mod fencing;
pub mod gate;
pub mod keys;
pub mod meta;
pub mod reads;
pub mod repair;
pub mod revoking;
pub mod safety;
pub mod wake;

pub use client::{Redis, RedisSettings};
pub use redis::{RedisError, Value};
