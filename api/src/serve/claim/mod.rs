//! One claim: [`admit`] decides by Redis, in a [`micro_batch`] with the claims of the same moment;
//! [`durability`] makes sure that a second store holds it before the answer. [`in_flight`] limits
//! how many are worked on, and [`my_claim`] says later where one stands.

pub(crate) mod admit;
pub(crate) mod durability;
pub(crate) mod in_flight;
mod issued;
mod micro_batch;
pub(crate) mod my_claim;
pub(crate) mod outcome;
pub(crate) mod publisher;
mod refusal;
pub(crate) mod revoke;

pub(crate) use outcome::ClaimAnswer;
pub(crate) use refusal::ClaimRefusal;
