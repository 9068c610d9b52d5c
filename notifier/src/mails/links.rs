//! Links and commands of mails.

use std::collections::BTreeMap;

use firstcome_shared::domain::CouponId;
use firstcome_shared::report::wording::line;
use firstcome_shared::report::{AlertKind, KindFacts};
use firstcome_shared::subject::Subject;

use super::document::Block;

/// A campaign of `attach`. It has no row in `coupons`, so mails take its name from the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttachedCampaign {
    /// Its name in the file.
    pub name: String,
    /// Whether passes repair it, or only observe.
    pub is_repaired: bool,
}

/// Addresses for the links in mails, without a trailing slash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// The reconciler's public address.
    pub public: Option<String>,
    /// The API's public address.
    pub api: Option<String>,
    /// The file of `attach`, quoted for a shell, if the mails are about a system that is not ours.
    pub file: Option<String>,
    /// Its campaigns.
    pub campaigns: BTreeMap<CouponId, AttachedCampaign>,
}

impl Links {
    /// What the mails are about.
    pub(crate) fn subject(&self) -> Subject {
        match self.file {
            Some(_) => Subject::Campaign,
            None => Subject::Drop,
        }
    }

    /// Returns the facts of a kind in the system that the mails are about. If `coupon` is a
    /// campaign, what to do depends on the campaign's mode.
    pub(crate) fn facts(&self, kind: AlertKind, coupon: Option<CouponId>) -> KindFacts {
        let facts = kind.facts_for(self.subject());
        match self.campaign(coupon) {
            Some(campaign) => KindFacts {
                to_do: kind.campaign_to_do(campaign.is_repaired),
                ..facts
            },
            None => facts,
        }
    }

    pub(crate) fn campaign(&self, coupon: Option<CouponId>) -> Option<&AttachedCampaign> {
        self.campaigns.get(&coupon?)
    }

    /// Returns what to call a coupon of which a pass has no report: the name of its campaign, or
    /// its id.
    pub(crate) fn name(&self, coupon: Option<CouponId>) -> Option<String> {
        let id = coupon?;
        let campaign = self.campaigns.get(&id);
        campaign.map(|it| line(&it.name, 60)).or_else(|| id.label())
    }

    /// Returns the public address of the coupon page.
    pub fn coupon_page(&self, coupon: CouponId) -> String {
        format!("{}/c/{coupon}", self.api().trim_end_matches('/'))
    }

    fn reconciler(&self) -> &str {
        self.public.as_deref().unwrap_or("http://127.0.0.1:8081")
    }

    fn api(&self) -> &str {
        self.api.as_deref().unwrap_or("http://127.0.0.1:8080")
    }

    /// Returns the address of a screen of the operations page, if it is known. The operator may
    /// have to log in there first.
    pub(crate) fn page(&self, path: &str) -> Option<String> {
        self.public.as_ref().map(|public| format!("{public}{path}"))
    }

    /// Returns the path of an alert's screen. It stays valid when the alert is over.
    pub(crate) fn alert(id: i64) -> String {
        format!("/alerts/{id}#alert-{id}")
    }

    /// Links to a screen of the operations page, if its address is known.
    pub(super) fn screen(&self, path: &str, label: &str) -> Option<Block> {
        let url = self.page(path).filter(|_| self.has_screen(path))?;
        let label = format!("{label}, in a browser");
        Some(Block::Link { label, url })
    }

    /// Returns a text that links to a screen of the operations page if its address is known.
    /// Returns `None` if the page has no such screen.
    pub(super) fn linked(&self, path: &str, text: String) -> Option<Block> {
        let block = match self.page(path) {
            Some(url) => Block::Link { label: text, url },
            None => Block::Paragraph(text),
        };
        Some(block).filter(|_| self.has_screen(path))
    }

    fn has_screen(&self, path: &str) -> bool {
        match self.subject() {
            Subject::Drop => true,
            // The page of a campaign's reconciler has only passes and alerts.
            Subject::Campaign => path.starts_with("/runs") || path.starts_with("/alerts"),
        }
    }

    /// Returns a command that reads from the reconciler, unless the page shows the same.
    pub(super) fn read(&self, path: &str, what: &str) -> Option<Block> {
        if self.public.is_some() {
            return None;
        }
        let url = format!("{}{path}", self.reconciler());
        self.curl(&url, &[], what)
    }

    /// Returns a command that changes a coupon, such as `pause 7` or `raise 7 120`, which refuses to
    /// lower what somebody else has raised since. An attached system has none.
    pub(super) fn coupon(&self, change: &str, what: &str) -> Option<Block> {
        let at = match &self.api {
            Some(address) => format!(" --api-url {address}"),
            None => String::new(),
        };
        let command = format!("firstcome-api coupon {change}{at}");
        match self.subject() {
            Subject::Drop => Some(Block::command(what, command)),
            Subject::Campaign => None,
        }
    }

    pub(super) fn acknowledge(&self, alert: i64) -> Option<Block> {
        let url = format!("{}/v1/alerts/{alert}/acknowledge", self.reconciler());
        // Containers and cron set no USER, and the reconciler refuses an empty name.
        let arguments = [
            r#"-H "Content-Type: application/json""#,
            r#"-X POST -d "{\"by\":\"${USER:-on duty}\"}""#,
        ];
        let what = "Acknowledge: no more mails come until the alert changes";
        self.curl(&url, &arguments, what)
    }

    /// Returns a request as a command. Each argument has a separate line, so that a phone
    /// does not break them; the shell reads them as one command. The URL is quoted, because some
    /// shells treat `?` as a pattern. An attached system gets none: its requests have other bodies.
    fn curl(&self, url: &str, arguments: &[&str], what: &str) -> Option<Block> {
        match self.subject() {
            Subject::Drop => {
                // While tokens are rotated, OPS_TOKEN has two, separated by a comma: send the
                // first.
                let token = "curl -H \"Authorization: Bearer ${OPS_TOKEN%%,*}\"";
                let url = format!("\"{url}\"");
                let mut lines = vec![token];
                lines.extend(arguments);
                lines.push(&url);
                Some(Block::command(what, lines.join(" \\\n")))
            }
            Subject::Campaign => None,
        }
    }

    /// Refers to the section of the documents about a kind or, for an attached system, to the
    /// document about these.
    pub(super) fn section(&self, word: &str) -> Block {
        let more = match self.subject() {
            Subject::Drop => format!("docs/OPERATIONS.md, section “{word}”"),
            Subject::Campaign => "docs/ATTACH.md".to_owned(),
        };
        Block::Paragraph(format!("More: {more}."))
    }
}
