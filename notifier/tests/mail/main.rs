//! Tests the texts of mails with snapshots, and the delivery of mails and webhooks with a real
//! MySQL and a real mail server.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod desk;
mod mailed;
mod moments;
mod operators;
mod outbox;
mod receiver;
mod rendered;
mod stores;
mod test_email;
mod webhooks;
mod world;
