//! MySQL: the one place where queries run ([`Db`]), the tables ([`schema`]), and the queries both packages need.

pub mod alerts;
pub mod catalogue;
pub mod change;
mod db;
pub mod digest;
pub mod failed;
pub mod issued;
pub mod migrations;
pub mod outbox;
pub mod person;
mod refusal;
pub mod schema;
pub mod state;

pub use db::{AsyncFunc, Conn, Db, DbError, DbSettings};
pub use refusal::{Refusal, refusal};
