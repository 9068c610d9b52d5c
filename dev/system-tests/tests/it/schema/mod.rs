//! MySQL: what the schema refuses by itself, and queries whose futures are dropped.

mod limits;
mod queries;
