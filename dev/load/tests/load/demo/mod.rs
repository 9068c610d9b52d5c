//! What the demo rests on, against real servers.

mod compose;
mod faults;
mod whole;
