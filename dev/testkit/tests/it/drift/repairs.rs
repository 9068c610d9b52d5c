//! Repairs: after one pass the drop is exact again, and a second pass finds nothing.

use firstcome_reconciler::report::{Kind, Status};
use firstcome_stack::{RedisOptions, RedisServer};
use firstcome_testkit::{
    Answer, Fixture, LIMIT, WorldStores, all_issued, assert_exact, given_out, kinds, open_world,
    people, rush,
};

#[tokio::test]
async fn a_rewritten_row_has_the_code_that_its_user_was_shown() {
    let (world, api) = open_world("codes").await;
    let (coupon, _) = given_out(&world, &api).await;
    let read = format!(
        "SELECT slot, user_id, code FROM issued_coupons WHERE drop_id = {} ORDER BY slot",
        coupon.drop
    );
    let shown = world.sql.query(&read).await;
    let delete = format!(
        "DELETE FROM issued_coupons WHERE drop_id = {} AND slot",
        coupon.drop
    );

    world.sql.query(&format!("{delete} IN (1, 7, 20)")).await;
    assert_eq!(kinds(&world.pass().await), [(Kind::Unissued, 3)].into());
    assert_eq!(world.sql.query(&read).await, shown);

    // Redis now has the claim times from the rows.
    let users = world.redis.of_drop(coupon.id, coupon.drop, "users");
    world
        .redis
        .command::<i64>(&["DEL", &users, &world.redis.claimants(coupon.id)])
        .await;
    world.pass().await;
    world.sql.query(&delete.replace(" AND slot", "")).await;
    assert_eq!(kinds(&world.pass().await), [(Kind::Unissued, 20)].into());
    assert_eq!(world.sql.query(&read).await, shown);
}

#[tokio::test]
async fn a_lost_or_changed_code_key_is_reported_until_an_operator_decides() {
    let (world, api) = open_world("code-key").await;
    given_out(&world, &api).await;
    let told = async || {
        let run = world.once_with(&[], &[]).await.run();
        let found = run
            .all_findings()
            .map(|f| (f.kind, f.detail.clone()))
            .collect::<Vec<_>>();
        (run.status, found)
    };
    assert_eq!(told().await, (Status::Clean, vec![]));
    world.sql.query("DELETE FROM code_key").await;
    let (status, found) = told().await;
    assert!(
        status == Status::Drift && found.len() == 1 && found[0].0 == Kind::UnsafeSetting,
        "{found:?}"
    );
    assert!(
        found[0].1.starts_with("the table code_key is empty"),
        "{found:?}"
    );

    let migrate = world.start("firstcome-api", &["migrate"], &[]);
    assert_eq!(migrate.ended(LIMIT).await, 0, "{}", migrate.log());
    assert!(
        migrate.log().contains("a new key was drawn"),
        "{}",
        migrate.log()
    );
    let (status, found) = told().await;
    assert!(
        status == Status::Drift && found[0].1.contains("was lost, and another was drawn"),
        "{found:?}"
    );
    let statement = "UPDATE code_key SET since = '1970-01-01'";
    world.sql.query(statement).await;
    let (status, found) = told().await;
    assert!(
        status == Status::Drift && found[0].1.contains("does not make the codes"),
        "{found:?}"
    );
    let statement = "UPDATE code_key SET since = UTC_TIMESTAMP(3)";
    world.sql.query(statement).await;
    assert_eq!(told().await, (Status::Clean, vec![]));
}

/// Without `read_uncommitted`, no client sees the messages after the one of the open transaction.
#[tokio::test]
async fn an_open_foreign_transaction_hides_no_claims() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&redis);
    let Fixture {
        world,
        api,
        consumer,
    } = Fixture::on(stores, "transaction").await;
    let coupon = api.open_coupon(20).await;
    let foreign = world.topic.open_transaction(b"not ours").await;
    let mut answers = rush(&[&api], coupon.id, &people(10), 10).await;
    all_issued(&world, coupon.drop, 10).await;
    consumer.process.stop().await;
    answers.extend(
        rush(
            &[&api],
            coupon.id,
            &["w-1".into(), "w-2".into(), "w-3".into()],
            3,
        )
        .await,
    );
    assert!(
        answers.iter().all(|(_, answer)| answer.is_accepted()),
        "{answers:?}"
    );

    world.redis.command::<()>(&["FLUSHALL"]).await;
    let run = world.once_with(&[], &[]).await.run();
    assert!(kinds(&run).contains_key(&Kind::RedisLost), "{run:#?}");
    for (user, answer) in &answers {
        let (drop, slot) = answer.promised().unwrap();
        assert_eq!(
            api.claim(coupon.id, user).await,
            Answer::Already { drop, slot },
            "{user}"
        );
    }
    let _consumer = world.consume().await;
    all_issued(&world, coupon.drop, 13).await;
    assert_exact(&world, &coupon, 13, &answers).await;
    foreign.abort().await;
}
