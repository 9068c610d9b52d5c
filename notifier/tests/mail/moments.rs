//! Webhook events about drops that open or are sold out.

use firstcome_notifier::{DropAtMoment, DropMoment};
use firstcome_shared::domain::{CouponId, DropId};

use crate::desk::{A, Desk};
use crate::receiver::{Received, Receiver};
use crate::webhooks::posting_to;

#[tokio::test]
async fn each_moment_of_a_drop_is_posted_once_although_two_daemons_see_it() {
    let receiver = Receiver::start().await;
    let mut desk = Desk::new(A).await;
    desk.webhooks = posting_to(&[&receiver]);
    for moment in [DropMoment::Opened, DropMoment::SoldOut] {
        for daemon in [desk.notifier(), desk.notifier()] {
            let drop = DropAtMoment {
                moment,
                coupon_id: CouponId(1),
                coupon_name: "Winter".to_owned(),
                drop_id: DropId(7),
                quantity: 100,
            };
            daemon.drop_moment(&drop).await.unwrap();
        }
        desk.flush().await;
    }
    let kinds = receiver.received();
    let kinds: Vec<_> = kinds.iter().map(|one| one.json()["type"].clone()).collect();
    assert_eq!(kinds, ["drop.opened", "drop.sold_out"]);
    receiver
        .received()
        .iter()
        .for_each(Received::assert_documented);
}
