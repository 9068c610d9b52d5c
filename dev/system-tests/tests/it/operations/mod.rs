//! Operators and processes: changes of coupons, stops and kills.

mod catalogue;
mod changes;
mod processes;
mod promotion;
mod silent_stops;
mod sizes;
