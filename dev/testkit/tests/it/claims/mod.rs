//! Claims: the answers to crowds, to one user, and over days.

mod acknowledged;
mod daily;
mod identity;
pub(crate) mod many;
mod revoked;
mod slow;
