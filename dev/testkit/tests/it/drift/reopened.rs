//! Whatever closes a coupon, it is reopened without a scheduled pass.

use std::time::Duration;

use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::{Fixture, MadeCoupon, World, WorldStores, all_issued, eventually_some};

/// Time limit for the reopening. A scheduled pass is months away.
const REOPENED: Duration = Duration::from_secs(20);

/// Waits until the coupon admits this user.
async fn admits(fixture: &Fixture, coupon: &MadeCoupon, user: &str, after: &str) {
    eventually_some(
        &format!("{user} is admitted after {after}"),
        REOPENED,
        async || {
            let answer = fixture.api.claim(coupon.id, user).await;
            answer.promised().map(drop).ok_or(format!("{answer:?}"))
        },
    )
    .await;
}

#[tokio::test]
async fn a_coupon_reopens_without_cron_whatever_closed_it() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&redis);
    let world = World::on(stores, "d-closers").await;
    world.set("PUBLISH_DEADLINE_MS", "500");
    world.set("FIRSTCOME_TEST_BACKUP_DEADLINE_MS", "500");
    let fixture = Fixture::of(world).await;
    let world = &fixture.world;
    let daemon = world.daemon().await;
    let (coupon, mut answers) = fixture.held("Closed", 60, 12).await;
    let gate = world.redis.gate(coupon.id);
    let count = world.redis.of_drop(coupon.id, coupon.drop, "count");
    let closers = [
        "a lost gate",
        "garbage in the gate",
        "a list in place of the gate",
        "a closed gate",
        "a gate of another era",
        "a counter that went back",
        "a restart of redis",
    ];
    for (at, closer) in closers.into_iter().enumerate() {
        let open: String = world.redis.command(&["GET", &gate]).await;
        let held: String = world.redis.command(&["GET", &count]).await;
        let mut turn = false;
        match closer {
            "a lost gate" => world.redis.command::<()>(&["DEL", &gate]).await,
            "garbage in the gate" => world.redis.command::<()>(&["SET", &gate, "x"]).await,
            "a list in place of the gate" => {
                world.redis.command::<()>(&["DEL", &gate]).await;
                world.redis.command::<()>(&["LPUSH", &gate, "x"]).await;
            }
            "a closed gate" => {
                let closed = open.replace("open", "closed");
                world.redis.command::<()>(&["SET", &gate, &closed]).await;
            }
            "a gate of another era" => {
                let era = format!("UPDATE coupons SET era = era + 1 WHERE id = {}", coupon.id);
                world.sql.query(&era).await;
            }
            // Below, because the daemon must see it before and after.
            "a counter that went back" => {}
            _ => {
                redis.kill().await.unwrap();
                redis.start_again().await.unwrap();
            }
        }
        // The gate changes again once the coupon is open.
        eventually_some(
            &format!("the gate is new after {closer}"),
            REOPENED,
            async || {
                let now: Result<String, _> = world.redis.try_command(&["GET", &gate]).await;
                match now {
                    Ok(now) if now != open && now.ends_with("open") => Ok(()),
                    // The daemon must see the higher counter, too.
                    Ok(now) if now == open && closer == "a counter that went back" => {
                        turn = !turn;
                        let went_back = if turn { "3" } else { &held };
                        let words = ["SET", &count, went_back];
                        world.redis.command::<()>(&words).await;
                        Err("still open".to_owned())
                    }
                    now => Err(format!("{now:?}")),
                }
            },
        )
        .await;
        let user = format!("u-after-{at}");
        admits(&fixture, &coupon, &user, closer).await;
        answers.push((user.clone(), fixture.api.claim(coupon.id, &user).await));
    }
    let held = answers.len();
    all_issued(world, coupon.drop, held).await;
    firstcome_testkit::assert_kept(world, &coupon, &answers, &[]).await;
    assert_eq!(daemon.process.stop().await, 0);
}
