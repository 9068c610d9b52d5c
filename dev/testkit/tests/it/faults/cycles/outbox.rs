//! A sender dies before or after it hands over a mail or posts a webhook.

use std::collections::HashSet;

use firstcome_shared::crash::Point;
use firstcome_testkit::{LIMIT, all_issued, assert_exact, eventually, people, rush};
use mail_parser::MessageParser;

use super::environment::Environment;
use crate::drift::support::lose_rows;
use crate::webhooks::{SECRET, WebhookReceiver};

pub(super) async fn mail(environment: &Environment, point: Point) {
    let mails = &environment.world.mail;
    let before = mails.mails().len();
    let id = |raw: &[u8]| {
        MessageParser::default()
            .parse(raw)
            .unwrap()
            .message_id()
            .unwrap()
            .to_owned()
    };
    let ids = || {
        mails.mails()[before..]
            .iter()
            .map(|mail| id(&mail.raw))
            .collect()
    };
    cycle(environment, point, "mail", ids).await;
}

pub(super) async fn webhook(environment: &Environment, point: Point) {
    let (receiver, url) = WebhookReceiver::start().await;
    for (name, value) in [("URLS", format!("{url}/hook").as_str()), ("SECRET", SECRET)] {
        environment.world.set(&format!("WEBHOOK_{name}"), value);
    }
    let id = |head: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix("webhook-id: "))
            .unwrap()
            .to_owned()
    };
    // Passes produce several events. Senders die at the first one.
    let ids = || {
        let all: Vec<_> = receiver
            .posted("/hook")
            .iter()
            .map(|(head, _)| id(head))
            .collect();
        let first = all.first().cloned();
        all.into_iter()
            .filter(|id| Some(id) == first.as_ref())
            .collect()
    };
    cycle(environment, point, "webhook", ids).await;
}

/// Runs one cycle. `ids` returns the IDs under which the messages of this cycle were sent.
async fn cycle(
    environment: &Environment,
    point: Point,
    channel: &str,
    ids: impl Fn() -> Vec<String>,
) {
    let world = &environment.world;
    let open = format!(
        "SELECT COUNT(*) FROM outbox WHERE channel = '{channel}' AND sent_at IS NULL AND given_up_at IS NULL"
    );
    let coupon = environment.api.open_coupon(4).await;
    let answers = rush(&[&environment.api], coupon.id, &people(4), 4).await;
    all_issued(world, coupon.drop, 4).await;
    lose_rows(world, &coupon, "= 2").await;
    // What a pass repairs makes a mail, and what a person has to do an event.
    let left = "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason) VALUES (1, 1, 1, 'x', 'unknown_drop')";
    if channel == "webhook" {
        world.sql.query(left).await;
    }
    for _ in 0..2 {
        assert!(
            environment.pass_dies(point).await,
            "{} was not reached",
            point.name()
        );
        assert!(
            world.sql.number(&open).await >= 1,
            "the message is still to be sent"
        );
        // The dead sender's lease lasts one minute longer than sending may take.
        let statement = "UPDATE outbox SET leased_until = UTC_TIMESTAMP(3) WHERE sent_at IS NULL";
        world.sql.query(statement).await;
    }
    let resolve = "UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'by_hand' WHERE resolved_at IS NULL";
    world.sql.query(resolve).await;
    environment.mend().await;
    eventually("all messages are sent", LIMIT, async || {
        world.sql.number(&open).await == 0
    })
    .await;
    let ids = ids();
    // The next sender cannot determine whether the message was sent, so it sends the message again
    // with the same ID. A mailbox shows one mail, and a receiver accepts one event.
    let wanted = if matches!(point, Point::MailDue | Point::WebhookDue) {
        1
    } else {
        3
    };
    assert_eq!(
        (ids.len(), ids.iter().collect::<HashSet<_>>().len()),
        (wanted, 1),
        "{ids:?}"
    );
    assert_exact(world, &coupon, 4, &answers).await;
    environment.count(&coupon, 4, &answers).await;
}
