//! Firstcome beside every other design and beside its own ceilings, measured in one run on real servers.
//!
//! - [`designs`]: the other designs, each a process of its own behind the same HTTP front.
//! - [`ceiling`]: what can't be beaten: routes and straight work that do only what has to be done.
//! - [`load`]: the crowd, a process of its own too; it asks nobody but this machine.
//! - [`sections`]: what is measured; each part can be run alone, and begins when the machine is [`quiet`].
//! - [`report`]: the table, `report.json`, `report.html`.

pub mod ceiling;
pub mod cli;
pub mod designs;
pub mod load;
pub mod meter;
pub mod process;
pub mod quiet;
pub mod report;
pub mod run;
pub mod sections;
pub mod world;
