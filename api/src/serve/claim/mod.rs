//! One claim: [`admit`] decides through Redis, in a [`micro_batch`] with concurrent claims.
//! [`durability`] makes sure that a second store holds the claim before the response. [`in_flight`]
//! limits the number of claims in progress, and [`my_claim`] returns the status of a claim.

pub(crate) mod admit;
pub(crate) mod durability;
pub(crate) mod fallback;
pub(crate) mod in_flight;
mod micro_batch;
pub(crate) mod my_claim;
pub(crate) mod outcome;
pub(crate) mod publisher;
mod refusal;
pub(crate) mod revoke;
mod singleflight;

pub(crate) use outcome::ClaimAnswer;
pub(crate) use refusal::ClaimRefusal;
