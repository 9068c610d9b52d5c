//! Tests in which programs of two releases run together. `cargo xtask upgrade-test` builds the
//! other releases and runs these tests.

mod both_ways;
mod crowd;
mod orders;
mod system;
