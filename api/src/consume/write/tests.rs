//! Tests batches on a real MySQL.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, Slot};
use firstcome_shared::mysql::issued::insert;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::refusal;
use firstcome_shared::mysql::{DbSettings, migrations};
use firstcome_shared::schedule::Schedule;
use firstcome_stack::{MysqlServer, StackOptions, Tables};
use serde_json::json;
use tokio::sync::OnceCell;

use super::*;
use crate::consume::record::tests;

/// Encodes a claim's message.
fn message(
    coupon_id: CouponId,
    drop_id: DropId,
    slot: Slot,
    user: &str,
    claimed_at: DateTime<Utc>,
) -> String {
    let event = Claim {
        coupon_id,
        drop_id,
        slot,
        user_id: user.parse().unwrap(),
        claimed_at: Some(claimed_at),
    };
    event.encode()
}

/// Builds the record of a message with one claim.
fn record(partition: i32, offset: i64, event: &str) -> Record {
    tests::records(partition, offset, event.as_bytes()).remove(0)
}

/// The outcomes of a batch: rows, repeats, and dead letters by reason.
struct Counts {
    issued: usize,
    again: usize,
    refused: BTreeMap<&'static str, usize>,
}

async fn written(db: &Db, batch: &[Record]) -> Counts {
    let rows = || Batch {
        records: batch.to_vec(),
        ..Batch::default()
    };
    loop {
        let writing = write(db, "t", Arc::new(rows()));
        // An error is usually a deadlock. The consumer's loop also retries.
        if let Ok((outcomes, _)) = writing.await {
            let number = |wanted| outcomes.iter().filter(|it| **it == wanted).count();
            let mut refused = BTreeMap::new();
            for outcome in &outcomes {
                if let WriteOutcome::Refused(reason, _) = outcome {
                    *refused.entry(reason.as_str()).or_default() += 1;
                }
            }
            return Counts {
                issued: number(WriteOutcome::Issued),
                again: number(WriteOutcome::Again),
                refused,
            };
        }
    }
}

/// Creates a database with one coupon on the server that these tests share.
async fn shop(database: &str, quantity: Slot) -> (&'static MysqlServer, Db, CouponId, DropId) {
    static MYSQL: OnceCell<MysqlServer> = OnceCell::const_new();
    static TABLES: Tables = Tables::new();
    let start = async || {
        MysqlServer::start(StackOptions::without_fsync().mysql)
            .await
            .unwrap()
    };
    let mysql = MYSQL.get_or_init(start).await;
    mysql
        .query(&format!("CREATE DATABASE {database}"))
        .await
        .unwrap();
    let url = mysql.database_url(database).into();
    let settings = DbSettings {
        url,
        pool_size: 8,
        limit: Duration::from_secs(30),
    };
    let migrate = async || {
        migrations::migrate(&settings, migrations::Tables::All)
            .await
            .unwrap();
    };
    TABLES
        .made(&mysql.database_url(database), migrate)
        .await
        .unwrap();
    let db = Db::new(&settings).unwrap();
    let schedule = Schedule::Once {
        time_zone: None,
        opens_at: Utc::now(),
        closes_at: None,
    };
    let new =
        json!({"name": "Winter", "quantity": quantity, "once_per": "coupon", "schedule": schedule});
    let new = serde_json::from_value(new).unwrap();
    let (coupon, drops) = db
        .create_coupon(new, None, Utc::now(), Operator::default())
        .await
        .unwrap()
        .unwrap();
    (mysql, db, coupon.id, drops[0].id)
}

/// Rows are written as SQL text. The schema refuses user ids that `UserId` does not accept, and a
/// slot above the quantity.
#[tokio::test(flavor = "multi_thread")]
async fn user_id_is_stored_unchanged_and_one_that_does_not_fit_is_refused() {
    let (mysql, db, coupon_id, drop_id) = shop("names", 100).await;
    let key = db.code_key().await.unwrap();
    let long = "x".repeat(129);
    for (slot, name, fits) in [
        (1, "A.z_9@+|:=/-", true),
        (2, "u-1", true),
        (3, "o'clock", false),
        (4, "'); DROP TABLE issued_coupons; -- ", false),
        (5, "a\\", false),
        (6, "\u{1}\n", false),
        (7, "", false),
        (8, "josé", false),
        (9, &*long, false),
        (101, "u-2", false),
    ] {
        let key = key.clone();
        let claim = Claim {
            coupon_id,
            drop_id,
            slot,
            user_id: firstcome_shared::domain::UserId::from_store(name.to_owned()),
            claimed_at: None,
        };
        let inserted = db.run("insert", async move |conn| {
            insert(conn, &[&claim], &key, IssuedBy::Consumer).await
        });
        match inserted.await {
            Ok(_) => assert!(fits, "{name}"),
            Err(DbError::Query { source, .. }) => {
                assert!(!fits && refusal(&source).is_some(), "{name}: {source}");
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }
    let rows = "SELECT user_id FROM names.issued_coupons ORDER BY slot";
    let rows = mysql.query(rows).await.unwrap();
    assert_eq!(rows, [["A.z_9@+|:=/-"], ["u-1"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_get_the_lowest_fitting_slot_limit_even_in_a_batch_with_a_repeat() {
    let (mysql, db, coupon_id, drop_id) = shop("limits", 100).await;
    let batch = |slots: &[Slot]| -> Vec<Record> {
        let record = |slot: &Slot| {
            let user = format!("u-{slot}");
            let event = message(coupon_id, drop_id, *slot, &user, DateTime::UNIX_EPOCH);
            record(0, i64::from(*slot), &event)
        };
        slots.iter().map(record).collect()
    };
    mysql
        .query("UPDATE limits.drops SET opens_at = '1970-01-01'")
        .await
        .unwrap();
    for (slots, issued, again) in [
        (&[7][..], 1, 0),
        (&[7, 8], 1, 1),
        (&[7, 8, 100, 101, 200], 3, 2),
    ] {
        if slots.contains(&200) {
            let larger =
                "UPDATE /*+ SET_VAR(foreign_key_checks = 0) */ limits.drops SET quantity = 200";
            mysql.query(larger).await.unwrap();
            assert_eq!(db.restore_slot_limits().await.unwrap(), 1);
        }
        let written = written(&db, &batch(slots)).await;
        assert_eq!((written.issued, written.again), (issued, again));
        assert_eq!(written.refused, BTreeMap::new());
    }
    let refused = written(&db, &batch(&[201])).await.refused;
    assert_eq!(refused, [("slot_out_of_range", 1)].into());
    let limits = mysql
        .query("SELECT slot, slot_limit FROM limits.issued_coupons ORDER BY slot")
        .await
        .unwrap();
    let expected = [
        ["7", "100"],
        ["8", "100"],
        ["100", "100"],
        ["101", "200"],
        ["200", "200"],
    ];
    assert_eq!(limits, expected);
}

/// Simulates a partition that moves while its old owner is still writing, so that data read earlier
/// is outdated immediately.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_turn_each_claim_into_one_row_or_one_refusal() {
    let (mysql, db, coupon_id, drop_id) = shop("batches", 300).await;
    let claimed_at = Utc::now();

    // Each writer shares 60 of its 100 slots with the previous one, which claims them for other
    // users. Some users claim several slots.
    let batches: Vec<Vec<Record>> = (0..6_u32)
        .map(|writer| {
            let claims = (1..=100_u32).map(|i| {
                let slot = writer * 40 + i;
                let user = if i % 7 == writer {
                    slot + 1_000
                } else {
                    slot + i % 3
                };
                let event = message(coupon_id, drop_id, slot, &format!("u-{user}"), claimed_at);
                let partition = i32::try_from(writer).unwrap();
                record(partition, i64::from(i), &event)
            });
            claims.collect()
        })
        .collect();
    let twice = batches.iter().chain(&batches);
    let results = futures_util::future::join_all(twice.map(|batch| written(&db, batch))).await;

    let rows = mysql
        .query("SELECT slot, user_id FROM batches.issued_coupons")
        .await
        .unwrap();
    assert_eq!(results.iter().map(|w| w.issued).sum::<usize>(), rows.len());
    let kept = mysql
        .query("SELECT source_partition, source_offset FROM batches.failed_claims")
        .await
        .unwrap();
    for record in batches.iter().flatten() {
        let claim = record.claim.as_ref().unwrap();
        let row = [claim.slot.to_string(), claim.user_id.to_string()];
        let at = [
            record.source.partition.to_string(),
            record.source.offset.to_string(),
        ];
        let issued = rows.iter().filter(|it| **it == row).count();
        let refused = kept.iter().filter(|it| **it == at).count();
        assert_eq!(issued + refused, 1, "{row:?} {at:?}");
    }
}

/// A row may arrive after a pass has verified the drop and before the pass seals it.
#[tokio::test(flavor = "multi_thread")]
async fn drop_is_sealed_only_if_the_verified_row_count_is_current() {
    let (mysql, db, coupon_id, drop_id) = shop("counting", 5).await;
    let event = message(coupon_id, drop_id, 1, "u-1", Utc::now());
    assert_eq!(written(&db, &[record(0, 0, &event)]).await.issued, 1);
    mysql
        .query("UPDATE counting.drops SET closes_at = '2199-01-01'")
        .await
        .unwrap();
    let closes_at = db.coupon(coupon_id).await.unwrap().unwrap().1[0].closes_at;
    assert!(!db.seal_drop(drop_id, closes_at, 5, 0, 0).await.unwrap());
    assert!(db.seal_drop(drop_id, closes_at, 5, 1, 0).await.unwrap());
}

/// If a drop is not written for another reason than a lock, its messages are read again.
#[tokio::test(flavor = "multi_thread")]
async fn position_stays_if_a_drop_cannot_be_written() {
    let (mysql, db, coupon_id, drop_id) = shop("failing", 5).await;
    db.begin_at_first("t", 0, None, 0).await.unwrap();
    let lost = "RENAME TABLE failing.revoked_coupons TO failing.gone";
    mysql.query(lost).await.unwrap();
    let event = message(coupon_id, drop_id, 1, "u-1", Utc::now());
    let batch = Batch {
        records: vec![record(0, 0, &event)],
        ranges: [(0, 0..1)].into(),
        ..Batch::default()
    };
    let written = write_by_drop(&db, "t", Arc::new(batch)).await;
    assert!(written.is_err(), "{written:?}");
    let positions = db.topic_positions("t").await.unwrap();
    assert_eq!(positions, [(0, 0)].into());
}
