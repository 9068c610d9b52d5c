//! Faults: schedules of single faults, crash points, and faults that are checked for more than an
//! exact result.

mod clusters;
mod cycles;
mod gate;
mod judge;
mod mysql_failover;
mod single;
pub(crate) mod waves;
