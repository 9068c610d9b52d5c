//! MySQL: what the schema refuses by itself, and queries whose futures are dropped.

mod changes;
mod limits;
mod queries;
