//! Single faults that need more than exactness: an answer, a moment, or that nothing was changed.
//! The others are in `single`.

use firstcome_stack::{ProxyFault, RedisOptions, RedisServer};
use firstcome_testkit::{
    Answer, Fixture, Http, World, WorldStores, all_issued, assert_exact, eventually, holders,
    people, rows, rush, shared, tally,
};

use super::waves::{HEALED, Waves, follows, impatient, kafka_behind_proxy, replication};

#[tokio::test]
async fn a_redis_without_memory_admits_nobody_and_changes_nothing() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&redis);
    let Fixture {
        world,
        api,
        consumer: _consumer,
    } = Fixture::on(stores, "redis-full").await;
    let coupon = api.open_coupon(10).await;
    let mut answers = rush(&[&api], coupon.id, &people(5), 5).await;
    let before = world.redis.dump().await;
    world
        .redis
        .command::<()>(&["CONFIG", "SET", "maxmemory", "1"])
        .await;
    for user in ["u-6", "u-7"] {
        let reply = Http::send(api.claim_request(coupon.id, user)).await;
        assert_eq!(
            (reply.status, reply.body["code"].as_str()),
            (503, Some("unavailable")),
            "{reply:?}"
        );
    }
    let again = api.claim(coupon.id, "u-1").await;
    assert!(
        matches!(again, Answer::Already { .. } | Answer::Problem(503, _)),
        "{again:?}"
    );
    assert_eq!(world.redis.dump().await, before);
    world
        .redis
        .command::<()>(&["CONFIG", "SET", "maxmemory", "0"])
        .await;
    answers.extend(rush(&[&api], coupon.id, &people(12)[5..], 7).await);
    assert_eq!(
        tally(&answers),
        [("accepted".into(), 10), ("sold_out".into(), 2)].into()
    );
    all_issued(&world, coupon.drop, 10).await;
    assert_exact(&world, &coupon, 10, &answers).await;
}

#[tokio::test]
async fn an_api_frozen_in_mid_claim_resumes_without_harm() {
    let (kafka, _, _turn) = kafka_behind_proxy().await;
    let world = World::on(WorldStores::shared().await.with_kafka(kafka), "api-frozen").await;
    world.set("PUBLISH_DEADLINE_MS", "1000");
    let Fixture {
        world,
        api,
        consumer: _consumer,
    } = Fixture::of(world).await;
    let coupon = api.open_coupon(5).await;
    assert!(api.claim(coupon.id, "u-1").await.is_accepted());
    all_issued(&world, coupon.drop, 1).await;

    kafka.freeze().await.unwrap();
    let claim = tokio::spawn({
        let api = (*api).clone();
        let id = coupon.id;
        async move { api.claim(id, "u-2").await }
    });
    eventually("they are admitted", HEALED, async || {
        holders(&world, &coupon).await == 2
    })
    .await;
    api.process.freeze();
    kafka.thaw().await.unwrap();
    // Its message is in flight or not; if not, a pass that is old enough to know issues the row.
    eventually("they have their row", HEALED, async || {
        world.once_with(&[], &[]).await.code == 0 && rows(&world, coupon.drop).await.len() == 2
    })
    .await;
    api.process.thaw();
    let mut answer = claim.await.unwrap();
    if answer.is("unavailable") {
        // It was suspended for longer than a pass waits for a second store, so it promises nothing.
        answer = api.claim(coupon.id, "u-2").await;
    }
    assert_eq!(answer.promised(), Some((coupon.drop, 2)), "{answer:?}");
    all_issued(&world, coupon.drop, 2).await;
    assert_exact(&world, &coupon, 2, &[("u-2".into(), answer)]).await;
    // It may see Kafka's acknowledgement or its own deadline first. In the latter case it stored
    // the claim as a dead letter, and a pass finds that its row exists.
    eventually("nothing is left to do", HEALED, async || {
        world.once_with(&[], &[]).await.code == 0
            && world
                .sql
                .query("SELECT * FROM failed_claims WHERE resolved_at IS NULL")
                .await
                .is_empty()
    })
    .await;
    assert!(
        world
            .sql
            .query("SELECT * FROM failed_claims WHERE resolution <> 'duplicate'")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn a_lost_reply_to_a_commit_breaks_no_promise() {
    let stack = shared().await;
    let proxy = stack.mysql.proxy().await.unwrap();
    let world = impatient(WorldStores::shared().await, "lost-commit").await;
    world.set(
        "DATABASE_URL",
        &stack.mysql.database_url_via(&proxy, world.database()),
    );
    let waves = Waves::begin(world).await;
    waves
        .survives(async |waves| {
            // Rows are inserted, and the answer to the commit is lost.
            waves
                .consumer_with(&[("FIRSTCOME_STALL_AT", "rows_inserted:1:1500")])
                .await;
            assert_eq!(waves.wave().await, [("accepted".into(), 20)].into());
            waves.consumer_says("stall point").await;
            proxy.set(ProxyFault::DropReplies).await.unwrap();
            waves.consumer_says("could not be written").await;
            assert!(
                rows(&waves.world, waves.coupon.drop).await.len() > 20,
                "it was committed without an acknowledgement"
            );
            proxy.set(ProxyFault::Pass).await.unwrap();
        })
        .await;
}

#[tokio::test]
async fn a_master_cut_off_from_its_replica_admits_nobody_until_reconnected() {
    let lag = [
        "--min-replicas-to-write",
        "1",
        "--min-replicas-max-lag",
        "2",
        "--repl-ping-replica-period",
        "1",
    ];
    let extra_args = lag.map(str::to_owned).to_vec();
    let master = RedisServer::start(RedisOptions {
        extra_args,
        ..RedisOptions::default()
    })
    .await
    .unwrap();
    let link = master.proxy().await.unwrap();
    let options = RedisOptions {
        replica_of: Some(link.port()),
        ..RedisOptions::default()
    };
    let _replica = RedisServer::start(options).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&master);
    follows(&master).await;
    let waves = Waves::begin(impatient(stores, "cut-off").await).await;
    waves
        .survives(async |waves| {
            link.set(ProxyFault::Cut).await.unwrap();
            eventually("the master notices", HEALED, async || {
                replication(&master)
                    .await
                    .contains("min_slaves_good_slaves:0")
            })
            .await;
            let before = holders(&waves.world, &waves.coupon).await;
            assert_eq!(
                waves.wave().await,
                [("unavailable".into(), 20)].into(),
                "another may have become the master"
            );
            assert_eq!(holders(&waves.world, &waves.coupon).await, before);
            link.set(ProxyFault::Pass).await.unwrap();
        })
        .await;
}
