//! Claims: crowds, unusual user IDs, slow clients, returns and revocations, daily drops.

mod daily;
pub(crate) mod many;
mod revoked;
mod revoked_any_time;
