//! Faults: crash points, and single faults whose tests show more than exactness.

mod clocks;
mod crashes;
mod cycles;
mod disks;
mod links;
mod mysql;
mod outages;
mod redis;
mod restarts;
pub(crate) mod scene;
mod second_store;
