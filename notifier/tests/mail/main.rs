//! Mails: what they say, kept as snapshots, and how they travel, over a real MySQL and a real mail
//! server; and what goes out beside them, to webhooks.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admission;
mod desk;
mod mailed;
mod operators;
mod outages;
mod outbox;
mod receiver;
mod rendered;
mod test_email;
mod webhooks;
mod world;
