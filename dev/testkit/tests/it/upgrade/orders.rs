//! An older release is replaced under load, in both orders, with both running together at each
//! step.

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
async fn tables_then_reconciler_consumers_and_apis() {
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
async fn tables_then_apis_consumers_and_reconciler() {
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

/// As OPERATIONS says for the way back to a release that reads no messages with several claims. The
/// new tables stay. A reconciler comes first: only an older one begins the life of Redis that older
/// APIs go by.
#[tokio::test]
async fn and_back_again() {
    let mut system = SystemToUpgrade::of(Release::This, "up-back").await;
    system.replace_without_load(Release::Old).await;
    system.ends_exact().await;
}
