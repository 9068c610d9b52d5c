//! Operators and processes: changes of coupons, stops and kills.

mod catalogue;
mod changes;
mod processes;
mod silent_stops;
mod sizes;
