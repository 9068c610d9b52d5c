//! Redis: key names ([`keys`]), admission ([`admission`]), the admission gate with its fencing
//! tokens ([`gate`]) and the servers that it names ([`servers`]), settings ([`settings`]) and allow
//! lists ([`allow_list`]), the projection of MySQL's rows ([`project`]), revocations
//! ([`revoking`]), reads (of coupons and drops [`reads`], of holders [`holders`], of one user
//! [`standing`]), a copy of the coupons ([`copy`]), expiry ([`expiry`]), and checks that detect a
//! Redis that is not durable ([`safety`]), or that refuses writes ([`refusing`]).

pub mod admission;
pub mod allow_list;
pub mod client;
mod connection;
pub mod copy;
pub(crate) mod deployment;
mod ended_sessions;
pub mod expiry;
pub mod gate;
pub mod holders;
pub mod keys;
pub mod project;
pub mod reads;
pub mod refusing;
pub mod revoking;
pub mod safety;
pub mod servers;
pub mod settings;
pub mod standing;
pub mod wrong_key;

pub use client::Redis;
pub use connection::SharedConnection;
pub use deployment::{RedisDurability, RedisMode, RedisSettings};
pub use redis::{RedisError, Value};
