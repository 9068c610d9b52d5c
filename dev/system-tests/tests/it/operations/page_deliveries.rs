//! Deliveries at the operations page: mails and webhooks.

use firstcome_testkit::{OPS_TOKEN, open_world};

use super::page::Visitor;

#[tokio::test]
async fn what_was_not_delivered_is_seen_with_its_reason_and_sent_again() {
    let (world, _api) = open_world("ops-out").await;
    world.set("SMTP_URL", "");
    let daemon = world.daemon().await;
    let outboxes = [
        "INSERT INTO mail_outbox (id, kind, recipient, subject, message_id, body_text, body_html, attempts, given_up_at, last_error) \
         VALUES (71, 'test', 'on-duty@example.com', 'A <b>subject</b>', 'm-71@example.com', '', '', 3, UTC_TIMESTAMP(3), \
         '550 no such user')",
        "INSERT INTO webhook_outbox (id, event_id, kind, target, body, sent_at) \
         VALUES (72, 'evt_72', 'alert.drift', 'hooks.example.com#0a1b2c3d', '{}', UTC_TIMESTAMP(3))",
    ];
    for insert in outboxes {
        world.sql.query(insert).await;
    }
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let page = kim.text("/deliveries").await;
    for shown in [
        "A &#60;b&#62;subject",
        "550 no such user",
        "given up 20",
        "Send mail 71 now",
        "hooks.example.com#0a1b2c3d",
    ] {
        assert!(page.contains(shown), "{shown} in {page}");
    }
    assert!(!page.contains("Send webhook 72"), "it has arrived");
    let csrf = kim.csrf().await;
    for (path, status) in [
        ("mail/71", 303),
        ("mail/72", 404),
        ("webhook/72", 404),
        ("letter/71", 404),
    ] {
        let path = format!("/deliveries/{path}/again");
        assert_eq!(kim.post(&path, &kim.base, &csrf).await, status, "{path}");
    }
    let waits = "SELECT given_up_at IS NULL, next_attempt_at <= UTC_TIMESTAMP(3) FROM mail_outbox WHERE id = 71";
    assert_eq!(world.sql.query(waits).await, [["1", "1"]]);
    let acts = "SELECT operator, from_addr FROM ops_actions WHERE action = 'deliver_again'";
    assert_eq!(world.sql.query(acts).await, [["Kim", "127.0.0.1"]]);
}
