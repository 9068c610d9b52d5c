//! MySQL: the schema's constraints, and queries whose futures are dropped.

mod changes;
mod limits;
mod queries;
