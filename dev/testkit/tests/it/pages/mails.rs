//! Mails in the browser of a phone.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Browser, Fixture, Look};
use serde_json::json;

use super::support::assert_open_to_all;
use crate::drift::support::{injector, mailed};

#[tokio::test]
async fn mails_fit_a_phone_in_light_and_dark_mode() {
    let f = Fixture::new("mail-looks").await;
    let public = [("PUBLIC_URL", "https://reconciler.example.com")];
    let (coupon, _) = f.held("Winter coupon", 20, 12).await;
    let daemon = f.world.daemon_with(&public).await;
    let mut drift = injector(&f.world, &coupon).await;
    drift.make(Drift::Unissued, 3).await.unwrap();
    daemon.reconcile(&json!({})).await;
    let repaired = mailed(&f.world, &["repaired"]).await;
    drift.make(Drift::FailedUnrepairable, 2).await.unwrap();
    daemon.reconcile(&json!({})).await;
    let left = mailed(&f.world, &["action needed"]).await;

    let folder = std::env::temp_dir().join(format!("firstcome-{}", f.world.database()));
    std::fs::create_dir_all(&folder).unwrap();
    let browser = Browser::open(Look::default().on_a_phone()).await;
    for (name, mail) in [("mail-repaired", repaired), ("mail-action-needed", left)] {
        let file = folder.join(format!("{name}.html"));
        std::fs::write(&file, mail.html).unwrap();
        for (dark, more) in [(false, ""), (true, "-dark")] {
            browser
                .look(
                    Look {
                        dark,
                        ..Look::default()
                    }
                    .on_a_phone(),
                )
                .await;
            browser.visit(&format!("file://{}", file.display())).await;
            assert_open_to_all(&browser, &format!("{name}{more}")).await;
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
