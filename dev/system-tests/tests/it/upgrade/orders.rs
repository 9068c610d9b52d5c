//! An older release is replaced under load, in both orders, with both side by side at each step.

use firstcome_testkit::Release;

use super::system::{Role, System, migrate};

async fn is_replaced(name: &str, order: [Role; 3]) {
    let mut system = System::of(Release::Old, name).await;
    migrate(&system.world, Release::This).await;
    system.crowd.goes_on(100).await;
    for role in order {
        system.replace(role, Release::This).await;
    }
    system.ends_exact().await;
}

#[tokio::test]
async fn tables_then_reconciler_consumers_and_apis() {
    is_replaced("up-first", [Role::Reconciler, Role::Consumer, Role::Api]).await;
}

#[tokio::test]
async fn tables_then_apis_consumers_and_reconciler() {
    is_replaced("up-last", [Role::Api, Role::Consumer, Role::Reconciler]).await;
}

/// The new tables stay.
#[tokio::test]
async fn and_back_again() {
    let mut system = System::of(Release::This, "up-back").await;
    for role in [Role::Api, Role::Consumer, Role::Reconciler] {
        system.replace(role, Release::Old).await;
    }
    system.ends_exact().await;
}
