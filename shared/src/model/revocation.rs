//! Revocations (docs/decisions/0013-revoking.md): which claims are void.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;

use crate::domain::{DropId, OncePer, Slot, UserId};
use crate::schema::revoked_coupons;

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, QueryableByName)]
#[diesel(table_name = revoked_coupons)]
pub struct Revocation {
    pub id: i64,
    pub coupon_id: i64,
    pub drop_id: i64,
    /// The user's slot, or `None` if there was none or it is unknown.
    pub slot: Option<Slot>,
    pub user_id: String,
    pub reason: String,
    pub revoked_by: String,
    pub may_claim_again: bool,
    pub revoked_at: DateTime<Utc>,
    /// Claims admitted after this time, by Redis's clock, are valid again. `None` means that no
    /// claim is.
    pub again_from: Option<DateTime<Utc>>,
}

impl Revocation {
    /// Converts `again_from` to Unix milliseconds.
    pub fn again_from_ms(&self) -> Option<i64> {
        self.again_from.map(|at| at.timestamp_millis())
    }

    /// Whether it was written or ended within the last second, by this host's clock: its API may
    /// not have told Redis yet.
    pub fn is_young(&self) -> bool {
        let now = Utc::now();
        let second = TimeDelta::seconds(1);
        (now - self.revoked_at).abs() < second
            || self.again_from.is_some_and(|at| (now - at).abs() < second)
    }

    /// Whether the revocation voids a claim of its user that was admitted at this time; `None` is
    /// an unknown time.
    pub fn voids(&self, admitted_at_ms: Option<i64>) -> bool {
        self.again_from_ms()
            .is_none_or(|from| admitted_at_ms.is_some_and(|at| at <= from))
    }

    /// Whether the user may claim again but the revocation has not ended yet.
    pub fn is_to_be_ended(&self) -> bool {
        self.may_claim_again && self.again_from.is_none()
    }
}

/// The revocations in one coupon by user, which determine the void claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations(HashMap<String, Vec<Revocation>>);

impl Revocations {
    /// Keeps only the revocations in scope: those of `drop` if one coupon per drop is allowed.
    pub fn new(all: Vec<Revocation>, once_per: OncePer, drop: DropId) -> Self {
        let mut own = Self::default();
        for one in all {
            if once_per == OncePer::Coupon || one.drop_id == drop.0 {
                own.0.entry(one.user_id.clone()).or_default().push(one);
            }
        }
        own
    }

    /// Whether a claim admitted at this time (Unix milliseconds) is void.
    pub fn voids(&self, user: &UserId, admitted_at_ms: Option<i64>) -> bool {
        self.voiding(user, admitted_at_ms).is_some()
    }

    /// Returns the first revocation that voids the claim.
    pub fn voiding(&self, user: &UserId, admitted_at_ms: Option<i64>) -> Option<&Revocation> {
        let own = self.0.get(user.as_str())?;
        own.iter().find(|one| one.voids(admitted_at_ms))
    }
}
