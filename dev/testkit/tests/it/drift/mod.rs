//! Drift: each kind is injected deliberately, found, repaired and reported.

mod allowed;
mod asked;
mod broken;
mod ended;
mod explain;
mod flight;
mod foreign;
mod forged;
mod gone_back;
pub(crate) mod kinds;
mod left;
mod locked;
mod lost;
mod lost_rows;
mod many;
mod missed;
mod next_day;
mod one_key;
mod outages;
mod people;
mod repair_limit;
pub(crate) mod repairs;
mod revoked;
mod sealing;
pub(crate) mod support;
