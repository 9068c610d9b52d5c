//! Revocations in Redis (docs/decisions/0013-revoking.md): banning users from a coupon, and
//! releasing their slots.

use std::collections::HashMap;
use std::sync::LazyLock;

use redis::RedisError;

use super::Redis;
use super::client::Script;
use super::keys::{self, DropKeys};
use super::wrong_key::is_about_data;
use crate::domain::{CouponId, DropId, OncePer};
use crate::mysql::revoked::Revocation;

static REVOKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/revoke.lua")));

/// The data that Redis stores about the user of a revocation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Banned {
    /// Redis has this revocation in its current state, or a later one.
    pub is_known: bool,
    /// The user's slot, and when it was given in Unix milliseconds, if known.
    pub slot: Option<(i64, Option<i64>)>,
    /// The user is on the drop's waiting list.
    pub waits: bool,
    /// The coupon's claimants list the user with this drop, in which the user has no slot.
    pub is_named: bool,
}

/// Returns the user's field in the coupon's hash.
fn field(once_per: OncePer, drop: DropId, user: &str) -> String {
    match once_per {
        OncePer::Coupon => user.to_owned(),
        OncePer::Drop => format!("{drop}:{user}"),
    }
}

/// Returns a revocation as the script notes it: field, number and end.
fn noted(once_per: OncePer, revocation: &Revocation) -> [String; 3] {
    let end = match revocation.again_from_ms() {
        Some(ms) => ms.to_string(),
        None if revocation.may_claim_again => String::new(),
        None => "final".to_owned(),
    };
    [
        field(once_per, DropId(revocation.drop_id), &revocation.user_id),
        revocation.id.to_string(),
        end,
    ]
}

impl Redis {
    /// Bans the user, and releases the user's slot, claim and position in the drop's waiting list
    /// if the revocation voids them. Returns the time until which the user's claims are void, in
    /// Unix milliseconds. Safe to repeat at any time.
    pub async fn revoke(
        &self,
        keys: &DropKeys,
        once_per: OncePer,
        revocation: &Revocation,
    ) -> Result<i64, RedisError> {
        let [field, id, end] = noted(once_per, revocation);
        let drop = revocation.drop_id.to_string();
        let args = [drop, revocation.user_id.clone(), field, id, end];
        let names = [
            &*keys.revoked,
            &keys.version,
            &keys.meta,
            &keys.count,
            &keys.users,
            &keys.free,
            &keys.times,
            &keys.claimants,
            &keys.waiting,
            &keys.sizes,
        ];
        let (_, until): (i64, i64) = REVOKE.run(&mut self.conn.clone(), &names, &args).await?;
        Ok(until)
    }

    /// Reads the id of a user's last revocation in Redis. Returns 0 if there is none.
    pub async fn last_revocation(
        &self,
        keys: &DropKeys,
        drop: DropId,
        once_per: OncePer,
        user: &str,
    ) -> Result<i64, RedisError> {
        let mut asked = redis::cmd("HGET");
        asked.arg(&keys.revoked).arg(field(once_per, drop, user));
        let text: Option<String> = match asked.query_async(&mut self.connection()).await {
            Err(error) if is_about_data(&error) => None,
            text => text?,
        };
        Ok(text.map_or(0, |text| number_of(&text).0.unwrap_or(0)))
    }

    /// Restores a coupon's revocations in Redis. Returns how many were missing.
    pub async fn restore_revoked(
        &self,
        coupon: CouponId,
        once_per: OncePer,
        all: &[Revocation],
    ) -> Result<u64, RedisError> {
        if all.is_empty() {
            return Ok(0);
        }
        let mut args = vec![String::new(), String::new()];
        args.extend(all.iter().flat_map(|one| noted(once_per, one)));
        let names = [&*keys::revoked(&self.prefix, coupon)];
        let (news, _): (u64, u64) = REVOKE.run(&mut self.conn.clone(), &names, &args).await?;
        Ok(news)
    }

    /// Reads the data that Redis stores about the users of these revocations of a drop, in the same
    /// order.
    pub async fn banned(
        &self,
        keys: &DropKeys,
        once_per: OncePer,
        all: &[Revocation],
    ) -> Result<Vec<Banned>, RedisError> {
        type Replies = (
            Vec<Option<String>>,
            Vec<Option<String>>,
            Vec<Option<f64>>,
            Vec<Option<f64>>,
        );
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let fields: Vec<String> = all
            .iter()
            .map(|one| field(once_per, DropId(one.drop_id), &one.user_id))
            .collect();
        let people: Vec<&str> = all.iter().map(|one| one.user_id.as_str()).collect();
        let mut pipe = redis::pipe();
        // Read the claimants first: a user who is admitted in between is then found on a slot.
        pipe.cmd("HMGET")
            .arg(&keys.revoked)
            .arg(&fields)
            .cmd("HMGET")
            .arg(&keys.claimants)
            .arg(&people);
        pipe.cmd("ZMSCORE")
            .arg(&keys.users)
            .arg(&people)
            .cmd("ZMSCORE")
            .arg(&keys.waiting)
            .arg(&people);
        let (known, named, scores, places): Replies =
            pipe.query_async(&mut self.connection()).await?;
        let slots: Vec<Option<i64>> = scores
            .into_iter()
            .map(|score| score.map(super::reads::slot_of))
            .collect();
        let held: Vec<i64> = slots.iter().flatten().copied().collect();
        let times: HashMap<i64, i64> = self.admission_times(keys, &held).await?;
        let mut found = Vec::with_capacity(all.len());
        for (at, one) in all.iter().enumerate() {
            let slot = slots.get(at).copied().flatten();
            found.push(Banned {
                is_known: known
                    .get(at)
                    .and_then(Option::as_ref)
                    .is_some_and(|text| is_known(text, one)),
                slot: slot.map(|slot| (slot, times.get(&slot).copied())),
                waits: places.get(at).is_some_and(Option::is_some),
                is_named: slot.is_none()
                    && names(named.get(at).and_then(Option::as_deref), one.drop_id),
            });
        }
        Ok(found)
    }

    /// Removes these users from a coupon's claimants if their entries name this drop. The coupon is
    /// closed, so no user becomes a claimant concurrently.
    pub async fn forget_claimants(
        &self,
        coupon: CouponId,
        people: &[(&str, DropId)],
    ) -> Result<(), RedisError> {
        if people.is_empty() {
            return Ok(());
        }
        let key = keys::claimants(&self.prefix, coupon);
        let mut named = redis::cmd("HMGET");
        named.arg(&key);
        for (user, _) in people {
            named.arg(*user);
        }
        let entries: Vec<Option<String>> = named.query_async(&mut self.conn.clone()).await?;
        let mut pipe = redis::pipe();
        for ((user, of), entry) in people.iter().zip(entries) {
            if names(entry.as_deref(), of.0) {
                pipe.cmd("HDEL").arg(&key).arg(*user).ignore();
            }
        }
        pipe.query_async(&mut self.conn.clone()).await
    }
}

/// Whether a claimant's entry names this drop.
fn names(entry: Option<&str>, drop: i64) -> bool {
    entry
        .and_then(|entry| entry.split_once(':'))
        .is_some_and(|(of, _)| of.parse() == Ok(drop))
}

/// Splits an entry of `revoked` into the id and the time until which claims are void.
fn number_of(entry: &str) -> (Option<i64>, Option<&str>) {
    let (id, over) = entry
        .split_once(':')
        .map_or((entry, None), |(id, over)| (id, Some(over)));
    (id.parse().ok(), over)
}

fn is_known(text: &str, revocation: &Revocation) -> bool {
    let (Some(id), over) = number_of(text) else {
        return false;
    };
    let ended = revocation.again_from_ms();
    if ended.is_none() && !revocation.may_claim_again && over.is_some() {
        // No revocation follows a final one, so this end was written by hand.
        return false;
    }
    id > revocation.id || id == revocation.id && over.and_then(|text| text.parse().ok()) == ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_of_a_once_per_drop_coupon_is_banned_from_one_drop() {
        assert_eq!(field(OncePer::Coupon, DropId(3), "ann"), "ann");
        assert_eq!(field(OncePer::Drop, DropId(3), "ann"), "3:ann");
    }
}
