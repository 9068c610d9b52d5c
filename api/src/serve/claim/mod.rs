//! One claim: [`admit`] decides through Redis, in a call that [`batcher`] shares among concurrent
//! claims, which wait for it in a [`queue`]. [`second_store`] makes sure that Kafka or MySQL holds
//! the claim before the response, which [`outcome`] builds. [`status`] returns the status of a
//! claim, and [`revoke`] ends one.

pub(crate) mod admit;
mod batcher;
pub(crate) mod kafka;
pub(crate) mod outcome;
pub(crate) mod pending;
mod polled_producer;
pub(crate) mod queue;
mod refusal;
pub(crate) mod revoke;
pub(crate) mod second_store;
pub(crate) mod status;
