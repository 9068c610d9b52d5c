//! Fault schedules on real servers and real processes: `make chaos SEEDS=20`.
//!
//! - [`schedule`]: the crowd, its coupons, the time of each [`fault`], and expectations besides
//!   exactness ([`expect`]). Each seed gives one schedule.
//! - [`servers`]: Redis, MySQL and Kafka, each behind a proxy; `supervisor`: restarts our processes
//!   when they end; `system`: the system under test, which combines these.
//! - `inject`: injects a fault and reports whether it had an effect.
//! - `clients`: users who claim until they get an answer; a history records all of it.
//! - `operators`: two operators who keep changing coupons.
//! - `shops`: two shops that use codes and undo uses.
//! - [`run`]: runs the faults, and judges the history; `recovery`: waits for an exact result that
//!   stays exact; `verify`: reads the stores at the end; `excuses`: the deviations that are allowed,
//!   which depend on `facts`.
//! - [`campaign`]: many schedules, each run by a [`worker`]; [`mod@shrink`]: finds the faults that
//!   a failure needs; [`report`]: a summary.

pub mod campaign;
mod clients;
mod effect;
mod excuses;
pub mod expect;
mod facts;
pub mod fault;
mod gates;
mod inject;
mod operators;
mod recovery;
pub mod report;
pub mod run;
pub mod schedule;
pub mod servers;
mod shops;
pub mod shrink;
mod supervisor;
mod system;
mod verify;
mod wait;
pub mod worker;
