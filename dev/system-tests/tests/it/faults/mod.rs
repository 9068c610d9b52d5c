//! Each fault alone, in a test of its own: no promise is broken. docs/RELIABILITY.md says which test shows which fault; some
//! live with the theme they belong to (`outages`, `crashes`, `processes`, `repairs`, `consumer`).

mod clocks;
mod disks;
mod links;
mod mysql;
mod redis;
mod scene;
mod silent;
mod stops;
mod stuck;
