//! The way to one store is slow, cut, silent, closed from the other side, or loses the replies to what was done.

use std::time::{Duration, Instant};

use firstcome_stack::Fault;
use firstcome_testkit::{Stores, rows, shared};

use super::scene::{Scene, impatient, kafka_behind_proxy};
use crate::claims::many::holders;

/// Longer than the API waits for Kafka and than anybody waits for MySQL; Redis answers in time all the same.
const SLOW: Fault = Fault::Delay(Duration::from_millis(1_600));
const LATE: Fault = Fault::Delay(Duration::from_millis(100));

async fn redis(name: &str, fault: Fault) {
    let stack = shared().await;
    let proxy = stack.redis.proxy().await.unwrap();
    let world = impatient(Stores::shared().await, name).await;
    world.set("REDIS_URL", &stack.redis.url_via(&proxy));
    let scene = Scene::begin(world).await;
    scene
        .survives(async |scene| {
            proxy.set(fault).await.unwrap();
            let begun = Instant::now();
            let told = scene.wave().await;
            if fault == LATE {
                assert!(begun.elapsed() >= Duration::from_millis(200) && told.contains_key("accepted"), "{told:?}");
            } else {
                assert_eq!(told, [("unavailable".into(), 20)].into(), "closed, and nobody is told anything else");
            }
            if fault == Fault::DropReplies {
                assert!(proxy.counters().bytes_dropped > 0);
                assert!(holders(&scene.world, &scene.coupon).await > 20, "some were admitted, and nobody knows");
            }
            proxy.set(Fault::Pass).await.unwrap();
        })
        .await;
}

async fn mysql(name: &str, fault: Fault) {
    let stack = shared().await;
    let proxy = stack.mysql.proxy().await.unwrap();
    let world = impatient(Stores::shared().await, name).await;
    world.set("DATABASE_URL", &stack.mysql.database_url_via(&proxy, world.database()));
    let scene = Scene::begin(world).await;
    scene
        .survives(async |scene| {
            if fault == Fault::DropReplies {
                // The moment that matters: rows are inserted, and what is lost is the answer to the commit.
                scene.consumer_with(&[("FIRSTCOME_STALL_AT", "rows_inserted:1:1500")]).await;
                assert_eq!(scene.wave().await, [("accepted".into(), 20)].into());
                scene.consumer_says("stall point").await;
                proxy.set(fault).await.unwrap();
            } else {
                proxy.set(fault).await.unwrap();
                assert_eq!(scene.wave().await, [("accepted".into(), 20)].into(), "claims do not need MySQL");
                assert_eq!(scene.unqueued(), 0);
            }
            scene.consumer_says("could not be written").await;
            if fault == Fault::DropReplies {
                assert!(rows(&scene.world, scene.coupon.drop).await.len() > 20, "it was committed, and nobody knows");
            }
            proxy.set(Fault::Pass).await.unwrap();
        })
        .await;
}

async fn kafka(name: &str, fault: Fault) {
    let (server, proxy, _turn) = kafka_behind_proxy().await;
    let world = impatient(Stores::shared().await.with_kafka(server), name).await;
    let scene = Scene::begin(world).await;
    scene
        .survives(async |scene| {
            proxy.set(fault).await.unwrap();
            let told = scene.wave().await;
            assert_eq!(told, [("accepted".into(), 20)].into(), "the backup table holds what Kafka does not");
            assert_eq!(scene.unqueued(), 20, "and that is said");
            proxy.set(Fault::Pass).await.unwrap();
        })
        .await;
}

macro_rules! links {
    ($($store:ident: $($name:ident $fault:expr),+;)+) => {
        $($(
            #[tokio::test]
            async fn $name() {
                $store(&stringify!($name).replace('_', "-")[..30], $fault).await;
            }
        )+)+
    };
}

links! {
    redis: a_slow_way_to_redis_breaks_no_promise LATE,
        a_way_to_redis_that_is_cut_breaks_no_promise Fault::Cut,
        a_silent_way_to_redis_breaks_no_promise Fault::BlackHole,
        a_half_closed_way_to_redis_breaks_no_promise Fault::HalfClose,
        replies_of_redis_lost_after_execution_break_no_promise Fault::DropReplies;
    mysql: a_slow_way_to_mysql_breaks_no_promise SLOW,
        a_way_to_mysql_that_is_cut_breaks_no_promise Fault::Cut,
        a_silent_way_to_mysql_breaks_no_promise Fault::BlackHole,
        a_half_closed_way_to_mysql_breaks_no_promise Fault::HalfClose,
        replies_of_mysql_lost_after_execution_break_no_promise Fault::DropReplies;
    kafka: a_slow_way_to_kafka_breaks_no_promise SLOW,
        a_way_to_kafka_that_is_cut_breaks_no_promise Fault::Cut,
        a_silent_way_to_kafka_breaks_no_promise Fault::BlackHole,
        a_half_closed_way_to_kafka_breaks_no_promise Fault::HalfClose,
        replies_of_kafka_lost_after_execution_break_no_promise Fault::DropReplies;
}
