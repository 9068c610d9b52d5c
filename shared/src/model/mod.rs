//! Types and rules that several stores and services share. They import no store.

mod dead_letter_reason;
mod lost_drops;
mod owed_user;
mod recorded_act;
mod revocation;
mod secrets;

pub use dead_letter_reason::DeadLetterReason;
pub(crate) use lost_drops::is_missing;
pub use lost_drops::is_one_lost;
pub use owed_user::OwedUser;
pub use recorded_act::RecordedAct;
pub use revocation::{Revocation, Revocations};
pub(crate) use secrets::secrets;
