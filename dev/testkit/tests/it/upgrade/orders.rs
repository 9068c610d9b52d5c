//! An older release is replaced under load, in both orders. At each step both releases run
//! together.

use firstcome_testkit::Release;

use super::system::{SystemToUpgrade, UpgradedRole, migrate};

async fn is_replaced(name: &str, order: [UpgradedRole; 3]) {
    let mut system = SystemToUpgrade::of(Release::Old, name).await;
    migrate(&system.world, Release::This).await;
    system.crowd.goes_on(100).await;
    for role in order {
        system.replace(role, Release::This).await;
    }
    system.ends_exact().await;
}

#[tokio::test]
async fn an_upgrade_with_the_apis_last_breaks_no_promise() {
    is_replaced(
        "up-first",
        [
            UpgradedRole::Reconciler,
            UpgradedRole::Consumer,
            UpgradedRole::Api,
        ],
    )
    .await;
}

#[tokio::test]
async fn an_upgrade_with_the_reconciler_last_breaks_no_promise() {
    is_replaced(
        "up-last",
        [
            UpgradedRole::Api,
            UpgradedRole::Consumer,
            UpgradedRole::Reconciler,
        ],
    )
    .await;
}

/// Follows the steps in OPERATIONS for a downgrade to a release that cannot read messages with
/// several claims. The new tables stay. The reconciler is replaced first, because older APIs need
/// an era of Redis that an older reconciler has begun.
#[tokio::test]
async fn a_downgrade_breaks_no_promise() {
    let mut system = SystemToUpgrade::of(Release::This, "up-back").await;
    system.replace_without_load(Release::Old).await;
    system.ends_exact().await;
}
