//! Mails as they look in the browser of a telephone.

use firstcome_drift::Kind as Drift;
use firstcome_testkit::{Browser, Fixture, Look};
use mail_parser::MessageParser;
use serde_json::json;

use super::support::assert_sound;
use crate::drift::support::{injector, mailed};

#[tokio::test]
async fn mails_fit_a_telephone_in_the_light_and_in_the_dark() {
    let f = Fixture::new("mail-looks").await;
    let public = [("PUBLIC_URL", "https://reconciler.example.com"), ("DOCS_URL", "https://docs.example.com")];
    let (coupon, _) = f.held("Winter coupon", 20, 12).await;
    let daemon = f.world.daemon_with(&public).await;
    let mut drift = injector(&f.world, &coupon).await;
    drift.make(Drift::Unissued, 3).await.unwrap();
    daemon.reconcile(&json!({})).await;
    mailed(&f.world, &["repaired"]).await;
    drift.make(Drift::FailedUnrepairable, 2).await.unwrap();
    daemon.reconcile(&json!({})).await;
    mailed(&f.world, &["action needed"]).await;

    let folder = std::env::temp_dir().join(format!("firstcome-{}", f.world.database()));
    std::fs::create_dir_all(&folder).unwrap();
    let browser = Browser::open(Look::default().on_a_phone()).await;
    let mails = f.world.mail.mails();
    for word in ["repaired", "action needed"] {
        let parsed = mails.iter().filter_map(|mail| MessageParser::default().parse(&mail.raw));
        let mail =
            parsed.into_iter().find(|mail| mail.subject().is_some_and(|subject| subject.contains(word))).unwrap();
        let name = format!("mail-{}", word.replace(' ', "-"));
        let file = folder.join(format!("{name}.html"));
        std::fs::write(&file, mail.body_html(0).unwrap().as_bytes()).unwrap();
        for (dark, more) in [(false, ""), (true, "-dark")] {
            browser.look(Look { dark, ..Look::default() }.on_a_phone()).await;
            browser.visit(&format!("file://{}", file.display())).await;
            assert_sound(&browser, &format!("{name}{more}")).await;
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
