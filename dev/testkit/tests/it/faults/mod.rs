//! Faults: schedules of single faults, crash points, and faults that are checked for more than an
//! exact result.

mod brokers;
mod calm;
mod clocks;
mod clusters;
mod cycles;
mod gate;
mod judge;
mod late;
mod memory;
mod mysql_failover;
mod older_state;
mod outages;
mod redis_servers;
mod second_store;
mod silent;
mod single;
pub(crate) mod waves;
