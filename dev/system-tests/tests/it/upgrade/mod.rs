//! Programs of two releases side by side. `cargo xtask upgrade-test` builds those of others and
//! runs these.

mod both_ways;
mod crowd;
mod orders;
mod system;
