//! Reads the topic without causing a rebalance and without committing offsets: its unread tail for
//! passes, and one user's messages for `explain`.

mod messages;
mod reader;
mod tail;
mod to_the_ends;

pub use messages::{PersonMessage, PersonMessages};
pub use reader::{Tail, TopicReader, Unread, WentBack};
pub use tail::InFlight;
pub(crate) use tail::{Extent, Messages};
