//! Redis loses a single drop, whose keys were deleted manually. Claims may still be in flight, so a
//! pass waits for them after each such loss.

use firstcome_reconciler::report::Status;
use firstcome_testkit::{Fixture, LIMIT, MadeCoupon, eventually, redis_holders};
use serde_json::json;

const WAITS: &str = "waiting for what may still be on its way";

async fn delete(fixture: &Fixture, coupon: &MadeCoupon) {
    let own = |name| fixture.world.redis.of_drop(coupon.id, coupon.drop, name);
    fixture
        .world
        .redis
        .command::<()>(&[
            "DEL",
            &own("meta"),
            &own("users"),
            &own("count"),
            &own("times"),
        ])
        .await;
}

async fn has_everybody(fixture: &Fixture, coupon: &MadeCoupon) -> bool {
    redis_holders(&fixture.world, coupon).await.len() == 5
}

/// No pass has found the drop intact between the two losses.
#[tokio::test]
async fn a_pass_waits_again_after_a_second_loss_of_the_same_drop() {
    let fixture = Fixture::new("d-lost-again").await;
    fixture.world.set("RECONCILE_CRON", "0 0 0 1 1 *");
    // Waits for the first passes, which would otherwise find the loss.
    let daemon = fixture.world.daemon().await;
    let (coupon, _) = fixture.held("Again", 20, 5).await;
    for times in 1..=2 {
        delete(&fixture, &coupon).await;
        assert_eq!(daemon.reconcile(&json!({})).await.status, Status::Repaired);
        assert!(has_everybody(&fixture, &coupon).await);
        assert_eq!(
            daemon.process.log().matches(WAITS).count(),
            times,
            "{}",
            daemon.process.log()
        );
    }
}

#[tokio::test]
async fn a_drop_lost_after_the_wait_began_is_left_to_the_next_pass() {
    let fixture = Fixture::new("d-lost-late").await;
    let (first, _) = fixture.held("First", 20, 5).await;
    let (second, _) = fixture.held("Second", 20, 5).await;
    delete(&fixture, &first).await;
    let pass = fixture.world.start("firstcome-reconciler", &["once"], &[]);
    eventually("it waits", LIMIT, async || pass.log().contains(WAITS)).await;
    delete(&fixture, &second).await;
    pass.ended(LIMIT).await;
    assert!(has_everybody(&fixture, &first).await, "{}", pass.log());
    assert!(!has_everybody(&fixture, &second).await, "{}", pass.log());
    let told = format!(
        "SELECT detail FROM reconcile_findings WHERE drop_id = {}",
        second.drop
    );
    let told = fixture.world.sql.query(&told).await.concat().concat();
    assert!(
        told.contains("it waits until what is on its way is known"),
        "{told}"
    );
    let next = fixture.world.once_with(&[], &[]).await;
    assert!(has_everybody(&fixture, &second).await, "{}", next.log);
}
