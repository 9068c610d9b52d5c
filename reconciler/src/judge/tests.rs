//! Helpers that the tests of `judge` share.

use chrono::DateTime;
use firstcome_shared::domain::OncePer;
use firstcome_shared::model::Revocation;
use firstcome_shared::redis::keys::DropMeta;
use firstcome_shared::redis::reads::LoadedDrop;

mod healthy;
mod table;

/// Returns the state of a drop that has its keys and settings.
fn loaded(count: Option<i64>, users: u64, free: u64) -> LoadedDrop {
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
    LoadedDrop {
        has_keys: true,
        meta: Some(meta),
        count,
        users,
        free,
        ..LoadedDrop::default()
    }
}

/// Returns a revocation of the user's claims until this time, or of all.
fn revocation(id: i64, drop_id: i64, user: &str, again_from_ms: Option<i64>) -> Revocation {
    let at = |ms| DateTime::from_timestamp_millis(ms).unwrap();
    Revocation {
        id,
        coupon_id: 1,
        drop_id,
        slot: None,
        user_id: user.to_owned(),
        reason: String::new(),
        revoked_by: String::new(),
        may_claim_again: again_from_ms.is_some(),
        revoked_at: at(0),
        again_from: again_from_ms.map(at),
    }
}
