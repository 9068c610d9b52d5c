//! An operator on duty starts from a mail. The mail first says what is wrong, and links to the page
//! on which the plan is confirmed.

use firstcome_harness::{Browser, Look};
use firstcome_stack::ReservedPort;

use super::support::{assert_open_to_all, log_in, until_text, until_there};
use crate::attach::{OFTEN, REPAIRS, Shop};
use crate::prelude::*;

#[tokio::test]
#[ignore = "release"]
async fn an_operator_confirms_the_plan_that_a_mail_links_to() {
    let shop = Shop::new("attach-page").await;
    let file = shop.file(&shop.stores().await, REPAIRS);
    shop.sell(0..40).await;
    let port = ReservedPort::find().unwrap();
    let listen = format!("127.0.0.1:{}", port.number());
    let public = format!("http://{listen}");
    let settings = [
        OFTEN[0],
        ("LISTEN_ADDR", listen.as_str()),
        ("PUBLIC_URL", public.as_str()),
    ];
    let _daemon = shop.daemon(&file, &settings);
    let clean = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'clean'";
    eventually("a clean pass", LIMIT, async || {
        shop.world.sql.number(clean).await > 0
    })
    .await;

    shop.add_member(40).await;
    let mail = mailed(&shop.world, &["action needed", "waits for a confirmation"]).await;
    let label = "See and confirm the repairs, in a browser: ";
    let mut lines = mail.text.lines();
    let link = lines.find_map(|line| line.strip_prefix(label)).unwrap();

    let browser = &Browser::open(Look::default().on_a_phone()).await;
    browser.visit(link.trim_end()).await;
    log_in(browser, "Kim", OPS_TOKEN).await;
    until_text(browser, "no row came").await;
    assert_open_to_all(browser, "attach-plan").await;
    browser.click("form[action$=confirm] button").await;
    until_there(browser, "button[name=sure]").await;
    assert_open_to_all(browser, "attach-sure").await;
    browser.click("button[name=sure]").await;
    eventually("the row is written", LIMIT, async || {
        shop.sql.number("SELECT COUNT(*) FROM coupon").await == 41
    })
    .await;
    let by = "SELECT COUNT(*) FROM ops_actions WHERE operator = 'Kim' AND action = 'reconcile'";
    assert_eq!(shop.world.sql.number(by).await, 1);
}
