//! MySQL fails over: the primary's connections hang, and the same address leads to its replica.
//! Lost data is then restored from Redis and the topic.

use std::collections::BTreeMap;

use firstcome_reconciler::report::Kind;
use firstcome_stack::{MysqlPair, Replication};
use firstcome_testkit::{
    Fixture, MadeCoupon, OperatorsShell, WorldStores, all_issued, assert_clean, assert_exact,
    assert_kept, assert_nothing_found, commands_of, coupon_body, eventually, eventually_some,
    kinds, people, rows, rush, tally,
};
use serde_json::json;

use super::waves::{HEALED, Waves, impatient, until_promised};
use crate::consumer::positions::any_pass;

async fn stores(pair: &MysqlPair) -> WorldStores {
    WorldStores::shared()
        .await
        .with_mysql_at(&pair.primary.database_url_via(&pair.address, ""))
}

/// Promotes the replica behind the same address.
async fn fail_over(pair: &MysqlPair) {
    pair.lose_primary().await.unwrap();
    pair.promote().await.unwrap();
    pair.lead_to(&pair.replica).await.unwrap();
}

async fn no_dead_letter(waves: &Waves) {
    let left = waves.world.sql.query("SELECT * FROM failed_claims").await;
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_semi_synchronous_failover_during_a_rush_breaks_no_promise() {
    let pair = MysqlPair::start(Replication::SemiSynchronous)
        .await
        .unwrap();
    Waves::begin(impatient(stores(&pair).await, "semi-sync").await)
        .await
        .survives(async |waves| {
            // The failover happens in the middle of a batch: its rows are inserted, and the commit
            // hangs.
            waves
                .consumer_with(&[("FIRSTCOME_STALL_AT", "rows_inserted:1:1500")])
                .await;
            let told = waves
                .next_while(20, async |waves| {
                    waves.consumer_says("stall point").await;
                    pair.lose_primary().await.unwrap();
                })
                .await;
            assert_eq!(tally(told), [("accepted".into(), 20)].into());
            waves.consumer_says("could not be written").await;
            assert_eq!(
                waves.wave().await,
                [("accepted".into(), 20)].into(),
                "claims do not wait for MySQL"
            );
            pair.promote().await.unwrap();
            pair.lead_to(&pair.replica).await.unwrap();
            // No process is restarted.
            waves.issued(60).await;
            let rename = json!({"name": "renamed"});
            let changes = async || waves.api.patch(waves.coupon.id, &rename).await.status == 200;
            eventually("operators' changes use the new primary", HEALED, changes).await;
            eventually("passes use the new primary", HEALED, async || {
                let run = waves.daemon.ask(&json!({})).await.body;
                run["status"] == "clean" || run["status"] == "repaired"
            })
            .await;
            no_dead_letter(waves).await;
        })
        .await;
}

#[tokio::test]
async fn processes_leave_a_read_only_old_primary_and_never_trust_it() {
    let pair = MysqlPair::start(Replication::SemiSynchronous)
        .await
        .unwrap();
    Waves::begin(impatient(stores(&pair).await, "back-read-only").await)
        .await
        .survives(async |waves| {
            fail_over(&pair).await;
            assert_eq!(waves.wave().await, [("accepted".into(), 20)].into());
            waves.issued(40).await;
            let later = eventually_some("a coupon is created", HEALED, async || {
                waves
                    .api
                    .try_create_coupon(&coupon_body("Later", 10, 0))
                    .await
            })
            .await;

            pair.primary.thaw().await.unwrap();
            pair.primary
                .query("SET GLOBAL super_read_only = ON")
                .await
                .unwrap();
            pair.lead_to(&pair.primary).await.unwrap();
            assert_eq!(waves.wave().await, [("accepted".into(), 20)].into());
            waves.consumer_says("read-only").await;
            eventually("passes say that it is read-only", HEALED, async || {
                waves.daemon.ask(&json!({})).await.body["error"]
                    .as_str()
                    .is_some_and(|why| why.contains("read-only"))
            })
            .await;
            // The old primary lacks a coupon that was created since. No answer may deny that
            // coupon.
            let told = waves.api.claim(later.id, "u-1").await;
            assert!(told.is_accepted() || told.is("unavailable"), "{told:?}");

            // The clients leave the old primary, although their connections still work.
            pair.address.set_upstream(pair.replica.port());
            waves.issued(60).await;
            no_dead_letter(waves).await;
            until_promised(&waves.api, later.id, "u-1").await;
            all_issued(&waves.world, later.drop, 1).await;
        })
        .await;
}

/// Creates a world on a pair with asynchronous replication. Passes run only on request.
async fn asynchronous(name: &str) -> (MysqlPair, Fixture) {
    let pair = MysqlPair::start(Replication::Asynchronous).await.unwrap();
    let world = impatient(stores(&pair).await, name).await;
    let fixture = Fixture::of(world).await;
    (pair, fixture)
}

/// Waits until the API has left the old primary and uses the new one.
async fn api_has_left(fixture: &Fixture, coupon: &MadeCoupon) {
    let renamed = async || {
        fixture
            .api
            .patch(coupon.id, &json!({"name": "renamed"}))
            .await
            .status
            == 200
    };
    eventually("the API has left the old primary", HEALED, renamed).await;
}

#[tokio::test]
async fn rows_missing_on_an_asynchronous_replica_are_rewritten_with_their_codes() {
    let (pair, fixture) = asynchronous("asynchronous").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, mut answers) = fixture.held("Winter", 40, 15).await;
    pair.stop_replication().await.unwrap();
    answers.extend(rush(&[&**api], coupon.id, &people(40)[15..], 20).await);
    all_issued(world, coupon.drop, 40).await;
    let codes = format!(
        "SELECT slot, user_id, code, claimed_at FROM issued_coupons WHERE drop_id = {}",
        coupon.drop
    );
    let before = world.sql.query(&codes).await;

    fail_over(&pair).await;
    // The replica also has older positions of the consumer, so the messages are read again.
    all_issued(world, coupon.drop, 40).await;
    assert_eq!(
        world.sql.query(&codes).await,
        before,
        "the same rows, with the codes that users were shown"
    );
    assert_exact(world, &coupon, 40, &answers).await;
    assert_clean(&world.pass().await, &coupon);
}

#[tokio::test]
async fn a_coupon_missing_on_the_replica_leaves_dead_letters_and_no_holders_of_others() {
    let (pair, fixture) = asynchronous("lost-coupon").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (known, _) = fixture.held("Known", 5, 5).await;
    pair.stop_replication().await.unwrap();
    let (lost, answers) = fixture.held("Lost", 10, 7).await;
    let gave_back = answers[6].0.clone();
    api.give_back(lost.id, &gave_back).await.unwrap();
    fail_over(&pair).await;
    api_has_left(&fixture, &known).await;
    let daily = json!({
        "name": "Daily", "quantity": 3, "once_per": "drop", "waiting_list": 0,
        "schedule": {"type": "daily", "time_zone": "UTC", "opens": "00:00", "closes": "23:59", "first_day": "2026-01-01"},
    });
    for body in [coupon_body("Other", 3, 0), daily] {
        let other = api.create_coupon(&body).await;
        // Holders of the lost coupon do not count as holders of this one.
        for (user, _) in &answers[..3] {
            assert!(api.claim(other.id, user).await.is_accepted());
        }
        assert!(api.claim(other.id, "late").await.is("sold_out"));
        all_issued(world, other.drop, 3).await;
    }
    assert!(rows(world, lost.drop).await.is_empty());
    // The consumer reads the messages of the lost coupon again, and stores a dead letter for each
    // user.
    eventually("its claims are dead letters", HEALED, async || {
        let kept = "SELECT COUNT(*) FROM failed_claims";
        world.sql.number(kept).await == 7
    })
    .await;

    // Every pass reports the claims of the lost coupon until it is restored.
    let expected = [(Kind::FailedClaim, Some(lost.id), true); 7];
    for args in [&["--dry-run"][..], &[]] {
        let once = world.once_with(args, &[]).await;
        let found: Vec<_> = once
            .run()
            .all_findings()
            .map(|f| (f.kind, f.coupon_id.map(|c| c.0), f.needs_person))
            .collect();
        assert_eq!((once.code, found), (1, expected.to_vec()), "{}", once.log);
    }
    let id = lost.id;
    let mut shell = OperatorsShell::of(world).await;
    shell.set("DATABASE", world.database());
    shell.set("MYSQL_TCP_PORT", &pair.replica.port().to_string());
    let [put_back] = <[String; 1]>::try_from(commands_of("MySQL fails over")).unwrap();
    shell.run(&put_back).await;
    any_pass(world).await;
    assert_kept(world, &lost, &answers, &[&gave_back]).await;
    assert_eq!(api.coupon(id).await["quantity"], 10);
    assert_nothing_found(&world.pass().await);
    eventually("users see the coupon again", HEALED, async || {
        api.try_me(id, &answers[0].0)
            .await
            .is_ok_and(|reply| reply.body["status"] == "issued")
    })
    .await;
    assert!(api.claim(id, "late").await.is_accepted());
    assert!(api.claim(id, &gave_back).await.is("revoked"));
}

async fn quantity(fixture: &Fixture, coupon: &MadeCoupon) -> i64 {
    let sql = format!("SELECT quantity FROM drops WHERE id = {}", coupon.drop);
    fixture.world.sql.number(&sql).await
}

#[tokio::test]
async fn settings_missing_on_the_replica_are_recovered_from_redis_first() {
    let (pair, fixture) = asynchronous("lost-settings").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (raised, mut answers) = fixture.held("Raised", 10, 10).await;
    let (renamed, mut also) = fixture.held("Raised, and renamed later", 10, 10).await;
    let (lowered, _) = fixture.held("Lowered", 40, 10).await;
    let (paused, _) = fixture.held("Paused", 40, 10).await;
    pair.stop_replication().await.unwrap();
    let more = json!({"quantity": 20});
    for (coupon, change) in [
        (&raised, &more),
        (&renamed, &more),
        (&lowered, &json!({"quantity": 15})),
        (&paused, &json!({"paused": true})),
    ] {
        api.change(coupon.id, change).await;
    }
    for (coupon, answers) in [(&raised, &mut answers), (&renamed, &mut also)] {
        answers.extend(rush(&[&**api], coupon.id, &people(20)[10..], 10).await);
        all_issued(world, coupon.drop, 20).await;
    }
    fixture.consumer.process.stop().await;

    fail_over(&pair).await;
    // A change of a setting that Redis does not store, before any pass.
    api_has_left(&fixture, &renamed).await;
    assert_eq!(
        [
            quantity(&fixture, &renamed).await,
            quantity(&fixture, &raised).await
        ],
        [20, 10]
    );
    let dry = world.once_with(&["--dry-run"], &[]).await.run();
    let run = world.pass().await;
    let expected = BTreeMap::from([(Kind::SettingsMismatch, 3)]);
    assert_eq!(
        [kinds(&dry), kinds(&run)],
        [expected.clone(), expected],
        "{dry:#?}\n{run:#?}"
    );
    let _consumer = world.consume().await;
    for (coupon, answers) in [(&raised, &answers), (&renamed, &also)] {
        all_issued(world, coupon.drop, 20).await;
        assert_exact(world, coupon, 20, answers).await;
    }
    assert_eq!(quantity(&fixture, &lowered).await, 15);
    assert!(api.claim(paused.id, "late").await.is("paused"));
    assert_nothing_found(&world.pass().await);
    let left = world.sql.query("SELECT * FROM broken_promises").await;
    assert!(left.is_empty(), "{left:?}");
    // Revisions continue from the highest one.
    api.change(paused.id, &json!({"paused": false})).await;
    assert!(api.claim(paused.id, "late").await.is_accepted());
}

/// A return that an older MySQL has forgotten stands again. The slot's next user is owed another.
#[tokio::test]
async fn a_revocation_missing_on_the_replica_gives_the_slot_back_and_can_be_repeated() {
    let (pair, fixture) = asynchronous("lost-revocation").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, mut answers) = fixture.held("Revoked", 10, 10).await;
    pair.stop_replication().await.unwrap();
    let user = answers[2].0.clone();
    let slot = answers[2].1.promised().unwrap().1;
    let order = json!({"reason": "fraud", "by": "Ann"});
    api.revoke(coupon.id, &user, &order).await.unwrap();
    let next = api.claim(coupon.id, "next").await;
    assert_eq!(next.promised(), Some((coupon.drop, slot)));
    all_issued(world, coupon.drop, 10).await;

    fail_over(&pair).await;
    api_has_left(&fixture, &coupon).await;
    let listed = [(Kind::BrokenPromise, Some("next".to_owned()), true)];
    eventually("only the next user is listed", HEALED, async || {
        let run = any_pass(world).await;
        let found: Vec<_> = run
            .all_findings()
            .map(|f| (f.kind, f.user_id.clone(), f.needs_person))
            .collect();
        found == listed
    })
    .await;
    assert_eq!(rows(world, coupon.drop).await[&slot], user);
    let again = api.claim(coupon.id, &user).await;
    assert_eq!(again.promised(), Some((coupon.drop, slot)));
    assert_eq!(api.me(coupon.id, "next").await["status"], "broken");

    api.revoke(coupon.id, &user, &order).await.unwrap();
    any_pass(world).await;
    answers.push(("next".into(), next));
    assert_kept(world, &coupon, &answers, &[&user]).await;
    assert_nothing_found(&world.pass().await);
}
