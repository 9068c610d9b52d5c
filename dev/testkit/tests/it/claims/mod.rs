//! Claims: crowds, unusual user ids, slow clients, returns and revocations, daily drops.

mod acknowledged;
mod daily;
mod identity;
pub(crate) mod many;
mod revoked;
mod revoked_any_time;
mod slow;
