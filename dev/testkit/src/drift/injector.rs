//! Injects drift into one drop, and remembers which users are already affected.

use std::collections::{HashMap, HashSet};

use anyhow::{Context, Result, bail, ensure};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::kafka::KafkaSettings;
use firstcome_shared::mysql::schema::{drops, issued_coupons};
use firstcome_shared::mysql::{Db, DbSettings};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::keys::DropKeys;
use redis::{Cmd, FromRedisValue};

use crate::drift::kind::Drift;
use crate::drift::stall::Stall;
use crate::drift::store_args::DriftStoreArgs;

/// An affected user and the slot in question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffectedPerson {
    /// The slot in the injected state.
    pub slot: i64,
    pub user: String,
}

#[derive(Debug)]
pub struct Injected {
    pub kind: Drift,
    /// The affected users. Empty if the drift affects no particular user.
    pub people: Vec<AffectedPerson>,
    /// A description for people.
    pub summary: String,
    /// The guard that maintains [`Drift::Stalled`].
    pub stall: Option<Stall>,
}

pub struct Injector {
    pub(crate) db: Db,
    pub(crate) db_settings: DbSettings,
    pub(crate) redis: Redis,
    pub(crate) kafka: KafkaSettings,
    pub(crate) coupon: Coupon,
    pub(crate) drop: Drop,
    pub(crate) keys: DropKeys,
    used: HashSet<Slot>,
    made_up: u32,
}

impl Injector {
    /// Creates an injector for the given drop, or for the newest drop with rows (of the given
    /// coupon), since most kinds of drift need users who hold a coupon. If no drop has rows, uses
    /// the newest drop that has opened.
    pub async fn new(
        stores: &DriftStoreArgs,
        coupon: Option<i64>,
        drop: Option<i64>,
    ) -> Result<Self> {
        let db_settings = stores.mysql.settings();
        let db = Db::new(&db_settings)?;
        let redis = Redis::new(&stores.redis.settings(stores.mysql.store_timeout))?;
        let (coupon, drop) = find(&db, coupon, drop).await?;
        let keys = redis.keys(coupon.id, drop.id);
        let kafka = stores.kafka.settings();
        Ok(Self {
            db,
            db_settings,
            redis,
            kafka,
            coupon,
            drop,
            keys,
            used: HashSet::new(),
            made_up: 0,
        })
    }

    pub fn target(&self) -> (CouponId, DropId) {
        (self.coupon.id, self.drop.id)
    }

    pub(crate) async fn redis<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T> {
        cmd.query_async(&mut self.redis.connection())
            .await
            .context("Redis refused")
    }

    pub(crate) async fn count(&self) -> Result<i64> {
        let count: Option<i64> = self.redis(redis::cmd("GET").arg(&self.keys.count)).await?;
        count.with_context(|| {
            format!(
                "drop {} has no counter in Redis; nothing was admitted yet?",
                self.drop.id
            )
        })
    }

    /// Fails unless `n` more slots can be given out.
    pub(crate) async fn needs_room(&self, n: u32) -> Result<i64> {
        let count = self.count().await?;
        let room = i64::from(self.drop.quantity) - count;
        ensure!(
            room >= i64::from(n),
            "this needs {n} slots that were never given out; drop {} has {room}",
            self.drop.id
        );
        Ok(count)
    }

    pub(crate) fn once_per_coupon(&self) -> bool {
        self.coupon.once_per == OncePer::Coupon
    }

    /// Picks `n` users, ordered and spread over the drop, whose rows and admissions agree and who
    /// are not affected yet.
    pub(crate) async fn pick(&mut self, n: u32) -> Result<Vec<(Slot, UserId)>> {
        let whole = self.whole().await?;
        let wanted = n as usize;
        ensure!(
            whole.len() >= wanted && n > 0,
            "COUNT is {n}, but only {} users with a row are left in drop {}: let more users claim first, or use a smaller COUNT",
            whole.len(),
            self.drop.id
        );
        let step = whole.len() / wanted;
        let picked: Vec<_> = (0..wanted)
            .map(|i| whole[i * step + step / 2].clone())
            .collect();
        self.used.extend(picked.iter().map(|(slot, _)| *slot));
        Ok(picked)
    }

    /// Picks the `n` users with the highest slots.
    pub(crate) async fn pick_last(&mut self, n: u32) -> Result<Vec<(Slot, UserId)>> {
        let whole = self.whole().await?;
        ensure!(
            whole.len() > n as usize,
            "drop {} has only {} users",
            self.drop.id,
            whole.len()
        );
        let picked = whole[whole.len() - n as usize..].to_vec();
        self.used.extend(picked.iter().map(|(slot, _)| *slot));
        Ok(picked)
    }

    async fn whole(&self) -> Result<Vec<(Slot, UserId)>> {
        let id = self.drop.id.0;
        let rows: Vec<(Slot, String)> = self
            .db
            .run("rows of a drop", async move |conn| {
                issued_coupons::table
                    .filter(issued_coupons::drop_id.eq(id))
                    .order(issued_coupons::slot)
                    .select((issued_coupons::slot, issued_coupons::user_id))
                    .load(conn)
                    .await
            })
            .await?;
        let admitted: Vec<(String, f64)> = self
            .redis(
                redis::cmd("ZRANGE")
                    .arg(&self.keys.users)
                    .arg(0)
                    .arg(-1)
                    .arg("WITHSCORES"),
            )
            .await?;
        let admitted: HashMap<String, f64> = admitted.into_iter().collect();
        let agrees = |slot: &Slot, user: &str| {
            admitted
                .get(user)
                .is_some_and(|at| (at - f64::from(*slot)).abs() < 0.5)
        };
        Ok(rows
            .into_iter()
            .filter(|(slot, user)| agrees(slot, user) && !self.used.contains(slot))
            .map(|(slot, user)| (slot, UserId::from_store(user)))
            .collect())
    }

    /// Generates `n` user IDs that have never claimed.
    pub(crate) fn make_up(&mut self, n: u32) -> Vec<UserId> {
        let first = self.made_up;
        self.made_up += n;
        let tag = rand::random::<u32>();
        (first..first + n)
            .map(|i| UserId::from_store(format!("drift-{tag:08x}-{i}")))
            .collect()
    }

    /// Picks `n` users, and generates a new user for the slot of each.
    pub(crate) async fn new_people_on_held_slots(&mut self, n: u32) -> Result<Vec<(i64, UserId)>> {
        let owners = self.pick(n).await?.into_iter();
        let slots = owners.map(|(slot, _)| i64::from(slot));
        Ok(slots.zip(self.make_up(n)).collect())
    }

    /// Describes the drift that was injected for these users.
    pub(crate) fn injected(&self, kind: Drift, people: &[(i64, UserId)], what: &str) -> Injected {
        let shown: Vec<String> = people
            .iter()
            .take(20)
            .map(|(slot, user)| format!("{user} (slot {slot})"))
            .collect();
        let more = people.len().saturating_sub(shown.len());
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let names = if shown.is_empty() {
            String::new()
        } else {
            format!(": {}{more}", shown.join(", "))
        };
        Injected {
            kind,
            people: people
                .iter()
                .map(|(slot, user)| AffectedPerson {
                    slot: *slot,
                    user: user.to_string(),
                })
                .collect(),
            summary: format!(
                "coupon {} drop {}: {what}{names}",
                self.coupon.id, self.drop.id
            ),
            stall: None,
        }
    }
}

/// Converts slots to signed numbers, because drift may contain invalid slots.
pub(crate) fn signed(people: &[(Slot, UserId)]) -> Vec<(i64, UserId)> {
    people
        .iter()
        .map(|(slot, user)| (i64::from(*slot), user.clone()))
        .collect()
}

async fn find(db: &Db, coupon: Option<i64>, drop: Option<i64>) -> Result<(Coupon, Drop)> {
    let found: Option<(i64, i64)> = db
        .run("find drop", async move |conn| {
            let mut query = drops::table
                .select((drops::id, drops::coupon_id))
                .into_boxed();
            if let Some(coupon) = coupon {
                query = query.filter(drops::coupon_id.eq(coupon));
            }
            query = match drop {
                Some(drop) => query.filter(drops::id.eq(drop)),
                None => query
                    .filter(drops::opens_at.le(chrono::Utc::now().naive_utc()))
                    .filter(drops::sealed_at.is_null()),
            };
            let newest_first: Vec<(i64, i64)> = query
                .order((drops::opens_at.desc(), drops::created_at.desc()))
                .load(conn)
                .await?;
            for found in &newest_first {
                let rows = issued_coupons::table.filter(issued_coupons::drop_id.eq(found.0));
                if rows
                    .select(issued_coupons::slot)
                    .first::<Slot>(conn)
                    .await
                    .optional()?
                    .is_some()
                {
                    return Ok(Some(*found));
                }
            }
            Ok(newest_first.into_iter().next())
        })
        .await?;
    let Some((drop, coupon)) = found else {
        bail!("no such drop has opened: create a coupon first")
    };
    let (coupon, drops) = db
        .coupon(CouponId(coupon))
        .await?
        .context("the coupon is gone")?;
    let drop = drops
        .into_iter()
        .find(|d| d.id.0 == drop)
        .context("the drop is gone")?;
    Ok((coupon, drop))
}
