//! One claim: [`admit`] decides through Redis, in a call that [`batcher`] shares among concurrent
//! claims. [`second_store`] makes sure that Kafka or MySQL holds the claim before the response,
//! which [`outcome`] is. [`status`] returns the status of a claim, and [`revoke`] ends one.

pub(crate) mod admit;
pub(crate) mod batcher;
pub(crate) mod kafka;
pub(crate) mod outcome;
mod refusal;
pub(crate) mod revoke;
pub(crate) mod second_store;
pub(crate) mod status;
