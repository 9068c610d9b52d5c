//! The file: what is refused, and with which words.

use firstcome_reconciler::attach::AttachError;
use firstcome_reconciler::attach::config::AttachFile;

use crate::world::{TABLES_OF_ALL, World};

const GOOD: &str = r#"
database = "mysql://app@db/shop"
redis = "redis://cache"
[[campaign]]
name = "Winter"
quantity = 100
in_flight = "60s"
users = { key = "applied", type = "set" }
count = { key = "count", means = "tickets" }
rows = { table = "coupon", user = "user_id", where = { event_id = 7 } }
"#;

#[test]
fn refused_file_names_the_campaign_the_field_and_what_to_write() {
    AttachFile::parse(GOOD).unwrap();
    for (good, bad, said) in [
        ("quantity = 100", "quantiy = 100", "unknown field `quantiy`"),
        (
            "quantity = 100",
            "",
            "quantity is missing: write quantity = 100",
        ),
        (
            "quantity = 100",
            "quantity_sql = \"DROP TABLE x\"",
            "write one SELECT",
        ),
        ("quantity = 100", "quantity = -1", "quantity"),
        ("\"60s\"", "\"1h\"", "write \"60s\""),
        (
            "\"set\"",
            "\"list\"",
            "expected one of `set`, `sorted set`, `hash`",
        ),
        ("\"tickets\"", "\"many\"", "expected `tickets` or `issued`"),
        (
            "\"applied\"",
            "\"applied:{date}\"",
            "{date} must stand in users.key and in count.key",
        ),
        (
            "event_id = 7 } }",
            "event_id = 7 }, insert = { event_id = 8 } }",
            "rows.insert.event_id differs",
        ),
        (
            "event_id = 7 } }",
            "event_id = 7 } }\nfailed = { table = \"f\", user = \"u\", done = 3 }",
            "write \"delete\", or",
        ),
        (
            "\"mysql://app@db/shop\"",
            "\"$NO_SUCH_VARIABLE\"",
            "this variable is not set",
        ),
        (
            "quantity = 100",
            "quantity = 100\nends = 2026-12-31",
            "2026-12-31T18:00:00+09:00",
        ),
        (
            "quantity = 100",
            "quantity = 100\ntime_zone = \"Asia/Soul\"",
            "Asia/Seoul",
        ),
    ] {
        let error = AttachFile::parse(&GOOD.replace(good, bad)).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(said), "{bad}: {error}");
    }
    let daily = GOOD
        .replace("\"applied\"", "\"a:{date:%Y%m%d}\"")
        .replace("\"count\"", "\"c:{date}\"");
    let error = format!("{:#}", AttachFile::parse(&daily).unwrap_err());
    assert!(
        error.contains("campaign \"Winter\": time_zone is missing"),
        "{error}"
    );
}

/// The drop of yesterday is compared too: its last claims were on their way at midnight.
#[test]
fn dated_campaign_has_a_drop_a_day_with_keys_and_ids_of_its_own() {
    let daily = GOOD
        .replace("\"applied\"", "\"a:{date:%Y%m%d}\"")
        .replace("\"count\"", "\"c:{date}\"")
        .replace("event_id = 7", "day = \"{date}\"")
        .replace(
            "quantity = 100",
            "quantity = 100\ntime_zone = \"Asia/Seoul\"",
        );
    let file = AttachFile::parse(&daily).unwrap();
    let now = "2026-11-26T15:30:00Z".parse().unwrap();
    let drops = file.campaigns[0].drops(now);
    let keys: Vec<String> = drops
        .iter()
        .map(|it| it.fill("a:{date:%Y%m%d}/{date}"))
        .collect();
    assert_eq!(keys, ["a:20261126/2026-11-26", "a:20261127/2026-11-27"]);
    assert!(drops[0].is_over && !drops[1].is_over && drops[0].drop_id() != drops[1].drop_id());
    assert!(drops[0].drop_id().0 < 0, "no drop of ours has this id");
}

#[tokio::test]
async fn mapping_that_does_not_fit_is_refused_with_the_nearest_name() {
    let world = World::new(TABLES_OF_ALL).await;
    world.sql("CREATE TABLE bare (user_id VARCHAR(9))").await;
    world.sql("CREATE TABLE strict (id INT PRIMARY KEY AUTO_INCREMENT, event_id INT, user_id INT, status VARCHAR(9) NOT NULL)").await;
    let () = world.redis("LPUSH @list x").await;
    let good = "[[campaign]]\nname = \"W\"\nmode = \"repair\"\nquantity = 9\nusers = { key = \"@u\", type = \"set\" }\n\
        rows = { table = \"coupon\", user = \"user_id\", where = { event_id = 7 }, duplicates = \"reported\" }";
    world.attached(good).check().await.unwrap();
    for (from, to, said) in [
        (
            "\"coupon\"",
            "\"coupons\"",
            "no table \"coupons\"; the nearest is \"coupon\"",
        ),
        ("\"coupon\"", "\"bare\"", "has no column \"event_id\""),
        (
            "\"user_id\"",
            "\"userid\"",
            "no column \"userid\"; the nearest is \"user_id\"",
        ),
        (
            "\"user_id\"",
            "\"created_at\"",
            "is datetime; name one of text or whole numbers",
        ),
        ("event_id = 7", "event = 7", "the nearest is \"event_id\""),
        (
            "event_id = 7",
            "\"event_id` = 1 OR `id\" = 7",
            "has no column",
        ),
        (
            ", duplicates = \"reported\"",
            "",
            "ADD UNIQUE KEY (event_id, user_id)",
        ),
        (
            "\"coupon\"",
            "\"strict\"",
            "column \"status\" of strict has no default",
        ),
        (
            "\"@u\"",
            "\"@list\"",
            "in Redis is a list: name another key",
        ),
    ] {
        match world.attached(&good.replace(from, to)).check().await {
            Err(AttachError::Misfit(why)) => assert!(why.contains(said), "{to}: {why}"),
            other => panic!("{to}: {other:?}"),
        }
    }
    let () = world.redis("ZADD @z 1 x").await;
    let sorted = world
        .attached(&good.replace("\"@u\"", "\"@z\""))
        .check()
        .await;
    assert!(
        sorted
            .unwrap_err()
            .to_string()
            .contains("write type = \"sorted set\"")
    );
    world
        .sql("ALTER TABLE coupon ADD UNIQUE KEY (user_id, event_id)")
        .await;
    let unique = good.replace(", duplicates = \"reported\"", "");
    assert!(
        world
            .attached(&unique)
            .check()
            .await
            .unwrap()
            .iter()
            .all(|it| it.contains("no key"))
    );
}
