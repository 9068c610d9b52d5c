//! The phone of the operator on duty: displays mails and follows their links.

use std::cell::Cell;
use std::path::PathBuf;

use firstcome_testkit::{Browser, LIMIT, Look, OPS_TOKEN, World, eventually_some};
use serde_json::json;

use super::super::support::{
    assert_open_to_all, dark_phone, log_in, picture, until, until_there, wants_pictures,
};
use crate::drift::support::ReadMail;

pub(super) struct Phone {
    pub(super) browser: Browser,
    mails: PathBuf,
    is_logged_in: Cell<bool>,
}

impl Phone {
    pub(super) async fn of_duty(world: &World) -> Self {
        let mails = std::env::temp_dir().join(format!("firstcome-mails-{}", world.database()));
        std::fs::create_dir_all(&mails).unwrap();
        Self {
            browser: Browser::open(Look::default().on_a_phone()).await,
            mails,
            is_logged_in: Cell::new(false),
        }
    }

    /// Opens a mail, which must be accessible in light and in dark mode. The instructions and the
    /// first link, if any, must be visible without scrolling.
    pub(super) async fn read(&self, name: &str, mail: &ReadMail) {
        let file = self.mails.join(format!("{name}.html"));
        std::fs::write(&file, &mail.html).unwrap();
        self.browser
            .visit(&format!("file://{}", file.display()))
            .await;
        assert_open_to_all(&self.browser, name).await;
        self.browser.look(dark_phone()).await;
        assert_open_to_all(&self.browser, &format!("{name}-dark")).await;
        self.browser.look(Look::default().on_a_phone()).await;
        let below = "const parts = document.querySelector('.todo') ? ['.todo', 'a'] : [];
             return parts.map((css) => document.querySelector(css)).filter(Boolean)
                 .map((part) => part.getBoundingClientRect().bottom - innerHeight)
                 .filter((below) => below > 0)";
        assert_eq!(
            self.browser.run(below).await,
            json!([]),
            "{name}: it is below the first screen"
        );
        self.whole_picture(name).await;
    }

    /// Takes a screenshot of the whole mail if screenshots are enabled.
    async fn whole_picture(&self, name: &str) {
        if !wants_pictures() {
            return;
        }
        let height = self
            .browser
            .run("return document.documentElement.scrollHeight")
            .await;
        let height = u32::try_from(height.as_u64().unwrap()).unwrap();
        self.browser
            .look(Look {
                height,
                ..Look::default().on_a_phone()
            })
            .await;
        picture(&self.browser, &format!("{name}-whole")).await;
        self.browser.look(Look::default().on_a_phone()).await;
    }

    /// Taps a link in the open mail. The first time, this includes logging in.
    pub(super) async fn tap(&self, mail: &ReadMail, label: &str) {
        let wanted = link(mail, label);
        let find =
            "const link = [...document.querySelectorAll('a')].find((link) => link.innerText === ";
        self.browser
            .run(&format!("{find}{label:?}); link.id = 'tapped'"))
            .await;
        self.browser.click("#tapped").await;
        if !self.is_logged_in.replace(true) {
            log_in(&self.browser, "Kim", OPS_TOKEN).await;
        }
        until(
            &self.browser,
            &format!("location.href === {wanted:?} && !document.querySelector('#token')"),
        )
        .await;
    }

    /// Reopens the mail and taps its link.
    pub(super) async fn tap_again(&self, name: &str, mail: &ReadMail, label: &str) {
        self.browser
            .visit(&format!(
                "file://{}",
                self.mails.join(format!("{name}.html")).display()
            ))
            .await;
        self.tap(mail, label).await;
    }

    /// Waits until the screen contains this text.
    pub(super) async fn shows(&self, text: &str) {
        until(
            &self.browser,
            &format!("document.body.innerText.includes({text:?})"),
        )
        .await;
    }

    /// Presses the button for a pass, which must end with one of these results. Waits for a running
    /// pass first.
    pub(super) async fn pass(&self, results: &[&str]) {
        until_there(&self.browser, "button[value=pass]").await;
        let screen = self.browser.address().await;
        let result = eventually_some("a pass was begun", LIMIT, async || {
            self.browser.click("button[value=pass]").await;
            let ended = "document.querySelector('h1') && !document.querySelector('button[value=pass], [data-running]')";
            until(&self.browser, ended).await;
            let title = self.browser.run("return document.querySelector('h1').innerText").await;
            let title = title.as_str().unwrap_or_default().to_owned();
            if title == "No pass was begun" {
                self.browser.visit(&screen).await;
                return Err(title);
            }
            Ok(title)
        })
        .await;
        assert!(
            results
                .iter()
                .any(|wanted| result == format!("Pass: {wanted}")),
            "{result}, not one of {results:?}"
        );
    }
}

impl Drop for Phone {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.mails) {
            eprintln!("{}: {error}", self.mails.display());
        }
    }
}

/// Returns the target of the link with this label in the mail's text.
pub(super) fn link<'m>(mail: &'m ReadMail, label: &str) -> &'m str {
    let found = mail
        .text
        .lines()
        .find_map(|line| line.strip_prefix(label)?.strip_prefix(": "));
    found
        .unwrap_or_else(|| panic!("{label:?} is not in {}", mail.text))
        .trim_end()
}
