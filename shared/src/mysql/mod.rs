//! MySQL: the one place where queries run ([`Db`]), the tables ([`schema`]), and the queries both
//! packages need.

pub mod alerts;
pub mod catalogue;
pub mod change;
mod db;
pub mod dead_letters;
pub mod digest;
pub mod issued;
pub mod migrations;
pub mod outbox;
pub mod pass_lock;
pub mod promises;
pub mod runs;
pub mod schema;
pub mod sealed;

pub use db::{AsyncFunc, Conn, Db, DbError, DbSettings, Refusal, refusal};
