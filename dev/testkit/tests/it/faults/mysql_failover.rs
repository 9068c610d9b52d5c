//! MySQL fails over: the primary's connections hang, and the same address leads to its replica.
//! Lost data is then restored from Redis and the topic.

use firstcome_reconciler::report::Kind;
use firstcome_stack::{MysqlPair, Replication};
use firstcome_testkit::{
    Fixture, OperatorsShell, WorldStores, all_issued, assert_kept, assert_nothing_found,
    commands_of, coupon_body, eventually, eventually_some, rows, tally,
};
use serde_json::json;

use super::waves::{HEALED, Waves, impatient, until_promised};
use crate::drift::support::any_pass;

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
#[ignore = "release"]
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
#[ignore = "release"]
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

/// With asynchronous replication, a failover loses what the replica has not got.
#[tokio::test]
#[ignore = "release"]
async fn a_coupon_missing_on_the_replica_leaves_dead_letters_and_no_holders_of_others() {
    let pair = MysqlPair::start(Replication::Asynchronous).await.unwrap();
    let world = impatient(stores(&pair).await, "lost-coupon").await;
    let fixture = Fixture::of(world).await;
    let (api, world) = (&fixture.api, &fixture.world);
    pair.stop_replication().await.unwrap();
    let (lost, answers) = fixture.held("Lost", 10, 7).await;
    let gave_back = answers[6].0.clone();
    api.give_back(lost.id, &gave_back).await.unwrap();
    fail_over(&pair).await;
    let body = coupon_body("Other", 3, 0);
    let made = "the API has left the old primary";
    let other = eventually_some(made, HEALED, async || api.try_create_coupon(&body).await).await;
    // Holders of the lost coupon do not count as holders of this one.
    for (user, _) in &answers[..3] {
        until_promised(api, other.id, user).await;
    }
    assert!(api.claim(other.id, "late").await.is("sold_out"));
    all_issued(world, other.drop, 3).await;
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
