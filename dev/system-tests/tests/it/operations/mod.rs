//! Operators and processes: changes of coupons, stops and kills.

mod catalogue;
mod changes;
mod processes;
mod promotion;
mod recording;
mod reopening;
mod scale;
mod silent_stops;
mod sizes;
