//! A mail server that misbehaves only delays mails; once it recovers they arrive exactly once.

use firstcome_reconciler::report::Status;
use firstcome_stack::Behaviour;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, LIMIT, MadeCoupon, ReconcilerClient, Running, World, eventually};
use serde_json::json;

use crate::drift::support::{injector, subjects};

/// Drift is injected and repaired while the mail server misbehaves; its mail waits.
async fn mended_meanwhile(
    fixture: &Fixture,
    daemon: &Running<ReconcilerClient>,
    coupon: &MadeCoupon,
    behaviour: Behaviour,
) {
    let world = &fixture.world;
    world.mail.set(behaviour.clone()).await.unwrap();
    injector(world, coupon)
        .await
        .make(Drift::Unissued, 1)
        .await
        .unwrap();
    // Later passes are not delayed either: each has ended when it is answered.
    let run = daemon.reconcile(&json!({})).await;
    assert_eq!(run.status, Status::Repaired, "{behaviour:?}: {run:#?}");
    for _ in 0..3 {
        assert_eq!(
            daemon.reconcile(&json!({})).await.status,
            Status::Clean,
            "{behaviour:?}"
        );
    }
    let tried = "SELECT COUNT(*) FROM mail_outbox WHERE sent_at IS NULL AND attempts > 0";
    eventually(
        &format!("it was tried ({behaviour:?})"),
        LIMIT,
        async || world.sql.number(tried).await == 1,
    )
    .await;
}

/// Makes the next attempt due.
async fn due_now(world: &World) {
    let due = "UPDATE mail_outbox SET next_attempt_at = UTC_TIMESTAMP(3), leased_until = NULL WHERE sent_at IS NULL";
    world.sql.query(due).await;
}

/// [`due_now`], and runs a pass, whose end wakes the sender: it would otherwise poll every five
/// seconds.
async fn due_and_woken(world: &World, daemon: &Running<ReconcilerClient>) {
    due_now(world).await;
    assert_eq!(daemon.reconcile(&json!({})).await.status, Status::Clean);
}

async fn all_sent(world: &World) {
    let waiting = "SELECT COUNT(*) FROM mail_outbox WHERE sent_at IS NULL";
    // Mails that a busy machine did not send in time are retried at once, not in half a minute.
    let again = "UPDATE mail_outbox SET next_attempt_at = UTC_TIMESTAMP(3) WHERE sent_at IS NULL AND leased_until IS NULL";
    eventually("the outbox is empty", LIMIT, async || {
        // After a deadlock with the sender, the next poll retries.
        if let Err(refused) = world.sql.try_query(again).await {
            assert_eq!(refused.code, 1213, "{}", refused.message);
            return false;
        }
        world.sql.number(waiting).await == 0
    })
    .await;
}

#[tokio::test]
async fn passes_continue_while_the_mail_server_is_silent_or_down_and_mails_arrive_once() {
    let fixture = Fixture::new("d-mail").await;
    let world = &fixture.world;
    let daemon = world
        .daemon_with(&[("FIRSTCOME_TEST_SMTP_TIMEOUT_MS", "1000")])
        .await;
    daemon.reconcile(&json!({})).await;
    for behaviour in [Behaviour::SilentAfterAccept, Behaviour::Down] {
        world.mail.set(Behaviour::Normal).await.unwrap();
        all_sent(world).await;
        let name = format!("{behaviour:?}");
        let (coupon, _) = fixture.held(&name, 20, 20).await;
        world.mail.clear();
        mended_meanwhile(&fixture, &daemon, &coupon, behaviour).await;
        assert!(world.mail.mails().is_empty(), "no mail can have arrived");
        world.mail.set(Behaviour::Normal).await.unwrap();
        due_and_woken(world, &daemon).await;
        all_sent(world).await;
        let subjects = subjects(world);
        assert_eq!(subjects.len(), 1, "{subjects:?}");
        assert!(
            subjects[0].contains("repaired") && subjects[0].contains(&name),
            "{subjects:?}"
        );
    }
    assert_eq!(daemon.process.stop().await, 0);
}
