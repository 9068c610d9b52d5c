//! A sender that dies before or after it hands a mail over.

use std::collections::HashSet;

use firstcome_shared::crash::Point;
use firstcome_testkit::{LIMIT, all_issued, assert_exact, eventually, people, rush};
use mail_parser::MessageParser;

use super::environment::Environment;
use super::tally::Seen;

/// Mails that nobody has marked as sent, or given up.
const OPEN: &str = "SELECT COUNT(*) FROM mail_outbox WHERE sent_at IS NULL AND given_up_at IS NULL";

pub(super) async fn cycle(environment: &Environment, point: Point) -> Seen {
    let world = &environment.world;
    let coupon = environment.api.open_coupon(4).await;
    let answers = rush(&[&environment.api], coupon.id, &people(4), 4).await;
    all_issued(world, coupon.drop, 4).await;
    let before = world.mail.mails().len();
    world.sql.query(&format!("DELETE FROM issued_coupons WHERE drop_id = {} AND slot = 2", coupon.drop)).await;
    for _ in 0..2 {
        assert!(environment.pass_dies(point).await, "{} was not reached", point.name());
        assert_eq!(world.sql.number(OPEN).await, 1, "the mail is still to be sent");
        // The dead sender's lease lasts a minute longer than a mail may take.
        world.sql.query("UPDATE mail_outbox SET leased_until = UTC_TIMESTAMP(3) WHERE sent_at IS NULL").await;
    }
    environment.mend().await;
    eventually("every mail is sent", LIMIT, async || world.sql.number(OPEN).await == 0).await;
    let ids: Vec<String> = world.mail.mails()[before..]
        .iter()
        .map(|mail| MessageParser::default().parse(&mail.raw).unwrap().message_id().unwrap().to_owned())
        .collect();
    // Nothing can tell a sender that died whether its mail went out: twice it did not, or twice it
    // did. The same message id each time lets the reader's mailbox show one.
    let wanted = if point == Point::MailDue { 1 } else { 3 };
    assert_eq!((ids.len(), ids.iter().collect::<HashSet<_>>().len()), (wanted, 1), "{ids:?}");
    assert_exact(world, &coupon, 4, &answers).await;
    environment.count(&coupon, 4, &answers).await
}
