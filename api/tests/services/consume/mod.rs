//! `consume` on real servers: every claim becomes one row or one dead letter.

mod batches;
mod faults;
mod issuing;
mod judged;
mod pacing;
mod positions;
mod processes;
mod refusals;
mod world;
