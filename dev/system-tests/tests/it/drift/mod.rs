//! Drift: each kind is made on purpose, found, repaired and reported.

mod allowed;
mod asked;
mod broken;
mod crashes;
mod ended;
mod explain;
mod failed_claims;
mod flight;
mod foreign;
mod forged;
pub(crate) mod gone_back;
pub(crate) mod kinds;
mod left;
mod load;
mod locked;
mod lost;
mod many;
mod metrics;
mod missed;
mod outages;
mod people;
mod repair_limit;
pub(crate) mod repairs;
mod revoked;
mod sealing;
pub(crate) mod support;
mod waiting;
