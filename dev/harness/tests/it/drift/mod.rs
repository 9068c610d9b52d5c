//! Drift: damage is done deliberately, found, repaired and reported.

pub(crate) mod damage;
mod dead_letters;
mod next_day;
mod people;
mod reopened;
mod repair_limit;
pub(crate) mod sealing;
mod side_by_side;
mod sizes;
mod stores;
pub(crate) mod support;
