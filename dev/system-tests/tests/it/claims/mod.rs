//! Claims: what is answered, to many at once, to one person, over days.

mod acknowledged;
mod answers;
mod daily;
mod identity;
pub(crate) mod many;
mod revoked;
mod slow;
