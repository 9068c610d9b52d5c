//! Operators and processes: changes of coupons, stops and kills.

mod changes;
mod processes;
mod recording;
mod scale;
mod silent_stops;
mod sizes;
