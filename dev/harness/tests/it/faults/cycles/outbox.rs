//! A sender dies before or after it hands over a mail or posts a webhook.

use std::collections::HashSet;

use firstcome_shared::crash::Point;

use super::environment::{count, mend, must_die, resolve_letters};
use crate::drift::support::lose_rows;
use crate::prelude::*;
use crate::receiver::Receiver;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Returns the value of a header in each of these messages.
fn ids(messages: impl IntoIterator<Item = Vec<u8>>, header: &str) -> Vec<String> {
    let id = |message: Vec<u8>| {
        let text = String::from_utf8_lossy(&message).to_lowercase();
        let line = text.lines().find_map(|line| line.strip_prefix(header));
        line.unwrap().to_owned()
    };
    messages.into_iter().map(id).collect()
}

fn mails(world: &World) -> Vec<Vec<u8>> {
    let mails = world.mail.mails().into_iter();
    mails.map(|mail| mail.raw).collect()
}

pub(super) async fn cycle(fixture: &Fixture, point: Point, channel: &str) {
    let world = &fixture.world;
    let receiver = Receiver::start().await;
    if channel == "webhook" {
        world.set("WEBHOOK_URLS", &receiver.url());
        world.set("WEBHOOK_SECRET", SECRET);
    }
    let before = mails(world).len();
    let open = format!(
        "SELECT COUNT(*) FROM outbox WHERE channel = '{channel}' AND sent_at IS NULL AND given_up_at IS NULL"
    );
    let coupon = fixture.api.open_coupon(4).await;
    rush_until_answered(&[&fixture.api], coupon.id, &people(4), 4).await;
    all_issued(world, coupon.drop, 4).await;
    lose_rows(world, &coupon, "= 2").await;
    // A pass that repairs sends a mail. A problem that an operator must solve sends an event.
    let left = "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason) VALUES (1, 1, 1, 'x', 'unknown_drop')";
    if channel == "webhook" {
        world.sql.query(left).await;
    }
    for _ in 0..2 {
        must_die(world, point, channel).await;
        let is_due = world.sql.number(&open).await >= 1;
        assert!(is_due, "the message is still to be sent");
        // End the lease of the dead sender here, because it lasts one minute longer than sending
        // may take.
        let expire = "UPDATE outbox SET leased_until = UTC_TIMESTAMP(3) WHERE sent_at IS NULL";
        world.sql.query(expire).await;
    }
    resolve_letters(world).await;
    mend(world).await;
    eventually("all messages are sent", LIMIT, async || {
        world.sql.number(&open).await == 0
    })
    .await;
    let mut sent = match channel {
        "mail" => ids(mails(world).split_off(before), "message-id: "),
        _ => ids(receiver.requests(), "webhook-id: "),
    };
    // Passes produce several events. Senders die at the first one.
    let first = sent[0].clone();
    sent.retain(|id| channel == "mail" || *id == first);
    // The next sender cannot determine whether the message was sent, so it sends the message again
    // with the same ID. A mailbox shows one mail, and a receiver accepts one event.
    let is_before = matches!(point, Point::MailDue | Point::WebhookDue);
    let wanted = if is_before { 1 } else { 3 };
    let different = sent.iter().collect::<HashSet<_>>().len();
    assert_eq!((sent.len(), different), (wanted, 1), "{sent:?}");
    assert_exact(world, &coupon, 4).await;
    count(world, &coupon, 4).await;
}
