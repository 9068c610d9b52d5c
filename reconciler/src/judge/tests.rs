//! What the tests of `judge` share.

use firstcome_shared::domain::OncePer;
use firstcome_shared::redis::keys::DropMeta;
use firstcome_shared::redis::reads::DropState;

mod healthy;
mod table;

/// Returns the state of a drop that has its keys and settings.
fn loaded(count: Option<i64>, users: u64, free: u64) -> DropState {
    let meta = DropMeta {
        quantity: 4,
        opens_at_ms: 0,
        closes_at_ms: None,
        paused: false,
        once_per: OncePer::Drop,
        waiting_list: 0,
        closed_early: false,
        allow: None,
    };
    DropState {
        has_keys: true,
        meta: Some(meta),
        count,
        users,
        free,
        ..DropState::default()
    }
}
