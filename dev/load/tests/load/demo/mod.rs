//! Tests of the demo's parts against real servers.

mod compose;
mod whole;
