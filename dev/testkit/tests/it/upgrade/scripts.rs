//! A release with another admission script: admission is open to both in one life of Redis.

use firstcome_testkit::{LIMIT, Release, eventually_some};

use super::system::{SystemToUpgrade, UpgradedRole, migrate};

#[tokio::test]
async fn a_release_with_another_script_takes_over_and_back_without_refusals() {
    let mut system = SystemToUpgrade::of(Release::This, "up-script").await;
    for by in [Release::Next, Release::This] {
        for role in [
            UpgradedRole::Reconciler,
            UpgradedRole::Consumer,
            UpgradedRole::Api,
        ] {
            system.replace(role, by).await;
        }
    }
    system.ends_exact().await;
}

#[tokio::test]
async fn an_api_upgraded_before_its_reconciler_is_not_ready_and_says_why() {
    let mut system = SystemToUpgrade::of(Release::This, "up-early").await;
    system.world.use_release(Release::Next);
    let early = system.world.serve().await;
    let sentence = "admission is open to another release only, which has another script: start a reconciler of this release";
    eventually_some("it reports what it waits for", LIMIT, async || {
        let reply = early.http().get("/readyz").await;
        if reply.status == 503 && reply.text.contains(sentence) {
            Ok(())
        } else {
            Err(reply.text)
        }
    })
    .await;
    assert!(
        early.process.log().contains(sentence),
        "{}",
        early.process.log()
    );
    system.crowd.goes_on(40).await;
    for role in [
        UpgradedRole::Reconciler,
        UpgradedRole::Consumer,
        UpgradedRole::Api,
    ] {
        system.replace(role, Release::Next).await;
    }
    assert_eq!(early.http().get("/readyz").await.status, 200);
    system.ends_exact().await;
}

/// The programs of `OLD_PROGRAMS` leave no witness, unless a newer commit is chosen.
#[tokio::test]
async fn a_release_without_a_witness_is_replaced_with_one_reopening() {
    let mut system = SystemToUpgrade::of(Release::Old, "up-unwitnessed").await;
    migrate(&system.world, Release::Next).await;
    system.replace_unwitnessed(Release::Next).await;
    system.ends_exact().await;
}
