//! Revocations in Redis (docs/decisions/0013-revoking.md): banning users from a coupon, and
//! releasing their slots.

use chrono::{DateTime, Utc};
use redis::{AsyncCommands as _, RedisResult};

use super::Redis;
use super::client::Script;
use super::keys::{self, DropKeys};
use crate::domain::{CouponId, DropId, OncePer, UserId};
use crate::model::Revocation;

static REVOKE: Script = Script::new(include_str!("scripts/revoke.lua"));

/// Revocations written per call. A larger call would delay all other commands.
const WRITTEN_AT_ONCE: usize = 1_000;

/// Returns the user's field in the coupon's hash `revoked`.
pub(super) fn field(once_per: OncePer, drop: DropId, user: &str) -> String {
    match once_per {
        OncePer::Coupon => user.to_owned(),
        OncePer::Drop => format!("{drop}:{user}"),
    }
}

/// Returns a revocation as the script expects it: field, id, and what follows the id.
fn noted(once_per: OncePer, revocation: &Revocation) -> [String; 3] {
    let end = revocation.again_from_ms().map(|ms| format!(":{ms}"));
    let in_progress = revocation.is_to_be_ended().then(|| ":".to_owned());
    [
        field(once_per, DropId(revocation.drop_id), &revocation.user_id),
        revocation.id.to_string(),
        end.or(in_progress).unwrap_or_default(),
    ]
}

/// Fields of a hash, with their values.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A field of the coupon's hash `revoked`, with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokedField {
    pub(super) field: Vec<u8>,
    pub(super) value: Vec<u8>,
    /// The id of the revocation, or `None` if Firstcome did not write this value.
    pub id: Option<i64>,
}

/// A revocation as Redis knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownRevocation {
    pub id: i64,
    /// The drop, if the coupon allows one claim per drop.
    pub drop: Option<DropId>,
    pub user: UserId,
    pub may_claim_again: bool,
    /// `None` if all claims are void.
    pub again_from: Option<DateTime<Utc>>,
}

impl RevokedField {
    /// Parses the field and its value. Returns `None` if Firstcome cannot have written them.
    pub fn parsed(&self, once_per: OncePer) -> Option<KnownRevocation> {
        let field = str::from_utf8(&self.field).ok()?;
        let (drop, user) = match once_per {
            OncePer::Coupon => (None, field),
            OncePer::Drop => {
                let (drop, user) = field.split_once(':')?;
                (Some(DropId(drop.parse().ok()?)), user)
            }
        };
        let end = str::from_utf8(&self.value).ok()?.split_once(':');
        let again_from = match end {
            None | Some((_, "")) => None,
            Some((_, end)) => Some(DateTime::from_timestamp_millis(end.parse().ok()?)?),
        };
        Some(KnownRevocation {
            id: self.id?,
            drop,
            user: user.parse().ok()?,
            may_claim_again: end.is_some(),
            again_from,
        })
    }
}

/// Parses the id of a revocation, from `ID`, `ID:` or `ID:END`.
pub(super) fn id_in(value: &[u8]) -> Option<i64> {
    str::from_utf8(value).ok()?.split(':').next()?.parse().ok()
}

impl Redis {
    /// Records a revocation or its end, and releases the user's slot, claim and position in the
    /// drop's waiting list if the revocation voids them. For a coupon that allows one claim in
    /// total, the revocation may name another drop. Returns the time until which the user's claims
    /// are void, in Unix milliseconds. Safe to repeat at any time.
    pub async fn revoke(
        &self,
        keys: &DropKeys,
        once_per: OncePer,
        revocation: &Revocation,
    ) -> RedisResult<i64> {
        let [field, id, end] = noted(once_per, revocation);
        let drop = keys.drop.to_string();
        let args = [drop, revocation.user_id.clone(), field, id, end];
        let (_, until): (i64, i64) = self.call(&REVOKE, &keys.of_scripts(), &args).await?;
        Ok(until)
    }

    /// Reads the id of a user's last revocation in Redis. Returns 0 if there is none.
    pub async fn last_revocation(
        &self,
        keys: &DropKeys,
        drop: DropId,
        once_per: OncePer,
        user: &str,
    ) -> RedisResult<i64> {
        let field = field(once_per, drop, user);
        let text: Option<Vec<u8>> = self.connection().hget(&keys.revoked, field).await?;
        Ok(text.and_then(|text| id_in(&text)).unwrap_or(0))
    }

    /// Reads a coupon's revocations in Redis.
    pub async fn revoked(&self, coupon: CouponId) -> RedisResult<Vec<RevokedField>> {
        let [_, _, _, key, ..] = keys::coupon_keys(self.prefix(), coupon);
        let mut conn = self.connection();
        let mut all = Vec::new();
        let mut cursor = 0_u64;
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(WRITTEN_AT_ONCE);
            let (next, pairs): (u64, Pairs) = scan.query_async(&mut conn).await?;
            // The field without a name is only the mark that the key is not lost.
            let named = pairs.into_iter().filter(|(field, _)| !field.is_empty());
            all.extend(named.map(|(field, value)| RevokedField {
                id: id_in(&value),
                field,
                value,
            }));
            if next == 0 {
                return Ok(all);
            }
            cursor = next;
        }
    }

    /// Writes a coupon's revocations to Redis, except those of which Redis has a later state.
    /// Returns how many were new.
    pub async fn write_revoked(
        &self,
        coupon: CouponId,
        once_per: OncePer,
        all: &[Revocation],
    ) -> RedisResult<u64> {
        let keys = keys::coupon_keys(self.prefix(), coupon);
        let mut news = 0;
        for some in all.chunks(WRITTEN_AT_ONCE) {
            let mut args = vec![String::new(), String::new()];
            args.extend(some.iter().flat_map(|one| noted(once_per, one)));
            let (new, _): (u64, u64) = self.call(&REVOKE, &keys, &args).await?;
            news += new;
        }
        Ok(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_of_a_revocation_is_parsed_unless_its_form_is_another() {
        let parsed = |once_per, field: &str, value: &str| {
            let field = RevokedField {
                field: field.into(),
                value: value.into(),
                id: id_in(value.as_bytes()),
            };
            let parsed = field.parsed(once_per)?;
            let end = parsed.again_from.map(|at| at.timestamp_millis());
            let user = parsed.user.to_string();
            Some((parsed.id, parsed.drop, user, parsed.may_claim_again, end))
        };
        let ann = |drop, again, end| Some((7, drop, "ann:b".to_owned(), again, end));
        let of_coupon = |value| parsed(OncePer::Coupon, "ann:b", value);
        assert_eq!(of_coupon("7"), ann(None, false, None));
        assert_eq!(of_coupon("7:"), ann(None, true, None));
        let drop = OncePer::Drop;
        assert_eq!(
            parsed(drop, "3:ann:b", "7:9"),
            ann(Some(DropId(3)), true, Some(9))
        );
        for (field, value) in [
            ("ann", "7"),
            ("x:ann", "7"),
            ("3:a b", "7"),
            ("3:ann", "x:9"),
        ] {
            assert_eq!(parsed(drop, field, value), None, "{field} {value}");
        }
        assert_eq!(parsed(drop, "3:ann", "7:x"), None);
    }

    #[test]
    fn revocation_in_progress_is_noted_unlike_a_ban() {
        let at = DateTime::from_timestamp_millis(9);
        for (may_claim_again, again_from) in [(false, None), (true, None), (true, at)] {
            let revocation = Revocation {
                id: 7,
                coupon_id: 1,
                drop_id: 3,
                slot: None,
                user_id: "ann".to_owned(),
                reason: String::new(),
                revoked_by: String::new(),
                may_claim_again,
                revoked_at: DateTime::UNIX_EPOCH,
                again_from,
            };
            let [field, id, rest] = noted(OncePer::Coupon, &revocation);
            let noted = RevokedField {
                id: id_in(id.as_bytes()),
                field: field.into_bytes(),
                value: (id + &rest).into_bytes(),
            };
            let known = noted.parsed(OncePer::Coupon).unwrap();
            let found = (known.may_claim_again, known.again_from);
            assert_eq!(found, (may_claim_again, again_from), "{rest}");
        }
    }

    #[test]
    fn revocation_names_its_drop_only_in_a_once_per_drop_coupon() {
        assert_eq!(field(OncePer::Coupon, DropId(3), "ann"), "ann");
        assert_eq!(field(OncePer::Drop, DropId(3), "ann"), "3:ann");
    }
}
