//! Messages with several claims, and signatures.

use std::collections::BTreeMap;

use firstcome_shared::claim::Claim;
use firstcome_shared::domain::{NamedDrop, OncePer, Slot};
use firstcome_shared::kafka::{SIGNATURE, Signing};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use secrecy::SecretString;

use super::world::{ConsumeWorld, LIMIT, PARTITIONS, SIGNING_KEY, claim_event, until};

/// The signature and the payload.
type Message = (Option<String>, String);

/// Builds one message with claims of these slots, slot N by `u-N`.
fn batch(drop: NamedDrop, slots: impl IntoIterator<Item = Slot>) -> String {
    let claims = slots
        .into_iter()
        .map(|slot| claim_event(drop.coupon, drop.drop, slot, &format!("u-{slot}")));
    let claims: Vec<Claim> = claims.collect();
    Claim::encode_batch(&claims.iter().collect::<Vec<_>>(), chrono::Utc::now()).unwrap()
}

/// Signs a message with the world's key.
fn signed(world: &ConsumeWorld, payload: String) -> Message {
    let signature = world
        .kafka
        .signing
        .sign(&world.kafka.topic, payload.as_bytes());
    (Some(signature), payload)
}

async fn send(world: &ConsumeWorld, messages: &[Message]) {
    let producer: FutureProducer = world.kafka.producer(LIMIT).create().unwrap();
    let sent: Vec<_> = (0..)
        .zip(messages)
        .map(|(number, (signature, payload))| {
            let mut headers = OwnedHeaders::new();
            if let Some(signature) = signature {
                headers = headers.insert(Header {
                    key: SIGNATURE,
                    value: Some(signature),
                });
            }
            let record = FutureRecord::<(), _>::to(&world.kafka.topic)
                .payload(payload)
                .headers(headers);
            producer
                .send_result(record.partition(number % PARTITIONS))
                .map_err(|(error, _)| error)
                .unwrap()
        })
        .collect();
    for delivery in sent {
        delivery.await.unwrap().map_err(|(error, _)| error).unwrap();
    }
}

fn counts<const N: usize>(of: [(&str, u64); N]) -> BTreeMap<String, u64> {
    of.map(|(reason, count)| (reason.to_owned(), count)).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_claim_of_a_message_becomes_a_row_or_a_dead_letter() {
    let (world, drop) = ConsumeWorld::with_coupon(20, OncePer::Coupon).await;
    let good = batch(drop, 1..=6);
    // Slot 1 already belongs to another user.
    let mixed = batch(drop, [7, 9, 21]).replace(
        "\"slot\":9,\"user_id\":\"u-9\"",
        "\"slot\":1,\"user_id\":\"other\"",
    );
    send(&world, &[signed(&world, good.clone())]).await;
    world
        .consume_until("the first message is read", async || {
            world.read_up_to().await == 1
        })
        .await;
    // Each message fills a batch.
    let consumer = world.consumer(&["--consume-batch-max=2"]);
    send(&world, &[good, mixed].map(|one| signed(&world, one))).await;
    until("all messages are read", async || {
        world.read_up_to().await == 3
    })
    .await;
    consumer.stop().await;

    assert_eq!(world.rows().await, 7);
    let expected = counts([("slot_out_of_range", 1), ("slot_taken", 1)]);
    assert_eq!(world.refusals().await, expected);
    // Reading the messages again counts no claim twice.
    world.read_again().await;
    world
        .consume_until("all is read again", async || world.read_up_to().await == 3)
        .await;
    assert_eq!((world.rows().await, world.refusals().await), (7, expected));
    let kept = world
        .query("SELECT payload FROM failed_claims WHERE reason = 'slot_taken'")
        .await;
    assert!(
        kept[0][0].contains("other") && !kept[0][0].contains("u-7"),
        "{kept:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn message_without_a_valid_signature_takes_no_slot() {
    let (world, drop) = ConsumeWorld::with_coupon(20_000, OncePer::Coupon).await;
    let topic = &world.kafka.topic;
    let other = Signing::new(&SecretString::from("other-0123456789abcdef0123456789a")).unwrap();
    let by_another_key = batch(drop, 11..=20);
    let honest = signed(&world, batch(drop, 1..=10));
    let changed = (honest.0.clone(), honest.1.replace("u-3", "m-3"));
    let replayed_elsewhere = (
        Some(
            world
                .kafka
                .signing
                .sign("another-topic", honest.1.as_bytes()),
        ),
        batch(drop, 1..=10),
    );
    let mut forged = vec![
        changed,
        replayed_elsewhere,
        (
            Some(other.sign(topic, by_another_key.as_bytes())),
            by_another_key,
        ),
    ];
    forged.push((Some("no signature".into()), batch(drop, 11..=20)));
    let flood = 10_000 - u32::try_from(forged.len()).unwrap();
    forged.extend((0..flood).map(|n| (None, batch(drop, [11 + n]))));
    let all: Vec<Message> = [honest.clone()]
        .into_iter()
        .chain(forged)
        .chain([honest])
        .collect();
    send(&world, &all).await;

    let key = format!("--kafka-signing-key={},{SIGNING_KEY}", "n".repeat(32));
    let consumer = world.consumer(&[&key]);
    until("all messages are read", async || {
        world.read_up_to().await == 10_002
    })
    .await;
    consumer.stop().await;
    let accepted = world
        .count("issued_coupons WHERE slot > 10 OR user_id <> CONCAT('u-', slot)")
        .await;
    println!("forged messages accepted: {accepted} of 10000");
    assert_eq!((world.rows().await, accepted), (10, 0));
    // One dead letter for each partition and day counts them, because they must not fill MySQL.
    let counted = "(SELECT SUM(attempts) AS forged, COUNT(*) AS letters FROM failed_claims) f";
    let counted = format!("{counted} WHERE forged = 10000 AND letters <= 6");
    assert_eq!(
        world.count(&counted).await,
        1,
        "{:?}",
        world.refusals().await
    );
    let named =
        "failed_claims WHERE slot IS NOT NULL OR drop_id IS NOT NULL OR user_id IS NOT NULL";
    assert_eq!(
        world.count(named).await,
        0,
        "a forged message must not name a user"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_messages_after_a_discard_open_their_dead_letter_again() {
    let (world, drop) = ConsumeWorld::with_coupon(10, OncePer::Coupon).await;
    let open = "failed_claims WHERE resolved_at IS NULL";
    let key = format!("--kafka-signing-key={SIGNING_KEY}");
    for sent in 1..=2 {
        let forged: Vec<Message> = (0..40).map(|_| (None, batch(drop, [1]))).collect();
        send(&world, &forged).await;
        let consumer = world.consumer(&[&key]);
        until("all messages are read", async || {
            world.read_up_to().await == 40 * sent
        })
        .await;
        consumer.stop().await;
        assert!(world.count(open).await > 0, "round {sent}");
        world
            .query(
                "UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'discarded'",
            )
            .await;
        // Reading the same messages again adds no forged ones.
        world.read_again().await;
        world
            .consume_until("all is read again", async || {
                world.read_up_to().await == 40 * sent
            })
            .await;
        assert_eq!(world.count(open).await, 0);
    }
}
