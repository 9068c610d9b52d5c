//! Mails: their texts, stored as snapshots, and their delivery, with a real MySQL and a real mail
//! server; and webhooks.
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
