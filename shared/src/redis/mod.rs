//! Redis: key names ([`keys`]), admission ([`admission`]), the scripts repairs are made of ([`repair`]), and the checks that
//! refuse a Redis that could forget ([`safety`]).

pub mod admission;
mod client;
mod connection;
pub mod keys;
pub mod meta;
pub mod reads;
pub mod repair;
pub mod safety;
mod scripts;

pub use client::{Redis, RedisSettings};
pub use connection::Connection;
pub use redis::{RedisError, Value};
