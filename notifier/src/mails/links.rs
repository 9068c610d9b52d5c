//! Links and commands of mails.

use std::collections::BTreeMap;

use firstcome_shared::domain::CouponId;
use firstcome_shared::report::{AlertKind, KindFacts};
use firstcome_shared::subject::Subject;

use super::document::Block;
use crate::wording::line;

/// Addresses for the links in mails, without a trailing slash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// The reconciler's public address.
    pub public: Option<String>,
    /// The API's public address.
    pub api: Option<String>,
    /// The file of `attach`, quoted for a shell, if the mails are about a system that is not ours.
    pub file: Option<String>,
    /// The names of its campaigns, which no table of ours has.
    pub campaigns: BTreeMap<CouponId, String>,
}

impl Links {
    /// What the mails are about.
    pub(crate) fn subject(&self) -> Subject {
        match self.file {
            Some(_) => Subject::Campaign,
            None => Subject::Drop,
        }
    }

    /// Returns the facts of a kind in the system that the mails are about.
    pub(crate) fn facts(&self, kind: AlertKind) -> KindFacts {
        kind.facts_for(self.subject())
    }

    /// Returns what a coupon is called in a pass without its report: by the name of its campaign, or
    /// by its id.
    pub(crate) fn name(&self, coupon: Option<CouponId>) -> Option<String> {
        let id = coupon?;
        let campaign = self.campaigns.get(&id);
        campaign.map(|name| line(name, 60)).or_else(|| id.label())
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

    /// Returns the addresses that lead nowhere for others, with their settings: to this machine,
    /// or to a name within a cluster, which has no dot.
    pub(crate) fn dead(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let is_local = |it: &str| it.contains("://127.0.0.1") || !it.contains('.');
        let public = self.reconciler();
        let api = self.api();
        let all = [("PUBLIC_URL", public), ("API_PUBLIC_URL", api)];
        let used = match self.subject() {
            Subject::Drop => 2,
            // Its mails link to the page only, if there is one.
            Subject::Campaign => usize::from(self.public.is_some()),
        };
        all.into_iter()
            .take(used)
            .filter(move |(_, address)| is_local(address))
    }

    /// Returns the address of a screen of the operations page, if it is known. The operator logs in
    /// there once.
    pub(crate) fn page(&self, path: &str) -> Option<String> {
        self.public.as_ref().map(|public| format!("{public}{path}"))
    }

    /// Returns the path of an alert, which stays valid when it is over.
    pub(crate) fn alert(id: i64) -> String {
        format!("/alerts/{id}#alert-{id}")
    }

    /// Reads the markup of a mail, as the templates write it: a block a line, which begins with its
    /// kind. Foreign texts are single lines, so none of them can begin a block. Links need the
    /// address of the operations page.
    pub(super) fn blocks(&self, markup: &str) -> Vec<Block> {
        let mut blocks = Vec::new();
        for line in markup.lines() {
            let (kind, text) = line.trim().split_once(' ').unwrap_or_default();
            let owned = text.to_owned();
            match kind {
                _ if !self.has(kind, text) => {}
                // The page shows the same.
                "curl" if self.public.is_some() && text.starts_with("reconciler GET ") => {}
                "title" => blocks.push(Block::Title(owned)),
                "p" => blocks.push(Block::Paragraph(owned)),
                "todo" => blocks.push(Block::Todo(owned)),
                "li" => match blocks.last_mut() {
                    Some(Block::List(items)) => items.push(owned),
                    _ => blocks.push(Block::List(vec![owned])),
                },
                "section" => {
                    let more = match self.subject() {
                        Subject::Drop => format!("docs/OPERATIONS.md, section “{text}”"),
                        Subject::Campaign => "docs/ATTACH.md".to_owned(),
                    };
                    blocks.push(Block::Paragraph(format!("More: {more}.")));
                }
                "page" => blocks.extend(self.link(text, ", in a browser")),
                "link" => blocks.push(self.link(text, "").unwrap_or_else(|| {
                    let (_, label) = text.split_once(' ').unwrap_or_default();
                    Block::Paragraph(label.to_owned())
                })),
                "run" | "curl" => blocks.extend(self.command(kind == "curl", text)),
                _ => {}
            }
        }
        // Without the address of the page, nothing may follow a title.
        blocks.pop_if(|last| matches!(last, Block::Title(_)));
        blocks
    }

    /// Whether the system that the mails are about has what a block refers to.
    fn has(&self, kind: &str, text: &str) -> bool {
        match self.subject() {
            Subject::Drop => true,
            Subject::Campaign => match kind {
                "curl" => false,
                // Its page has passes and alerts only.
                "page" | "link" => text.starts_with("/runs") || text.starts_with("/alerts"),
                _ => true,
            },
        }
    }

    /// A link: `/path Label`.
    fn link(&self, text: &str, suffix: &str) -> Option<Block> {
        let (path, label) = text.split_once(' ')?;
        let url = self.page(path)?;
        let label = format!("{label}{suffix}");
        Some(Block::Link { label, url })
    }

    /// A command: `firstcome-reconciler once | What`, or `api PATCH /v1/… BODY | What` for a
    /// request. Its arguments stand on lines of their own, so that a phone does not break them; the
    /// shell reads them as one command. The URL is quoted, because some shells treat `?` as a
    /// pattern.
    fn command(&self, is_request: bool, text: &str) -> Option<Block> {
        // No label has the separator, but a campaign's name may.
        let (line, what) = text.rsplit_once(" | ")?;
        let what = what.to_owned();
        if !is_request {
            let line = line.to_owned();
            return Some(Block::Command { what, line });
        }
        let mut parts = line.splitn(4, ' ');
        let service = parts.next()?;
        let method = parts.next()?;
        let path = parts.next()?;
        // The first token, if two are set while rotating.
        let mut lines = vec!["curl -H \"Authorization: Bearer ${OPS_TOKEN%%,*}\"".to_owned()];
        if let Some(body) = parts.next() {
            let quote = if body.contains('$') { '"' } else { '\'' };
            lines.push("-H \"Content-Type: application/json\"".to_owned());
            lines.push(format!("-X {method} -d {quote}{body}{quote}"));
        }
        let api = service == "api";
        let host = if api { self.api() } else { self.reconciler() };
        lines.push(format!("\"{host}{path}\""));
        let line = lines.join(" \\\n");
        Some(Block::Command { what, line })
    }
}
