//! The pictures in the documents. `WRITE_PICTURES=1` writes them from the screens and mails that
//! this test reaches.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use firstcome_harness::{Browser, Look};

use super::support::{BrowserPage, log_in, serve_pages, until_state, until_text};
use crate::drift::support::ReadMail;
use crate::prelude::*;

const DESKTOP: Look = Look {
    width: 1240,
    height: 760,
    dark: false,
};

/// Writes what the window shows, if this run writes pictures.
async fn picture(browser: &Browser, name: &str) {
    let file = format!(
        "{}/../../docs/pictures/{name}.png",
        env!("CARGO_MANIFEST_DIR")
    );
    let image = BASE64_STANDARD.decode(browser.screenshot().await).unwrap();
    assert!(
        std::fs::exists(&file).unwrap(),
        "no document shows {name}.png"
    );
    if std::env::var_os("WRITE_PICTURES").is_some() {
        std::fs::write(file, image).unwrap();
    }
}

async fn picture_of_mail(browser: &Browser, mail: &ReadMail, name: &str) {
    let file = std::env::temp_dir().join(format!("{name}-{}.html", std::process::id()));
    std::fs::write(&file, &mail.html).unwrap();
    browser.visit(&format!("file://{}", file.display())).await;
    std::fs::remove_file(&file).unwrap();
    picture(browser, name).await;
}

#[tokio::test]
#[ignore = "release"]
async fn the_pictures_of_the_documents_show_screens_that_can_be_reached() {
    let f = Fixture::new("pictures").await;
    let pages = serve_pages(&f.world).await;
    let (coupon, _) = f.held("Winter coupon", 100, 97).await;
    let page = BrowserPage::of(pages.http().base(), coupon.id, Look::default()).await;
    page.come_as("u-you").await;
    page.until(&["open"]).await;
    page.browser.click("#main").await;
    page.until(&["issued"]).await;
    picture(&page.browser, "coupon-page-issued").await;
    drop(page);

    f.held("매일 아침 커피 한 잔", 200, 151).await;
    let mut spring = coupon_body("Spring sale", 500, 0);
    spring["schedule"] = json!({"type": "daily", "time_zone": "Europe/Berlin",
        "opens": "15:00", "closes": "18:00", "first_day": "2099-03-01"});
    f.api.create_coupon(&spring).await;
    let daemon = f.world.daemon().await;
    daemon.reconcile(&json!({})).await;
    let browser = &Browser::open(DESKTOP).await;
    browser.visit(daemon.http().base()).await;
    log_in(browser, "mina", OPS_TOKEN).await;
    until_state(browser, "live").await;
    until_text(browser, "Everything is as promised").await;
    picture(browser, "operations-page").await;
    let drop_page = format!("/coupons/{}/drops/{}", coupon.id, coupon.drop);
    browser
        .visit(&format!("{}{drop_page}", daemon.http().base()))
        .await;
    until_text(browser, "Run a pass").await;
    browser
        .look(Look {
            height: 552,
            ..DESKTOP
        })
        .await;
    picture(browser, "operations-drop").await;
    daemon.process.kill().await;

    // The addresses of an installation, not those of this test.
    f.world.set("PUBLIC_URL", "https://ops.example.com");
    f.world.set("API_PUBLIC_URL", "https://api.example.com");
    let daemon = f.world.daemon().await;
    browser.look(Look::default().on_a_phone()).await;
    inject(&f.world, &coupon, Drift::Unissued, 3).await;
    daemon.reconcile(&json!({})).await;
    let repaired = mailed(&f.world, &["repaired", "Winter coupon"]).await;
    picture_of_mail(browser, &repaired, "mail-repaired").await;
    inject(&f.world, &coupon, Drift::FailedUnrepairable, 2).await;
    daemon.reconcile(&json!({})).await;
    let action = mailed(&f.world, &["action needed", "Winter coupon"]).await;
    picture_of_mail(browser, &action, "mail-action-needed").await;
}
