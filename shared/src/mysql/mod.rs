//! MySQL: the one place where queries run ([`Db`]), and the queries that several packages need.

pub mod allow_list;
pub mod catalogue;
pub mod change;
pub mod code_key;
pub mod codes;
mod connect;
mod db;
pub mod dead_letters;
pub mod erased;
mod ids;
pub mod issued;
pub mod levels;
pub mod migrations;
pub mod ops_actions;
pub mod positions;
mod prepared;
pub mod processes;
mod product;
pub mod promises;
mod refusal;
pub mod revoked;
pub mod row_pages;
pub mod runs;
#[cfg(test)]
mod schema_tests;
pub mod sealed;
mod slot_limits;
pub mod stored_run;
mod take_out;
pub mod used_rows;
pub mod uses;
pub mod void;

use std::collections::BTreeSet;

pub use connect::Conn;
pub use db::{AsyncFunc, Db, DbError, DbResult, DbSettings};
pub use prepared::Prepared;
pub use refusal::{DataRefusal, refusal};

/// Rows inserted per statement: mails and messages may have several kilobytes.
pub const ROWS_AT_ONCE: usize = 200;

/// Lists users as the JSON array that a query joins. MySQL refuses to compare its ASCII columns
/// with other characters, and no row has them, so ids with other characters are left out.
fn ascii<'u>(users: impl Iterator<Item = &'u str>) -> String {
    json(
        &users
            .filter(|user| user.is_ascii())
            .collect::<BTreeSet<_>>(),
    )
}

/// Serializes a value as JSON, for a column or as the list parameter of a query (`JSON_TABLE`).
pub fn json(value: &impl serde::Serialize) -> String {
    serde_json::json!(value).to_string()
}
