//! The queries that only the reconciler makes, by what they read. Those of several programs are in
//! `shared/src/mysql`.

use firstcome_shared::domain::{CouponId, DropId};

pub(crate) mod coupons;
pub(crate) mod dead_letters;
pub(crate) mod drops;
pub(crate) mod letters;
pub(crate) mod processes;
pub(crate) mod promises;
pub(crate) mod revocations;
pub(crate) mod rows;
pub(crate) mod runs;
pub(crate) mod uses;

/// What a pass looks at: by default, everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scope {
    pub coupon: Option<CouponId>,
    pub drop: Option<DropId>,
}

impl Scope {
    pub fn is_everything(self) -> bool {
        self.coupon.is_none() && self.drop.is_none()
    }

    pub fn has(self, coupon: CouponId, drop: DropId) -> bool {
        self.coupon.is_none_or(|own| own == coupon) && self.drop.is_none_or(|own| own == drop)
    }
}
