//! MySQL: the schema's constraints, and queries whose futures are dropped before they complete.

mod changes;
mod limits;
mod queries;
