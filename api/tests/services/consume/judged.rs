//! Messages that are read again after an erasure.

use chrono::{DateTime, Utc};
use diesel::sql_query;
use firstcome_shared::claim::Claim;
use firstcome_shared::domain::{DropId, NamedDrop, OncePer, Slot};

use super::world::{ConsumeWorld, PARTITIONS, claim_event};

/// Builds a message of a claim admitted at this time.
fn message(
    drop: NamedDrop,
    slot: Slot,
    user: &str,
    at: DateTime<Utc>,
) -> (i32, Option<String>, Option<String>) {
    let event = Claim {
        claimed_at: Some(at),
        ..claim_event(drop.coupon, drop.drop, slot, user)
    };
    (
        i32::try_from(slot).unwrap() % PARTITIONS,
        Some(event.key()),
        Some(event.encode()),
    )
}

async fn set(world: &ConsumeWorld, drop: DropId, fields: &str) {
    world
        .mysql
        .query(&format!(
            "UPDATE {}.drops SET {fields} WHERE id = {drop}",
            world.database
        ))
        .await
        .unwrap();
}

async fn read_all(world: &ConsumeWorld, messages: i64) {
    world
        .consume_until("all is read", async || world.read_up_to().await == messages)
        .await;
}

/// Reads everything again, together with the copies `resent`, while the drop is sealed, closed and
/// open, and asserts that nothing changes.
async fn is_read_again(
    world: &ConsumeWorld,
    drop: NamedDrop,
    mut sent: i64,
    resent: &[(i32, Option<String>, Option<String>)],
) {
    let stored = async || {
        let mut all = world
            .query("SELECT slot, user_id, code, claimed_at FROM issued_coupons ORDER BY slot")
            .await;
        let letters = "SELECT id, slot, user_id, payload, reason, resolved_at IS NULL FROM failed_claims ORDER BY id";
        all.extend(world.query(letters).await);
        all
    };
    let before = stored().await;
    for state in [
        "sealed_at = UTC_TIMESTAMP(3)",
        "sealed_at = NULL, sealed_rows = NULL",
        "closes_at = NULL",
    ] {
        set(world, drop.drop, state).await;
        world.read_again().await;
        world.send(resent.to_vec()).await;
        sent += i64::try_from(resent.len()).unwrap();
        read_all(world, sent).await;
        assert_eq!(stored().await, before, "{state}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn message_read_again_after_erasing_its_holder_changes_nothing() {
    let (world, drop) = ConsumeWorld::with_coupon(9, OncePer::Coupon).await;
    let now = Utc::now();
    let messages = [1, 2, 3, 4].map(|slot| message(drop, slot, &format!("u-{slot}"), now));
    world.send(messages.to_vec()).await;
    read_all(&world, 4).await;
    set(
        &world,
        drop.drop,
        "closes_at = UTC_TIMESTAMP(3), sealed_at = UTC_TIMESTAMP(3), sealed_rows = 2",
    )
    .await;
    // Users 3 and 4 lost their coupons, the last one before it had a row, and might claim again.
    for returned in [
        "INSERT INTO revoked_coupons (id, coupon_id, drop_id, slot, user_id, claimed_at, reason, \
         revoked_by, again_from, once_per) SELECT slot, coupon_id, drop_id, slot, \
         CONCAT('erased-0000000000000000000', slot), IF(slot = 3, claimed_at, NULL), 'erased', \
         'erased', IF(slot = 3, NULL, UTC_TIMESTAMP(3) + INTERVAL 1 SECOND), \
         (SELECT once_per FROM coupons c WHERE c.id = coupon_id) \
         FROM issued_coupons WHERE slot > 2",
        "DELETE FROM issued_coupons WHERE slot > 2",
    ] {
        world.db.write("return", sql_query(returned)).await.unwrap();
    }
    let erase = "UPDATE issued_coupons SET user_id = 'erased-00000000000000000001', code = 'erased-1' WHERE user_id = 'u-1'";
    world
        .db
        .write("erase a user", sql_query(erase))
        .await
        .unwrap();
    is_read_again(&world, drop, 4, &messages).await;
}
