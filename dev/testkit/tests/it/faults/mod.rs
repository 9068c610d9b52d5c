//! Faults: single faults as schedules, crash points, and faults that need more than exactness.

mod brokers;
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
