//! Mails: what they say, kept as snapshots, and how they travel, over a real MySQL and a real mail
//! server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod desk;
mod mailed;
mod operators;
mod outbox;
mod rendered;
mod test_email;
mod world;
