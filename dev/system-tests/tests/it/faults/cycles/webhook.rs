//! A sender that dies before or after it posts a webhook.

use std::collections::HashSet;

use firstcome_shared::crash::Point;
use firstcome_testkit::{LIMIT, all_issued, assert_exact, eventually, people, rush};

use super::environment::Environment;
use super::tally::Seen;
use crate::webhooks::{Receiver, SECRET};

/// Webhooks that nobody has marked as sent, or given up.
const OPEN: &str = "SELECT COUNT(*) FROM webhook_outbox WHERE sent_at IS NULL AND given_up_at IS NULL";

pub(super) async fn cycle(environment: &Environment, point: Point) -> Seen {
    let world = &environment.world;
    let (receiver, url) = Receiver::start().await;
    for (name, value) in [("URLS", format!("{url}/hook").as_str()), ("SECRET", SECRET), ("EVENTS", "drift")] {
        world.set(&format!("WEBHOOK_{name}"), value);
    }
    let coupon = environment.api.open_coupon(4).await;
    let answers = rush(&[&environment.api], coupon.id, &people(4), 4).await;
    all_issued(world, coupon.drop, 4).await;
    world.sql.query(&format!("DELETE FROM issued_coupons WHERE drop_id = {} AND slot = 2", coupon.drop)).await;
    for _ in 0..2 {
        assert!(environment.pass_dies(point).await, "{} was not reached", point.name());
        assert_eq!(world.sql.number(OPEN).await, 1, "the webhook is still to be posted");
        // The dead sender's lease lasts a minute longer than a POST may take.
        world.sql.query("UPDATE webhook_outbox SET leased_until = UTC_TIMESTAMP(3) WHERE sent_at IS NULL").await;
    }
    environment.mend().await;
    eventually("every webhook is posted", LIMIT, async || world.sql.number(OPEN).await == 0).await;
    let posted = receiver.posted("/hook");
    let id = |(head, _): &(String, serde_json::Value)| {
        head.lines().find_map(|line| line.strip_prefix("webhook-id: ")).unwrap().to_owned()
    };
    let ids: Vec<String> = posted.iter().map(id).collect();
    // As with mails: the same id each time lets the receiver take one.
    let wanted = if point == Point::WebhookDue { 1 } else { 3 };
    assert_eq!((ids.len(), ids.iter().collect::<HashSet<_>>().len()), (wanted, 1), "{posted:?}");
    assert_exact(world, &coupon, 4, &answers).await;
    environment.count(&coupon, 4, &answers).await
}
