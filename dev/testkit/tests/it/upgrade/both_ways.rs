//! Two releases understand each other's data: messages, rows, revocations and runs.

use firstcome_reconciler::report::{Run, Status};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Fixture, Http, Release, World, all_issued, assert_kept, assert_nothing_found, coupon_body,
    people, rush,
};
use reqwest::Method;
use serde_json::json;

use crate::drift::support::{assert_whole, injector};

/// Pairs of a writer and a reader.
const BOTH_WAYS: [[Release; 2]; 2] = [[Release::Old, Release::This], [Release::This, Release::Old]];

#[tokio::test]
async fn releases_read_each_others_messages_codes_and_revocations() {
    for [writer, reader] in BOTH_WAYS {
        let world = World::new("up-messages").await;
        // Both releases admit users in an era of Redis that the older release began.
        world.use_release(Release::Old);
        world.open().await;
        world.use_release(reader);
        let consumer = world.consume().await;
        let other = world.serve().await;
        world.use_release(writer);
        let api = world.serve().await;
        let coupon = api.create_coupon(&coupon_body("Winter", 20, 5)).await;
        let answers = rush(&[&api], coupon.id, &people(20), 10).await;
        all_issued(&world, coupon.drop, 20).await;
        for user in ["w-1", "w-2", "w-3"] {
            assert_eq!(api.claim(coupon.id, user).await.word(), "waiting");
        }
        let [giver, revoked] = [&answers[3].0, &answers[4].0];
        api.give_back(coupon.id, giver).await.unwrap();
        let again = json!({"reason": "by mistake", "by": "Kim", "may_claim_again": true});
        api.revoke(coupon.id, revoked, &again).await.unwrap();
        world.use_release(reader);
        assert_eq!(
            world.pass().await.status,
            Status::Repaired,
            "two waiting users are promoted"
        );

        assert!(other.claim(coupon.id, giver).await.is("revoked"));
        assert_eq!(other.claim(coupon.id, revoked).await.word(), "waiting");
        assert_whole(&world, &coupon, 20, 20).await;
        assert_kept(&world, &coupon, &answers, &[giver, revoked]).await;
        for user in people(20) {
            let told = api.me(coupon.id, &user).await;
            let other = other.me(coupon.id, &user).await;
            assert_eq!(
                (&told["status"], &told["slot"], &told["code"]),
                (&other["status"], &other["slot"], &other["code"])
            );
        }
        for release in [writer, reader] {
            world.use_release(release);
            assert_nothing_found(&world.pass().await);
        }
        assert_eq!(consumer.process.stop().await, 0);
    }
}

/// The kind of drift, the number of affected users, and the number of holders before and
/// afterwards. Each drop has 20 slots.
const CASES: [(Drift, u32, usize, usize); 17] = [
    (Drift::Unissued, 3, 20, 20),
    (Drift::Unpublished, 2, 12, 14),
    (Drift::FailedClaim, 3, 20, 20),
    (Drift::FailedDuplicate, 2, 20, 20),
    (Drift::FailedSlotTaken, 2, 12, 14),
    (Drift::MissingAdmission, 3, 20, 20),
    (Drift::MissingClaimants, 3, 20, 20),
    (Drift::MissingMoved, 2, 12, 12),
    (Drift::CountGap, 2, 12, 13),
    (Drift::CountLower, 3, 20, 20),
    (Drift::CountHigher, 3, 12, 12),
    (Drift::SlotConflict, 2, 12, 14),
    (Drift::ConflictExchanged, 2, 20, 20),
    (Drift::OverAdmitted, 2, 12, 14),
    (Drift::RedisLost, 1, 20, 20),
    (Drift::RevokedAdmission, 3, 20, 17),
    (Drift::RevokedRow, 3, 20, 17),
];

#[tokio::test]
async fn repairs_of_one_reconciler_are_seen_and_shown_by_the_other() {
    for [first, second] in BOTH_WAYS {
        let fixture = Fixture::new("up-drift").await;
        let world = &fixture.world;
        // Both releases admit users in an era of Redis that the older release began.
        world.use_release(Release::Old);
        world.pass().await;
        world.use_release(Release::This);
        let mut made = Vec::new();
        for (drift, people, held, end) in CASES {
            let (coupon, answers) = fixture.held(&drift.name(), 20, held).await;
            let done = injector(world, &coupon)
                .await
                .make(drift, people)
                .await
                .unwrap();
            let gone = if drift.name().starts_with("revoked") {
                done.people
            } else {
                Vec::new()
            };
            made.push((coupon, answers, gone, end));
        }
        world.use_release(first);
        let run = world.pass().await;
        assert_eq!(
            (run.status, run.drops.len()),
            (Status::Repaired, CASES.len()),
            "{run:#?}"
        );
        world.use_release(second);
        assert_nothing_found(&world.pass().await);
        for (coupon, answers, gone, end) in &made {
            let gone: Vec<&str> = gone.iter().map(|person| person.user.as_str()).collect();
            assert_whole(world, coupon, 20, *end).await;
            assert_kept(world, coupon, answers, &gone).await;
        }
        let daemon = world.daemon_with(&[]).await;
        let path = format!("/v1/runs/{}", run.run_id);
        let shown = Http::send(daemon.http().ops(Method::GET, &path)).await;
        let shown: Run = serde_json::from_value(shown.body).unwrap();
        assert_eq!(shown.all_findings().count(), run.all_findings().count());
        assert_eq!(daemon.process.stop().await, 0);
    }
}
