//! The judge of a drop: reads the stores, not the product's word.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::answer::Answer;
use crate::history::judge;
use crate::http::Coupon;
use crate::world::World;

/// Slot and person of each row of a drop.
pub async fn rows(world: &World, drop: i64) -> BTreeMap<u32, String> {
    let rows = world.sql.query(&format!("SELECT slot, user_id FROM issued_coupons WHERE drop_id = {drop}")).await;
    rows.into_iter().map(|row| (row[0].parse().unwrap(), row[1].clone())).collect()
}

/// Slot and person of each admission of a drop.
pub async fn redis_holders(world: &World, coupon: &Coupon) -> BTreeMap<u32, String> {
    let key = world.redis.of_drop(coupon.id, coupon.drop, "users");
    let pairs: Vec<(String, u32)> = world.redis.command(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]).await;
    let by_slot: BTreeMap<u32, String> = pairs.iter().map(|(user, slot)| (*slot, user.clone())).collect();
    assert_eq!(by_slot.len(), pairs.len(), "two people are on one slot");
    by_slot
}

/// A person and what they were told.
pub type Promise = (String, Answer);

/// Fails unless the drop is exact: `quantity` rows on the slots 1..=quantity, of that many people, each with a code of their
/// own; everyone who was told yes has the row with the slot told; Redis says the same person by person, and its numbers add up.
pub async fn assert_exact(world: &World, coupon: &Coupon, quantity: u32, answers: &[Promise]) {
    let rows = rows(world, coupon.drop).await;
    assert!(rows.keys().copied().eq(1..=quantity), "slots of {} rows are not 1..={quantity}", rows.len());
    let people: HashSet<&String> = rows.values().collect();
    assert_eq!(people.len(), rows.len(), "somebody has two rows");
    let codes = format!("SELECT COUNT(DISTINCT code) FROM issued_coupons WHERE drop_id = {}", coupon.drop);
    assert_eq!(world.sql.number(&codes).await, i64::from(quantity), "codes");

    let by_person: HashMap<&String, u32> = rows.iter().map(|(slot, user)| (user, *slot)).collect();
    for (user, answer) in answers {
        let Some((drop, slot)) = answer.promised() else { continue };
        assert_eq!((drop, by_person.get(user)), (coupon.drop, Some(&slot)), "{user} was told {answer:?}");
    }
    assert_eq!(redis_holders(world, coupon).await, rows, "Redis and MySQL differ");
    let number = async |verb: &str, name: &str| -> Option<u32> {
        world.redis.command(&[verb, &world.redis.of_drop(coupon.id, coupon.drop, name)]).await
    };
    assert_eq!(number("GET", "count").await, Some(quantity), "count");
    assert_eq!(number("ZCARD", "free").await, Some(0), "free slots");
    judge(world, coupon, quantity).await;
}
