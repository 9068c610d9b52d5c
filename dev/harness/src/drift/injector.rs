//! Injects drift into one drop, and remembers which users are already affected.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result, ensure};

use crate::check::try_rows;
use crate::drift::kind::Drift;
use crate::mysql::Sql;
use crate::redis::PrefixedKeys;

/// An affected user and the slot in question.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AffectedUser {
    /// The slot in the injected state.
    pub slot: i64,
    pub user: String,
}

#[derive(Debug)]
pub struct Injected {
    pub kind: Drift,
    /// The affected users. Empty if the drift affects no particular user.
    pub people: Vec<AffectedUser>,
}

pub struct Injector {
    sql: Sql,
    redis: PrefixedKeys,
    coupon: i64,
    drop: i64,
    used: HashSet<i64>,
    made_up: u32,
}

impl Injector {
    /// Creates an injector for the given drop, or for the newest drop (of the given coupon). A drop
    /// with rows takes precedence, because most kinds of drift need users who hold a coupon.
    pub async fn new(
        sql: Sql,
        redis: PrefixedKeys,
        coupon: Option<i64>,
        drop: Option<i64>,
    ) -> Result<Self> {
        let is = |column: &str, value: Option<i64>| match value {
            Some(value) => format!("{column} = {value}"),
            None => "TRUE".to_owned(),
        };
        let chosen = format!(
            "SELECT coupon_id, id FROM drops d WHERE {} AND {} ORDER BY
             EXISTS (SELECT 1 FROM issued_coupons i WHERE i.drop_id = d.id) DESC, opens_at DESC, id DESC LIMIT 1",
            is("coupon_id", coupon),
            is("id", drop)
        );
        let found = sql.rows(&chosen).await?;
        let found = found
            .first()
            .context("there is no such drop: create a coupon first")?;
        Ok(Self {
            coupon: found[0].parse()?,
            drop: found[1].parse()?,
            sql,
            redis,
            used: HashSet::new(),
            made_up: 0,
        })
    }

    /// Returns the coupon and the drop.
    pub fn target(&self) -> (i64, i64) {
        (self.coupon, self.drop)
    }

    /// Injects a kind of drift. `n` is the number of affected users, or the amount by which a
    /// counter is wrong. Some kinds ignore `n`.
    pub async fn make(&mut self, kind: Drift, n: u32) -> Result<Injected> {
        let people = match kind {
            Drift::Unissued => {
                let people = self.pick(n).await?;
                self.delete_rows(&people).await?;
                people
            }
            Drift::Unpublished => self.admit(n, self.count().await? + 1).await?,
            Drift::FailedClaim => {
                let people = self.pick(n).await?;
                self.add_dead_letters(&people).await?;
                self.delete_rows(&people).await?;
                people
            }
            Drift::FailedDuplicate => {
                let people = self.pick(n).await?;
                self.add_dead_letters(&people).await?;
                people
            }
            Drift::FailedSlotTaken => {
                let people = self.strangers_on_held_slots(n).await?;
                self.add_dead_letters(&people).await?;
                people
            }
            Drift::FailedUnrepairable => {
                let people = self.make_up(n, self.quantity().await? + 1_000);
                self.add_dead_letters(&people).await?;
                people
            }
            Drift::MissingAdmission => {
                let people = self.pick(n).await?;
                for one in &people {
                    self.forget(one).await?;
                }
                people
            }
            Drift::SlotConflict => {
                let people = self.strangers_on_held_slots(n).await?;
                for one in &people {
                    self.place(one).await?;
                }
                people
            }
            Drift::OverAdmitted => {
                let quantity = self.quantity().await?;
                ensure!(
                    self.count().await? == quantity,
                    "slots are left in drop {}",
                    self.drop
                );
                self.admit(n, quantity + 1).await?
            }
            Drift::OverShrunk => self.shrink(n).await?,
            Drift::CountLower => self.move_count(-i64::from(n)).await?,
            Drift::CountHigher => self.move_count(i64::from(n)).await?,
            Drift::Revoked => self.revoke(n).await?,
            Drift::Unfilled => {
                let gone = self.make_room(n).await?;
                for (at, one) in self.make_up(n, 1).into_iter().enumerate() {
                    self.run(&["ZADD", &self.key("waiting"), &at.to_string(), &one.user])
                        .await?;
                }
                gone
            }
            Drift::RedisLost => {
                for name in ["meta", "count", "users", "free", "waiting", "times"] {
                    self.run(&["DEL", &self.key(name)]).await?;
                }
                Vec::new()
            }
            Drift::RedisFlushed => {
                self.run(&["FLUSHALL"]).await?;
                Vec::new()
            }
            Drift::RedisGate => {
                for name in self.redis.names().await {
                    if name.ends_with(":gate") {
                        self.run(&["DEL", &name]).await?;
                    }
                }
                Vec::new()
            }
        };
        Ok(Injected { kind, people })
    }

    fn key(&self, name: &str) -> String {
        self.redis.of_drop(self.coupon, self.drop, name)
    }

    async fn run(&self, words: &[&str]) -> Result<()> {
        Ok(self.redis.try_command(words).await?)
    }

    async fn number(&self, column: &str) -> Result<i64> {
        let sql = format!("SELECT {column} FROM drops WHERE id = {}", self.drop);
        Ok(self.sql.rows(&sql).await?[0][0].parse()?)
    }

    async fn quantity(&self) -> Result<i64> {
        self.number("quantity").await
    }

    async fn count(&self) -> Result<i64> {
        let count: Option<i64> = self.redis.try_command(&["GET", &self.key("count")]).await?;
        count.context("the drop has no counter in Redis; nothing was admitted yet?")
    }

    /// Picks `n` users, spread over the drop, whose rows and admissions agree and who are not
    /// affected yet.
    async fn pick(&mut self, n: u32) -> Result<Vec<AffectedUser>> {
        let whole = self.whole().await?;
        let wanted = n as usize;
        ensure!(
            whole.len() >= wanted && n > 0,
            "COUNT is {n}, but only {} users with a row are left in drop {}: let more users claim first, or use a smaller COUNT",
            whole.len(),
            self.drop
        );
        let step = whole.len() / wanted;
        let picked: Vec<_> = (0..wanted)
            .map(|i| whole[i * step + step / 2].clone())
            .collect();
        self.used.extend(picked.iter().map(|one| one.slot));
        Ok(picked)
    }

    async fn whole(&self) -> Result<Vec<AffectedUser>> {
        let rows = try_rows(&self.sql, self.drop).await?;
        let words = ["ZRANGE", &self.key("users"), "0", "-1", "WITHSCORES"];
        let admitted: Vec<(String, i64)> = self.redis.try_command(&words).await?;
        let admitted: BTreeMap<i64, String> = admitted
            .into_iter()
            .map(|(user, slot)| (slot, user))
            .collect();
        let rows = rows.into_iter().map(|(slot, user)| AffectedUser {
            slot: slot.into(),
            user,
        });
        Ok(rows
            .filter(|one| admitted.get(&one.slot) == Some(&one.user))
            .filter(|one| !self.used.contains(&one.slot))
            .collect())
    }

    /// Generates `n` users who have never claimed, on slots from `first` on.
    fn make_up(&mut self, n: u32, first: i64) -> Vec<AffectedUser> {
        let tag = rand::random::<u32>();
        let names = self.made_up..self.made_up + n;
        self.made_up += n;
        let names = names.map(|i| format!("drift-{tag:08x}-{i}"));
        let people = (first..).zip(names);
        people
            .map(|(slot, user)| AffectedUser { slot, user })
            .collect()
    }

    async fn strangers_on_held_slots(&mut self, n: u32) -> Result<Vec<AffectedUser>> {
        let held = self.pick(n).await?;
        let mut people = self.make_up(n, 1);
        for (one, held) in people.iter_mut().zip(held) {
            one.slot = held.slot;
        }
        Ok(people)
    }

    /// Puts a user on a slot in Redis.
    async fn place(&self, one: &AffectedUser) -> Result<()> {
        let slot = one.slot.to_string();
        self.run(&["ZADD", &self.key("users"), &slot, &one.user])
            .await?;
        let once = format!("SELECT once_per FROM coupons WHERE id = {}", self.coupon);
        if self.sql.rows(&once).await?[0][0] == "coupon" {
            let held = format!("{}:{slot}", self.drop);
            let claimants = self.redis.of_coupon(self.coupon, "claimants");
            self.run(&["HSET", &claimants, &one.user, &held]).await?;
        }
        Ok(())
    }

    async fn forget(&self, one: &AffectedUser) -> Result<()> {
        self.run(&["ZREM", &self.key("users"), &one.user]).await?;
        let claimants = self.redis.of_coupon(self.coupon, "claimants");
        self.run(&["HDEL", &claimants, &one.user]).await
    }

    /// Admits new users on slots from `first` on, ten seconds ago. No other store gets the claims.
    async fn admit(&mut self, n: u32, first: i64) -> Result<Vec<AffectedUser>> {
        let people = self.make_up(n, first);
        let at = self.redis.now_ms().await - 10_000;
        for one in &people {
            self.place(one).await?;
            let slot = one.slot.to_string();
            self.run(&["HSET", &self.key("times"), &slot, &at.to_string()])
                .await?;
            self.run(&["SET", &self.key("count"), &slot]).await?;
        }
        Ok(people)
    }

    async fn move_count(&self, by: i64) -> Result<Vec<AffectedUser>> {
        let count = self.count().await? + by;
        self.run(&["SET", &self.key("count"), &count.to_string()])
            .await?;
        Ok(Vec::new())
    }

    /// Deletes the rows of the last `n` users, and lowers the quantity below their slots.
    async fn shrink(&mut self, n: u32) -> Result<Vec<AffectedUser>> {
        let mut people = self.whole().await?;
        ensure!(people.len() > n as usize, "only {} users", people.len());
        let people = people.split_off(people.len() - n as usize);
        let quantity = people[0].slot - 1;
        self.delete_rows(&people).await?;
        let sql = format!(
            "UPDATE /*+ SET_VAR(foreign_key_checks = 0) */ drops SET quantity = {quantity} \
             WHERE id = {}",
            self.drop
        );
        self.sql.rows(&sql).await?;
        self.run(&["HSET", &self.key("meta"), "quantity", &quantity.to_string()])
            .await?;
        Ok(people)
    }

    /// Ensures that `n` slots are left. If too few are, takes slots from users and records nothing,
    /// as a support agent might.
    async fn make_room(&mut self, n: u32) -> Result<Vec<AffectedUser>> {
        let left = self.quantity().await? - self.count().await?;
        let wanted = u32::try_from(i64::from(n) - left).unwrap_or(0);
        if wanted == 0 {
            return Ok(Vec::new());
        }
        let gone = self.pick(wanted).await?;
        self.delete_rows(&gone).await?;
        for one in &gone {
            let slot = one.slot.to_string();
            self.forget(one).await?;
            self.run(&["HDEL", &self.key("times"), &slot]).await?;
            self.run(&["ZADD", &self.key("free"), &slot, &slot]).await?;
        }
        Ok(gone)
    }

    /// Moves rows to the revocations, dated a minute ago, because passes leave recent revocations
    /// to the API.
    async fn revoke(&mut self, n: u32) -> Result<Vec<AffectedUser>> {
        let people = self.pick(n).await?;
        for AffectedUser { slot, user } in &people {
            let sql = format!(
                "INSERT INTO revoked_coupons (id, coupon_id, drop_id, slot, user_id, reason, revoked_by, revoked_at, once_per)
                 SELECT {}, {}, {}, {slot}, '{user}', 'drift', 'drift', UTC_TIMESTAMP(3) - INTERVAL 1 MINUTE, once_per
                 FROM coupons WHERE id = {}",
                rand::random_range(1..1_i64 << 50),
                self.coupon,
                self.drop,
                self.coupon
            );
            self.sql.rows(&sql).await?;
        }
        self.delete_rows(&people).await?;
        Ok(people)
    }

    async fn add_dead_letters(&self, people: &[AffectedUser]) -> Result<()> {
        for AffectedUser { slot, user } in people {
            let sql = format!(
                "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason)
                 VALUES ({}, {}, {slot}, '{user}', 'made by firstcome-drift')",
                self.coupon, self.drop
            );
            self.sql.rows(&sql).await?;
        }
        Ok(())
    }

    async fn delete_rows(&self, people: &[AffectedUser]) -> Result<()> {
        let slots: Vec<String> = people.iter().map(|one| one.slot.to_string()).collect();
        let sql = format!(
            "DELETE FROM issued_coupons WHERE drop_id = {} AND slot IN ({})",
            self.drop,
            slots.join(", ")
        );
        self.sql.rows(&sql).await.map(drop)
    }
}
