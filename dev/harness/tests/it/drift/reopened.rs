//! A closed coupon is reopened without a scheduled pass, whatever closed it.

use crate::drift::support::{accept_rows, lose_rows, refuse_rows};
use crate::prelude::*;

const CLOSERS: [&str; 8] = [
    "a lost gate",
    "garbage in the gate",
    "a list in place of the gate",
    "a closed gate",
    "a gate of another era",
    "a lost counter",
    "a counter that went back",
    "a restart of redis",
];

#[tokio::test]
async fn a_coupon_reopens_without_cron_whatever_closed_it() {
    let short = [
        ("PUBLISH_DEADLINE_MS", "500"),
        ("FIRSTCOME_TEST_BACKUP_DEADLINE_MS", "500"),
    ];
    let (fixture, redis) = Fixture::with_own_redis("d-closers", &short).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let _daemon = world.daemon().await;
    let (coupon, _) = fixture.held("Closed", 60, 12).await;
    let gate = world.redis.of_coupon(coupon.id, "gate");
    let count = world.redis.of_drop(coupon.id, coupon.drop, "count");
    let run = async |words: &[&str]| world.redis.command::<()>(words).await;
    for (at, closer) in CLOSERS.into_iter().enumerate() {
        let open: String = world.redis.command(&["GET", &gate]).await;
        let held: String = world.redis.command(&["GET", &count]).await;
        match closer {
            "a lost gate" => run(&["DEL", &gate]).await,
            "garbage in the gate" => run(&["SET", &gate, "x"]).await,
            "a list in place of the gate" => {
                run(&["DEL", &gate]).await;
                run(&["LPUSH", &gate, "x"]).await;
            }
            "a closed gate" => run(&["SET", &gate, &open.replace("open", "closed")]).await,
            "a gate of another era" => {
                let era = format!("UPDATE coupons SET era = era + 1 WHERE id = {}", coupon.id);
                world.sql.query(&era).await;
            }
            "a lost counter" => run(&["DEL", &count]).await,
            // Done below, because the daemon must see the counter before and after it went back.
            "a counter that went back" => {}
            _ => {
                redis.restart().await.unwrap();
            }
        }
        let mut turn = false;
        let what = format!("the gate is new after {closer}");
        // Scheduled passes run once a year.
        eventually_some(&what, LIMIT, async || {
            let now: Result<String, _> = world.redis.try_command(&["GET", &gate]).await;
            match now {
                Ok(now) if now != open && now.ends_with("open") => Ok(()),
                // Alternates, because the daemon must also see the higher counter.
                Ok(now) if now == open && closer == "a counter that went back" => {
                    turn = !turn;
                    let went_back = if turn { "3" } else { &held };
                    run(&["SET", &count, went_back]).await;
                    Err("still open".to_owned())
                }
                now => Err(format!("{now:?}")),
            }
        })
        .await;
        api.until_promised(coupon.id, &format!("u-after-{at}"))
            .await;
    }
    world.sql.query("UPDATE coupons SET era = 1").await;
    eventually("MySQL has the era of the gate again", LIMIT, async || {
        world.sql.number("SELECT era FROM coupons").await > 1
    })
    .await;
    all_issued(world, coupon.drop, 12 + CLOSERS.len()).await;
    assert_kept(world, &coupon, &[]).await;
}

/// An attempt that need not wait opens the coupon moments after it has begun the era, so the
/// watch's catalogue still has the one before.
#[tokio::test]
async fn a_coupon_that_was_closed_for_long_stays_open_once_it_is_open() {
    let fixture = Fixture::new("d-long-closed").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Stuck", 20, 3).await;
    all_issued(world, coupon.drop, 3).await;
    refuse_rows(world, "TRUE").await;
    lose_rows(world, &coupon, "= 2").await;
    let _daemon = world.daemon().await;
    let gate = world.redis.of_coupon(coupon.id, "gate");
    let read = async || world.redis.command::<String>(&["GET", &gate]).await;
    let era = async || world.sql.number("SELECT era FROM coupons").await;
    let before = era().await;
    close(world, &coupon).await;
    eventually("a second attempt fails", LIMIT, async || {
        era().await > before + 1 && read().await.ends_with("closed")
    })
    .await;
    accept_rows(world).await;
    eventually("it is open", LIMIT, async || read().await.ends_with("open")).await;
    let open = read().await;
    let begun = Instant::now();
    // The watch looks four times a second, and reads the catalogue once a second.
    while begun.elapsed() < Duration::from_secs(3) {
        assert_eq!(read().await, open, "after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Otherwise a coupon whose MySQL has failed over to a lagging replica would open without the rows
/// of messages that are to be read again.
#[tokio::test]
async fn a_coupon_that_stayed_closed_is_not_judged_by_a_mysql_that_went_back() {
    let fixture = Fixture::new("d-went-back").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Back", 20, 6).await;
    all_issued(world, coupon.drop, 6).await;
    refuse_rows(world, "TRUE").await;
    lose_rows(world, &coupon, "= 2").await;
    let daemon = world.daemon().await;
    let gate = world.redis.of_coupon(coupon.id, "gate");
    let is_open = async || {
        let gate: String = world.redis.command(&["GET", &gate]).await;
        gate.ends_with("open")
    };
    let logged = |words: &str| daemon.process.log().matches(words).count();
    let waits = || logged("that may be on their way");
    close(world, &coupon).await;
    eventually("a second attempt fails", LIMIT, async || {
        logged("a coupon stays closed") == 2
    })
    .await;
    assert_eq!(
        waits(),
        1,
        "while MySQL has not gone back, one wait is enough"
    );
    fixture.consumer.process.kill().await;
    for lost in ["issued_coupons", "topic_positions"] {
        world.sql.query(&format!("DELETE FROM {lost}")).await;
    }
    accept_rows(world).await;
    eventually("it waits again", LIMIT, async || {
        assert!(!is_open().await, "it is open before the consumer has read");
        waits() == 2
    })
    .await;
    let _consumer = world.consume().await;
    eventually("it is open", LIMIT, is_open).await;
    all_issued(world, coupon.drop, 6).await;
    assert_kept(world, &coupon, &[]).await;
}
