//! Seeded fault schedules on real servers and real processes: `make chaos SEEDS=20`.
//!
//! - [`schedule`]: one seed, one schedule: who asks for how many, and which [`fault`] comes when.
//! - [`ground`]: Redis, MySQL and Kafka, each behind a proxy; [`cast`]: our processes, kept running; [`stage`]: both, for one schedule.
//! - [`inflict()`]: makes a fault happen and says whether it took effect.
//! - [`crowd`]: people who ask until they are answered, recorded in a history (`firstcome-histories`).
//! - [`run`]: faults on, healed, exact, judged; [`truth`]: what the stores say in the end.
//! - [`campaign`]: many of them; [`mod@shrink`]: which faults a failure needs; [`report`]: what was shown.
//! - [`soak`]: half an hour of traffic and faults on one system, and what it holds on to meanwhile ([`gauge`]).

pub mod campaign;
pub mod cast;
pub mod crowd;
pub mod fault;
pub mod gauge;
pub mod ground;
pub mod inflict;
pub mod report;
pub mod run;
pub mod schedule;
pub mod shrink;
pub mod soak;
pub mod stage;
pub mod truth;

pub use inflict::inflict;
