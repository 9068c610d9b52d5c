//! Messages that cannot become rows: each is stored once, and later messages are issued.

use std::collections::BTreeMap;

use firstcome_shared::domain::{CouponId, DropId, NamedDrop, OncePer};

use super::world::{ConsumeWorld, claim_event};

/// Builds messages that are refused, each with the reason.
fn poison(
    NamedDrop { coupon, drop }: NamedDrop,
    other: CouponId,
) -> Vec<(Option<String>, &'static str)> {
    let good = |slot, user| claim_event(coupon, drop, slot, user).encode();
    let elsewhere = claim_event(other, drop, 9, "u-x").encode();
    [
        (None, "undecodable"),
        (Some(String::new()), "undecodable"),
        (Some("not json".into()), "undecodable"),
        (Some("[1,2]".into()), "undecodable"),
        (
            Some(good(9, "u-x").replace("\"v\":2", "\"v\":3")),
            "wrong_version",
        ),
        (Some(good(9, "u-x").replace("u-x", "u x")), "undecodable"),
        (
            Some(
                good(9, "u-x")
                    .replace("2027", "9999")
                    .replace(":20.", ":99."),
            ),
            "undecodable",
        ),
        (
            Some(good(9, "u-x").replace(":9,", ":\"nine\",")),
            "undecodable",
        ),
        (Some(good(0, "u-x")), "undecodable"),
        (Some(good(11, "u-x")), "slot_out_of_range"),
        (
            Some(claim_event(coupon, DropId(999_999), 9, "u-x").encode()),
            "unknown_drop",
        ),
        (
            Some(claim_event(CouponId(-1), drop, 9, "u-x").encode()),
            "unknown_drop",
        ),
        (Some(elsewhere), "unknown_drop"),
        (Some(good(1, "u-x")), "slot_taken"),
        (Some(good(9, "u-1")), "already_has_one"),
    ]
    .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_messages_are_stored_once_and_later_messages_are_issued() {
    let (world, drop) = ConsumeWorld::with_coupon(10, OncePer::Coupon).await;
    let other = world.coupon(10, OncePer::Coupon).await.coupon;
    let good =
        |slot: u32| Some(claim_event(drop.coupon, drop.drop, slot, &format!("u-{slot}")).encode());
    let poison = poison(drop, other);
    let mut messages = vec![(0, None, good(1))];
    messages.extend(poison.iter().map(|(payload, _)| (0, None, payload.clone())));
    messages.extend((2..=10).map(|slot| (0, None, good(slot))));
    let raw = vec![0xff_u8, 0xfe, 0x00];
    world.send(vec![(0, None, Some(raw))]).await;
    world.send(messages).await;

    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (_, reason) in poison.iter().chain(&[(None, "undecodable")]) {
        *expected.entry((*reason).to_owned()).or_default() += 1;
    }
    world
        .consume_until("10 rows", async || world.rows().await == 10)
        .await;
    assert_eq!(world.refusals().await, expected);
    for (payload, reason) in poison
        .iter()
        .filter_map(|(payload, reason)| Some((payload.as_ref()?, reason)))
    {
        let kept = format!("failed_claims WHERE payload = '{payload}' AND reason = '{reason}'");
        assert!(world.count(&kept).await >= 1, "{reason} {payload}");
    }
    let outside = "failed_claims WHERE user_id = 'u-x' AND slot = 11";
    assert_eq!(world.count(outside).await, 1);
    let NamedDrop { coupon, drop } = drop;
    let taken = format!("reason = 'slot_taken' AND coupon_id = {coupon} AND drop_id = {drop}");
    let taken = format!("failed_claims WHERE {taken} AND slot = 1 AND user_id = 'u-x'");
    assert_eq!(world.count(&taken).await, 1);
    let bytes =
        "failed_claims WHERE payload = 0xfffe00 AND error IS NOT NULL AND source_offset = 0";
    assert_eq!(
        world.count(bytes).await,
        1,
        "the message is stored unchanged"
    );

    // After reading again, each is still stored once, with two attempts.
    world.read_again().await;
    let twice = async || {
        world.count("failed_claims WHERE attempts = 2").await == expected.values().sum::<u64>()
    };
    world.consume_until("a second attempt", twice).await;
    assert_eq!((world.refusals().await, world.rows().await), (expected, 10));
}
