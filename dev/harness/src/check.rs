//! Checks a drop directly in the stores, without using the product's code.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Result, ensure};

use crate::answer::Answer;
use crate::http::MadeCoupon;
use crate::mysql::Sql;
use crate::redis::PrefixedKeys;
use crate::world::World;
use crate::{LIMIT, eventually_some};
use firstcome_oracle::{
    History, Judgement, RecordedAnswer, RecordedEvent, RecordedRow, RecordedScope, Rule, Verdict,
    Violation, check,
};

/// Returns the slot and user of each row of a drop.
pub async fn rows(world: &World, drop: i64) -> BTreeMap<u32, String> {
    try_rows(&world.sql, drop).await.unwrap()
}

/// Like [`rows`], but returns an error if MySQL fails.
pub async fn try_rows(sql: &Sql, drop: i64) -> Result<BTreeMap<u32, String>> {
    let rows = sql
        .rows(&format!(
            "SELECT slot, user_id FROM issued_coupons WHERE drop_id = {drop}"
        ))
        .await?;
    rows.into_iter()
        .map(|row| Ok((row[0].parse()?, row[1].clone())))
        .collect()
}

/// Returns the slot and user of each admission of a drop.
async fn try_holders(redis: &PrefixedKeys, coupon: &MadeCoupon) -> Result<BTreeMap<u32, String>> {
    let key = redis.of_drop(coupon.id, coupon.drop, "users");
    let pairs: Vec<(String, u32)> = redis
        .try_command(&["ZRANGE", &key, "0", "-1", "WITHSCORES"])
        .await?;
    let by_slot: BTreeMap<u32, String> = pairs
        .iter()
        .map(|(user, slot)| (*slot, user.clone()))
        .collect();
    ensure!(
        by_slot.len() == pairs.len(),
        "two users are on one slot in Redis"
    );
    Ok(by_slot)
}

/// Returns the number of users with a slot in Redis.
pub async fn holders(world: &World, coupon: &MadeCoupon) -> i64 {
    let users = world.redis.of_drop(coupon.id, coupon.drop, "users");
    world.redis.command(&["ZCARD", &users]).await
}

/// Waits until the drop has this many rows and the consumers have written every message of the
/// topic.
pub async fn all_issued(world: &World, drop: i64, quantity: usize) {
    let count = format!("SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {drop}");
    eventually_some("every row exists", LIMIT, async || {
        // On a busy machine, MySQL may need longer than the timeout of one query.
        let rows = world.sql.rows(&count).await?.concat().concat();
        ensure!(rows == quantity.to_string(), "{rows} of {quantity}");
        let unwritten = world.unwritten().await?;
        ensure!(
            unwritten == 0,
            "{rows} of {quantity}, {unwritten} unwritten"
        );
        Ok(())
    })
    .await;
}

impl World {
    /// Returns the number of messages of the topic that the consumers have not written. MySQL has
    /// the positions up to which they have, in the transactions of the rows. The group's offsets in
    /// Kafka follow a second later.
    pub async fn unwritten(&self) -> Result<u64> {
        let ends = self.topic.ends().await;
        let read = format!(
            "SELECT partition_id, next_offset FROM topic_positions WHERE topic = '{}'",
            self.topic.name()
        );
        let mut positions = BTreeMap::new();
        for row in self.sql.rows(&read).await? {
            let partition: i32 = row[0].parse()?;
            let position: i64 = row[1].parse()?;
            positions.insert(partition, position);
        }
        let unwritten = ends.iter().map(|(partition, end)| {
            let position = positions.get(partition).copied().unwrap_or(0);
            // A position beyond the end is from before the topic was recreated.
            end.abs_diff(position)
        });
        Ok(unwritten.sum())
    }

    /// Runs passes until the drop has this many rows.
    pub async fn until_rows(&self, coupon: &MadeCoupon, number: usize) {
        eventually_some("passes have made the rows", LIMIT, async || {
            self.once_with(&[], &[]).await;
            let found = rows(self, coupon.drop).await.len();
            if found == number { Ok(()) } else { Err(found) }
        })
        .await;
    }
}

/// A user and the answer they got.
pub type PromisedAnswer = (String, Answer);

/// Fails unless the stores agree on a drop that is given out completely: MySQL has `quantity` rows
/// on the slots 1..=quantity, with distinct users and codes, Redis has the same user on each slot
/// and no free slot, and its counts add up.
pub async fn exact(
    sql: &Sql,
    redis: &PrefixedKeys,
    coupon: &MadeCoupon,
    quantity: u32,
) -> Result<()> {
    let rows = agreed(sql, redis, coupon).await?;
    ensure!(
        rows.keys().copied().eq(1..=quantity),
        "slots of {} rows are not 1..={quantity}",
        rows.len()
    );
    let free: u32 = redis
        .try_command(&["ZCARD", &redis.of_drop(coupon.id, coupon.drop, "free")])
        .await?;
    ensure!(free == 0, "{free} slots are free");
    Ok(())
}

/// Returns the slot and user of each row of a drop. Fails unless the stores agree on them: no user
/// has two rows, all codes are distinct, Redis has the same user on each slot, and its counts add
/// up.
pub async fn agreed(
    sql: &Sql,
    redis: &PrefixedKeys,
    coupon: &MadeCoupon,
) -> Result<BTreeMap<u32, String>> {
    let rows = try_rows(sql, coupon.drop).await?;
    let people: HashSet<&String> = rows.values().collect();
    ensure!(people.len() == rows.len(), "a user has two rows");
    let codes = format!(
        "SELECT COUNT(DISTINCT code) FROM issued_coupons WHERE drop_id = {}",
        coupon.drop
    );
    let codes = &sql.rows(&codes).await?[0][0];
    let people = rows.len();
    ensure!(*codes == people.to_string(), "{codes} codes of {people}");

    let holders = try_holders(redis, coupon).await?;
    let is_other = |(slot, user): &(&u32, &String)| holders.get(slot) != Some(user);
    let (differ, held) = (rows.iter().filter(is_other).count(), holders.len());
    let is_same = held == people && differ == 0;
    ensure!(
        is_same,
        "Redis and MySQL differ: {held} users in Redis, {differ} slots differ"
    );
    let key = |name: &str| redis.of_drop(coupon.id, coupon.drop, name);
    let count: Option<usize> = redis.try_command(&["GET", &key("count")]).await?;
    let free: usize = redis.try_command(&["ZCARD", &key("free")]).await?;
    let is_right = count == Some(people + free);
    ensure!(
        is_right,
        "Redis counts {count:?}: {people} slots and {free} free ones"
    );
    Ok(rows)
}

/// Fails unless the drop is exact and the oracle passes the coupon's claims and rows: no promise is
/// lost unless it is listed, no slot or user occurs twice, and no refused user was admitted.
pub async fn assert_exact(world: &World, coupon: &MadeCoupon, quantity: u32) {
    exact(&world.sql, &world.redis, coupon, quantity)
        .await
        .unwrap();
    let listed = "SELECT user_id FROM broken_promises WHERE drop_id";
    let listed = format!("{listed} = {}", coupon.drop);
    let listed = world.sql.query(&listed).await.concat();
    let judgement = judge(world, coupon, quantity, listed).await;
    assert_eq!(judgement.verdict, Verdict::Pass, "{judgement}");
}

/// Fails unless the oracle finds that every promise of the drop has its row on the promised slot.
/// The users in `but` are not checked.
pub async fn assert_kept(world: &World, coupon: &MadeCoupon, but: &[&str]) {
    let but = but.iter().map(|&user| user.to_owned()).collect();
    let judgement = judge(world, coupon, u32::MAX, but).await;
    assert!(judgement.figures.promises > 0, "{judgement}");
    let Verdict::Violated(found) = judgement.verdict else {
        return;
    };
    let is_about_promises = |found: &Violation| {
        matches!(
            found.rule,
            Rule::Lost
                | Rule::OtherSlot
                | Rule::PromisedTwice
                | Rule::Contradiction
                | Rule::AcceptedTwice
        )
    };
    let broken: Vec<_> = found.into_iter().filter(is_about_promises).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

/// Judges the recorded claims of a coupon with the current rows of its drop. The promises of the
/// users in `broken` count as listed.
async fn judge(
    world: &World,
    coupon: &MadeCoupon,
    quantity: u32,
    broken: Vec<String>,
) -> Judgement {
    let [id, drop] = [coupon.id, coupon.drop].map(i64::cast_unsigned);
    let once_per = if coupon.body["once_per"] == "drop" {
        RecordedScope::Drop
    } else {
        RecordedScope::Coupon
    };
    let claims = world.claims.of(id);
    // The checker must know every drop of the coupon that made a promise. Without the final rows of
    // the other drops, it does not pass the history.
    let mut drops = BTreeSet::from([drop]);
    drops.extend(claims.iter().filter_map(promised_from));
    let announced = |drop| RecordedEvent::Drop {
        drop,
        coupon: id,
        quantity: u64::from(quantity),
        once_per,
    };
    let mut events: Vec<RecordedEvent> = drops.into_iter().map(announced).collect();
    events.extend(claims);
    events.extend(broken.into_iter().map(|person| RecordedEvent::Broken {
        drop,
        person,
        slot: None,
    }));
    let rows = rows(world, coupon.drop).await.into_iter();
    let rows = rows.map(|(slot, person)| RecordedRow {
        slot: slot.into(),
        person,
    });
    let rows = rows.collect();
    events.push(RecordedEvent::Final { drop, rows });
    check(&History::of(events).expect("a history that can be read"))
}

fn promised_from(event: &RecordedEvent) -> Option<u64> {
    match event {
        RecordedEvent::Ok {
            answer:
                RecordedAnswer::Accepted { drop, .. } | RecordedAnswer::AlreadyClaimed { drop, .. },
            ..
        } => Some(*drop),
        _ => None,
    }
}
