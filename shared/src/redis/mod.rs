//! Redis: key names ([`keys`]), admission ([`admission`]), its gate and fencing tokens ([`gate`]),
//! the scripts repairs are made of ([`repair`]), reads (for passes [`reads`], of one person
//! [`standing`], for the public [`stock`]), and the checks that refuse a Redis that could forget
//! ([`safety`]).

pub mod admission;
pub mod allow_list;
mod bridge;
mod claimants;
pub mod client;
mod connection;
mod ended_sessions;
mod expiry;
pub mod gate;
pub mod given;
pub mod keys;
pub mod life;
mod link;
mod people_of_drops;
pub mod reads;
pub mod repair;
pub mod revoking;
mod router;
pub mod safety;
pub mod server;
pub(crate) mod servers;
pub mod standing;
pub mod stock;
mod traces;
pub mod wake;
mod why_not;
pub mod wrong_key;

pub use client::{Redis, RedisDurability, RedisSettings};
pub use connection::SharedConnection;
pub use redis::{RedisError, Value};
pub use servers::{RedisMode, SentinelSettings};
pub use traces::AdmissionKey;
