//! One claim: [`admit`] decides through Redis, in a call that [`batcher`] shares among concurrent
//! claims. [`second_store`] makes sure that Kafka or MySQL holds the claim before the response,
//! which [`outcome`] is. [`in_flight`] limits the number of claims in progress, and [`status`]
//! returns the status of a claim.

pub(crate) mod admit;
mod batcher;
pub(crate) mod fallback;
pub(crate) mod in_flight;
pub(crate) mod kafka;
pub(crate) mod outcome;
pub(crate) mod revoke;
pub(crate) mod second_store;
pub(crate) mod status;

pub(crate) use outcome::ClaimAnswer;
