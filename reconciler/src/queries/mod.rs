//! The queries that only the reconciler makes, by what they read. Those of several programs are in
//! `shared/src/mysql`.

pub(crate) mod coupons;
pub(crate) mod dead_letters;
pub(crate) mod drops;
pub(crate) mod letters;
pub(crate) mod processes;
pub(crate) mod promises;
pub(crate) mod revocations;
pub(crate) mod rows;
pub(crate) mod runs;
pub(crate) mod uses;
