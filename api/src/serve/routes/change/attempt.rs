//! One attempt at a change, with a new revision.

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{DropId, Slot};
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::mysql::change::CouponChange;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::{DbError, Refusal, refusal};
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::keys::{DropKeys, DropMeta};
use firstcome_shared::redis::settings::{CouponRead, Lowered, Withheld};

use super::body::WantedChange;
use super::windows::{self, WindowPlan, is_not_closed};
use crate::serve::routes::refusals::mysql_unavailable;
use crate::serve::state::Services;

pub(super) struct ChangeAttempt<'a> {
    services: &'a Services,
    /// The coupon when the revision was taken.
    pub(super) coupon: Coupon,
    /// All its drops at that time.
    pub(super) all: Vec<Drop>,
    wanted: &'a WantedChange,
    now: DateTime<Utc>,
    /// The drops that are not closed.
    open: Vec<(Drop, DropKeys)>,
    plan: WindowPlan,
}

/// Drops changed in Redis before MySQL.
type ChangedDrops<'a> = Vec<&'a (Drop, DropKeys)>;

impl<'a> ChangeAttempt<'a> {
    /// Starts an attempt. `now` must not be ahead of Redis's clock.
    pub(super) fn new(
        services: &'a Services,
        coupon: Coupon,
        all: Vec<Drop>,
        wanted: &'a WantedChange,
        now: DateTime<Utc>,
    ) -> Result<Self, Problem> {
        let plan = windows::plan(&coupon, &all, &wanted.windows, now)?;
        let with_keys = |drop: &Drop| (drop.clone(), services.redis.keys(coupon.id, drop.id));
        let mut open: Vec<_> = all
            .iter()
            .filter(|drop| is_not_closed(drop, now))
            .map(with_keys)
            .collect();
        open.sort_unstable_by_key(|(drop, _)| drop.id);
        Ok(Self {
            services,
            coupon,
            all,
            wanted,
            now,
            open,
            plan,
        })
    }

    /// Makes the change, and returns the changed coupon and its drops. Returns `None`, without any
    /// change, if another operator has changed the coupon since.
    pub(super) async fn run(
        &mut self,
        by: Operator,
    ) -> Result<Option<(Coupon, Vec<Drop>)>, Problem> {
        let mut plan = std::mem::take(&mut self.plan);
        let Some((changed, in_use)) = self.change_redis(&plan).await? else {
            return Ok(None);
        };
        plan.drops.retain(|change| !in_use.contains(&change.id));
        let wanted = self.wanted.clone();
        let change = CouponChange {
            name: wanted.name,
            paused: wanted.paused,
            quantity: wanted.quantity,
            waiting_list: wanted.waiting_list,
            allow: wanted.allow,
            schedule: plan.schedule,
            drops: plan.drops,
        };
        let expected = self.open.iter().map(|(drop, _)| drop.clone()).collect();
        let id = self.coupon.id;
        let revision = self.coupon.revision;
        match self
            .services
            .mysql
            .operators
            .change_coupon(id, revision, change, expected, self.now, by)
            .await
        {
            Ok(Some(made)) => Ok(Some(made)),
            Ok(None) => {
                self.restore(&changed).await;
                Ok(None)
            }
            Err(error) => Err(self.not_changed(&error, &changed).await),
        }
    }

    /// Makes the changes that Redis needs before MySQL: lowers quantities, and prevents drops that
    /// will be moved or deleted from opening. Returns the drops that it changed, and the drops that
    /// are in use and must not move. `None` if another operator has changed the coupon since.
    async fn change_redis(
        &self,
        plan: &WindowPlan,
    ) -> Result<Option<(ChangedDrops<'_>, Vec<DropId>)>, Problem> {
        let mut changed = ChangedDrops::new();
        if let Some(new) = self.wanted.quantity {
            changed = self.check_quantity().await?;
            if !self.lower(&changed, new).await? {
                return Ok(None);
            }
        }
        let mut in_use = Vec::new();
        for change in plan.drops.iter().filter(|change| change.unless_claimed) {
            let Some(one) = self.open.iter().find(|(drop, _)| drop.id == change.id) else {
                continue;
            };
            let refused = match self
                .services
                .redis
                .withhold(&one.1, self.coupon.revision)
                .await
            {
                Ok(Withheld::Yes) => {
                    changed.push(one);
                    continue;
                }
                Ok(Withheld::InUse) => {
                    in_use.push(change.id);
                    continue;
                }
                Ok(Withheld::Outdated) => None,
                Ok(Withheld::Unloaded) => Some(being_checked(change.id)),
                Err(error) => {
                    // The call may have succeeded without an answer.
                    changed.push(one);
                    Some(redis_away(&error))
                }
            };
            self.restore(&changed).await;
            return refused.map_or(Ok(None), Err);
        }
        Ok(Some((changed, in_use)))
    }

    /// Returns the drops whose quantity is lowered, or an error if one of them has given out more
    /// than the new quantity. All are checked before any is changed, so that a conflict changes
    /// nothing.
    pub(super) async fn check_quantity(&self) -> Result<ChangedDrops<'_>, Problem> {
        let Some(new) = self.wanted.quantity else {
            return Ok(ChangedDrops::new());
        };
        let lowered: ChangedDrops<'_> = self
            .open
            .iter()
            .filter(|(drop, _)| drop.quantity > new)
            .collect();
        let keys: Vec<&DropKeys> = lowered.iter().map(|(_, keys)| keys).collect();
        let given_out = self
            .services
            .redis
            .given_out(&keys)
            .await
            .map_err(|error| redis_away(&error))?;
        for ((drop, _), given_out) in lowered.iter().zip(given_out) {
            let given_out = given_out.ok_or_else(|| being_checked(drop.id))?;
            if given_out > new {
                return Err(below_given_out(drop.id, given_out));
            }
        }
        Ok(lowered)
    }

    /// Lowers the quantity in Redis, which then gives out no slot above it. Returns `false` if
    /// another operator has changed the coupon since.
    async fn lower(&self, lowered: &[&(Drop, DropKeys)], new: Slot) -> Result<bool, Problem> {
        let read = CouponRead {
            era: self.coupon.era,
            revision: self.coupon.revision,
        };
        for (at, (drop, keys)) in lowered.iter().enumerate() {
            let refused = match self.services.redis.lower(keys, read, new).await {
                Ok(Lowered::Yes) => continue,
                Ok(Lowered::Outdated) => None,
                // A claim arrived after the check above.
                Ok(Lowered::GivenOut(count)) => Some(below_given_out(drop.id, count)),
                Ok(Lowered::Unloaded | Lowered::Unverified) => Some(being_checked(drop.id)),
                Err(error) => Some(redis_away(&error)),
            };
            self.restore(&lowered[..=at]).await;
            return refused.map_or(Ok(false), Err);
        }
        Ok(true)
    }

    /// Restores the settings in Redis. Call it only if MySQL certainly lacks the change. Redis
    /// refuses this write if it has seen a later revision.
    async fn restore(&self, changed: &[&(Drop, DropKeys)]) {
        for (drop, keys) in changed {
            let meta = DropMeta::of(&self.coupon, drop);
            if let Err(error) = self
                .services
                .redis
                .write_settings(keys, self.coupon.revision, &meta)
                .await
            {
                tracing::warn!(%error, drop = %drop.id, "settings in Redis differ from MySQL; the reconciler corrects them");
            }
        }
    }

    async fn not_changed(&self, error: &DbError, changed: &[&(Drop, DropKeys)]) -> Problem {
        let refused = matches!(error, DbError::Query { source, .. } if refusal(source) == Some(Refusal::BadData));
        if refused || matches!(error, DbError::Unreachable(_) | DbError::Refused(_)) {
            self.restore(changed).await;
        }
        if refused {
            tracing::warn!(%error, coupon = %self.coupon.id, "a quantity was not lowered");
            let detail = "rows above that quantity are issued already; nothing was changed";
            return Problem::new(Code::BelowGivenOut, detail);
        }
        // MySQL may have the change. Restoring a higher quantity in Redis could give out slots that
        // MySQL refuses.
        mysql_unavailable(
            error,
            "repeat the request: only then is it certain whether the change took effect",
        )
    }
}

fn below_given_out(drop: DropId, given_out: Slot) -> Problem {
    let detail = format!("{given_out} of drop {drop} are given out already; nothing was changed");
    Problem::new(Code::BelowGivenOut, detail).with("given_out", given_out)
}

fn being_checked(drop: DropId) -> Problem {
    Problem::unavailable(format!(
        "drop {drop} is being verified; nothing was changed, try again"
    ))
}

fn redis_away(error: &RedisError) -> Problem {
    tracing::warn!(%error, "an operator's request could not be processed");
    let detail = "Redis did not answer, and lowering a quantity or moving drops needs it; nothing was changed in MySQL";
    Problem::unavailable(detail)
}
