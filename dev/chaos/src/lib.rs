//! Fault schedules on real servers and real processes: `make chaos SEEDS=20`.
//!
//! - [`schedule`]: who asks for how many, which [`fault`] comes when, and what is expected besides
//!   exactness ([`expect`]). A seed gives one schedule.
//! - [`servers`]: Redis, MySQL and Kafka, each behind a proxy; [`clusters`]: several of each;
//!   [`tested`]: one or the other; [`supervisor`]: our processes, restarted when they end;
//!   [`system`]: all, for one schedule: the system under test.
//! - [`inject()`]: makes a fault happen and says whether it took effect.
//! - [`clients`]: people who ask until they are answered, recorded in a history
//!   (`firstcome-histories`).
//! - [`operators`]: two of them, who change coupons all the time.
//! - [`run`]: faults on, healed, exact, judged; [`verify`]: reads the stores at the end;
//!   [`evidence`]: what was seen.
//! - [`campaign`]: many schedules, each by a [`worker`]; [`mod@shrink`]: which faults a failure
//!   needs; [`report`]: a summary.
//! - [`soak`]: half an hour of traffic and faults on one system, and the [`resources`] it uses.

pub mod campaign;
pub mod clients;
mod cluster_schedule;
pub mod clusters;
pub mod evidence;
pub mod expect;
pub mod fault;
pub mod inject;
pub mod operators;
mod place;
mod replica;
pub mod report;
pub mod resources;
pub mod run;
pub mod schedule;
pub mod servers;
pub mod shrink;
pub mod soak;
pub mod supervisor;
pub mod system;
pub mod tested;
pub mod verify;
mod wait;
pub mod worker;

pub use inject::inject;
