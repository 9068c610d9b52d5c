//! All keys in Redis, with their types and meanings. A coupon's keys share the hash tag `{C}`, so
//! that scripts can use them together on Redis Cluster.
//!
//! | Key | Type | Holds |
//! |---|---|---|
//! | `fc:{C}:drop:D:meta` | hash | settings of the drop |
//! | `…:count` | string | highest slot given |
//! | `…:users` | sorted set | member user id, score slot |
//! | `…:free` | sorted set | slots up to `count` that nobody holds; member and score are the slot |
//! | `…:waiting` | sorted set | member user id, score arrival order |
//! | `…:times` | hash | slot → time of admission in ms by Redis's clock |
//! | `fc:{C}:claimants` | hash | user id → `D:slot` of the claim in any drop (`once_per` coupon) |
//! | `fc:{C}:revoked` | hash | user id → id of the user's last revocation |
//! | `fc:{C}:allowed` | set | user ids on the coupon's allow list |
//! | `fc:{C}:allow_list` | string | `REVISION:PEOPLE`: revision and size of `allowed` |
//! | `fc:{C}:allowed:N` | set | list that is being gathered, then becomes `allowed`; expires |
//! | `fc:{C}:gate` | string | `SERVER ERA open` or `… closed`: admission gate, fencing token |
//! | `fc:{C}:revision` | string | highest revision of settings written here: fencing token |
//! | `fc:ended:{S}` | string | operator's session ended early; expires with it |
//! | `fc:catalogue` | string | copy of the live coupons, for an API that starts without MySQL |
//! | `fc:writes:N` | string | written once a second to see whether Redis takes writes; expires |
//!
//! - `meta` has `quantity`, `opens_at_ms`, `closes_at_ms` (empty: stays open), `paused` (0/1),
//!   `once_per`, `waiting_list`, `closed_early` (0/1) and `allow` (empty: everybody; `list`;
//!   `group:NAME`).
//! - The scripts also write `version` in `meta`, which changes whenever a slot is given, and
//!   `lease_until`: until then an API may answer `sold_out` without Redis, and nothing is given.
//! - `waiting`: arrival order counts from 1. Users whose promise is broken have scores below 1, in
//!   the order of the promised slots, and are served first.
//! - `times` lacks slots whose time of admission is unknown, such as those added manually.
//! - Fields of `revoked` start with `D:` if `once_per` is `drop`. If the user may claim again,
//!   the value is followed by `:` and, once that begins, the time in ms after which claims are valid.
//! - `revoked` and `claimants` also have a field without a name while the coupon is open, so that
//!   the loss of a whole key is noticed, even between two days. Its value in `revoked` is the drop
//!   that was sealed last: if that is also MySQL's last one, Redis is not older than its sealing, so
//!   `claimants` has the users of every sealed drop.
//! - `revoked` has the revocations of unsealed drops, and those of a whole coupon that have not
//!   ended.
//! - If `allow_list` is missing, it is unknown which users are allowed.
//! - `SERVER` is a server's `run_id:master_replid2`, `ERA` a number from MySQL (`coupons.era`). A
//!   coupon is open only if its `gate` names the current values of both. `gate` is missing if Redis
//!   was emptied.
//! - The keys of a sealed drop expire an hour after sealing, those of a removed one within an hour,
//!   and a coupon's keys with those of its last drop.
//! - Redis holds nothing promised that no other store has: the reconciler can always rebuild the
//!   keys of a drop from MySQL. Only Redis has the waiting lists, except their heads.
//!
//! Invariant: count = |users| + |free|.

use std::collections::HashMap;

use chrono::{DateTime, Utc};

use crate::coupon::{Allow, Coupon, CouponSettings, Drop};
use crate::domain::{CouponId, DropId, OncePer, Slot};
use crate::schedule::Schedule;

/// Prefix of every key if `REDIS_KEY_PREFIX` is not set.
pub const DEFAULT_PREFIX: &str = "fc";

/// The keys of one drop and its coupon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropKeys {
    pub coupon: CouponId,
    pub drop: DropId,
    pub meta: String,
    pub count: String,
    pub users: String,
    pub free: String,
    pub waiting: String,
    pub times: String,
    pub claimants: String,
    pub gate: String,
    pub revision: String,
    pub revoked: String,
    pub allowed: String,
    pub allow_list: String,
}

impl DropKeys {
    pub fn new(prefix: &str, coupon: CouponId, drop: DropId) -> Self {
        let of_drop = |name| format!("{prefix}:{{{coupon}}}:drop:{drop}:{name}");
        let [gate, revision, claimants, revoked, allowed, allow_list] = coupon_keys(prefix, coupon);
        Self {
            coupon,
            drop,
            meta: of_drop("meta"),
            count: of_drop("count"),
            users: of_drop("users"),
            free: of_drop("free"),
            waiting: of_drop("waiting"),
            times: of_drop("times"),
            claimants,
            gate,
            revision,
            revoked,
            allowed,
            allow_list,
        }
    }

    /// The keys that belong to this drop alone, in the order of all scripts.
    pub fn own(&self) -> [&str; 6] {
        let [.., meta, count, users, free, waiting, times] = self.of_scripts();
        [meta, count, users, free, waiting, times]
    }

    /// The coupon's keys and the drop's, in the order of all scripts (`identity.lua`).
    pub(super) fn of_scripts(&self) -> [&str; 12] {
        [
            &self.gate,
            &self.revision,
            &self.claimants,
            &self.revoked,
            &self.allowed,
            &self.allow_list,
            &self.meta,
            &self.count,
            &self.users,
            &self.free,
            &self.waiting,
            &self.times,
        ]
    }
}

/// A coupon's keys, in the order of all scripts (`identity.lua`).
pub(super) fn coupon_keys(prefix: &str, coupon: CouponId) -> [String; 6] {
    const NAMES: [&str; 6] = [
        "gate",
        "revision",
        "claimants",
        "revoked",
        "allowed",
        "allow_list",
    ];
    NAMES.map(|name| format!("{prefix}:{{{coupon}}}:{name}"))
}

/// The key of an operator's session that was ended early.
pub fn ended_session(prefix: &str, session: &str) -> String {
    format!("{prefix}:ended:{session}")
}

/// The key of the copy of the live coupons.
pub fn catalogue(prefix: &str) -> String {
    format!("{prefix}:catalogue")
}

/// The settings of a coupon that `meta` does not have, for operators.
pub const NOT_IN_REDIS: &str = "its name, the days of a schedule and the end of codes";

/// The fields of a drop's `meta`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropMeta {
    pub quantity: Slot,
    /// Start of the window, inclusive, in Unix milliseconds.
    pub opens_at_ms: i64,
    /// End of the window, exclusive, or `None` if it stays open.
    pub closes_at_ms: Option<i64>,
    /// No claim is admitted while this is set.
    pub paused: bool,
    /// The scope in which a user may hold one coupon.
    pub once_per: OncePer,
    pub waiting_list: u32,
    /// An operator closed it early: from the waiting list, only users with a broken promise are
    /// promoted.
    pub closed_early: bool,
    /// Who may claim. `None` means everybody.
    pub allow: Option<Allow>,
}

impl DropMeta {
    /// The fields as stored in MySQL.
    pub fn new(coupon: &Coupon, drop: &Drop) -> Self {
        // Admission needs neither the name nor the end of codes. The quantity and the window are
        // those of the drop.
        let CouponSettings {
            name: _,
            quantity: _,
            once_per,
            waiting_list,
            paused,
            valid_until: _,
            valid_days: _,
            schedule: _,
            allow,
        } = &coupon.settings;
        Self {
            quantity: drop.quantity,
            opens_at_ms: drop.opens_at.timestamp_millis(),
            closes_at_ms: drop.closes_at.map(|at| at.timestamp_millis()),
            paused: *paused,
            once_per: *once_per,
            waiting_list: *waiting_list,
            closed_early: drop.closed_early,
            allow: allow.clone(),
        }
    }

    /// Overrides the settings of a coupon and of one of its drops with these. The others are
    /// [`NOT_IN_REDIS`].
    pub(crate) fn restore(&self, settings: &mut CouponSettings, drop: &mut Drop) {
        let CouponSettings {
            name: _,
            quantity,
            once_per: _, // never changes
            waiting_list,
            paused,
            valid_until: _,
            valid_days: _,
            schedule,
            allow,
        } = settings;
        let opens_at = instant(Some(self.opens_at_ms)).unwrap_or(drop.opens_at);
        let closes_at = instant(self.closes_at_ms);
        if *quantity == drop.quantity {
            *quantity = self.quantity;
        }
        // Also if the drop's times are the same: a restore from Redis has corrected only the drop.
        if let Some(Schedule::Once { time_zone, .. }) = *schedule {
            *schedule = Some(Schedule::Once {
                time_zone,
                opens_at,
                closes_at,
            });
        }
        *waiting_list = self.waiting_list;
        *paused = self.paused;
        allow.clone_from(&self.allow);
        drop.opens_at = opens_at;
        drop.closes_at = closes_at;
        drop.quantity = self.quantity;
        drop.closed_early = self.closed_early;
    }

    /// Alternating fields and values, as `HSET` expects them.
    pub fn fields(&self) -> Vec<String> {
        let Self {
            quantity,
            opens_at_ms,
            closes_at_ms,
            paused,
            once_per,
            waiting_list,
            closed_early,
            allow,
        } = self;
        let flag = |is_set| u8::from(is_set).to_string();
        let closes = closes_at_ms.map(|ms| ms.to_string());
        let allow = allow.clone().map(String::from);
        let fields = [
            ("quantity", quantity.to_string()),
            ("opens_at_ms", opens_at_ms.to_string()),
            ("closes_at_ms", closes.unwrap_or_default()),
            ("paused", flag(*paused)),
            ("once_per", once_per.as_str().to_owned()),
            ("waiting_list", waiting_list.to_string()),
            ("closed_early", flag(*closed_early)),
            ("allow", allow.unwrap_or_default()),
        ];
        fields
            .into_iter()
            .flat_map(|(field, value)| [field.to_owned(), value])
            .collect()
    }

    /// Parses the hash. Returns `None` if it is missing or a field has another form than
    /// [`DropMeta::fields`] writes. For passes, a drop without valid settings does not add up.
    pub fn read(fields: &HashMap<String, String>) -> Option<Self> {
        let field = |name| fields.get(name).map(String::as_str);
        let filled = |name| field(name).filter(|text| !text.is_empty());
        let meta = Self {
            quantity: field("quantity")?.parse().ok()?,
            opens_at_ms: field("opens_at_ms")?.parse().ok()?,
            closes_at_ms: filled("closes_at_ms").and_then(|ms| ms.parse().ok()),
            paused: field("paused")? == "1",
            once_per: field("once_per")?.parse().ok()?,
            waiting_list: field("waiting_list")?.parse().ok()?,
            closed_early: field("closed_early")? == "1",
            allow: filled("allow").and_then(|allow| allow.to_owned().try_into().ok()),
        };
        let written = meta.fields();
        written
            .chunks(2)
            .all(|pair| fields.get(&pair[0]) == pair.get(1))
            .then_some(meta)
    }
}

pub(crate) fn instant(ms: Option<i64>) -> Option<DateTime<Utc>> {
    ms.and_then(DateTime::from_timestamp_millis)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Settings that all differ from those of a new coupon.
    pub(crate) fn meta() -> DropMeta {
        DropMeta {
            quantity: 20,
            opens_at_ms: 6,
            closes_at_ms: Some(9),
            paused: true,
            once_per: OncePer::Drop,
            waiting_list: 7,
            closed_early: true,
            allow: Some(Allow::List),
        }
    }

    #[test]
    fn keys_match_the_documented_names() {
        let keys = DropKeys::new(DEFAULT_PREFIX, CouponId(7), DropId(9));
        let own = ["meta", "count", "users", "free", "waiting", "times"];
        assert_eq!(
            keys.own(),
            own.map(|name| format!("fc:{{7}}:drop:9:{name}"))
        );
        assert_eq!(keys.claimants, "fc:{7}:claimants");
    }

    #[test]
    fn restore_from_redis_reads_every_field_of_meta() {
        let fields = meta().fields();
        let names: Vec<&str> = fields.iter().step_by(2).map(String::as_str).collect();
        let script = include_str!("../../../deploy/restore/from-redis.sh");
        let listed = format!("\nfields=({})\n", names.join(" "));
        assert!(script.contains(&listed), "from-redis.sh lacks {listed}");
    }

    #[test]
    fn settings_in_meta_round_trip() {
        for closes_at_ms in [None, Some(9)] {
            let meta = DropMeta {
                closes_at_ms,
                closed_early: closes_at_ms.is_some(),
                allow: closes_at_ms.map(|_| Allow::List),
                ..meta()
            };
            let fields = meta.fields();
            let pairs = fields.chunks(2).map(|p| (p[0].clone(), p[1].clone()));
            let fields: HashMap<_, _> = pairs.collect();
            assert_eq!(DropMeta::read(&fields), Some(meta));
        }
        assert_eq!(DropMeta::read(&HashMap::new()), None);
    }
}
