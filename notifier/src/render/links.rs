//! Where a mail leads: sections of docs/OPERATIONS.md, and commands that work as they are pasted.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use firstcome_shared::domain::CouponId;

use super::letter::Block;

/// The reconciler's address where `PUBLIC_URL` does not say another: its default.
const RECONCILER: &str = "http://127.0.0.1:8081";

/// The API's address where `API_PUBLIC_URL` does not say another: its default.
const API: &str = "http://127.0.0.1:8080";

/// Addresses that mails lead to, without the slash at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Where docs/ can be read.
    pub docs: Option<String>,
    /// The reconciler's endpoint as people reach it.
    pub public: Option<String>,
    /// The API as people reach it.
    pub api: Option<String>,
}

impl Links {
    fn reconciler(&self) -> &str {
        self.public.as_deref().unwrap_or(RECONCILER)
    }

    /// Leads to a section of docs/OPERATIONS.md; its heading is the word itself.
    pub(super) fn section(&self, word: &str) -> Block {
        match &self.docs {
            Some(docs) => Block::Link {
                label: format!("More: “{word}” in OPERATIONS.md"),
                url: format!("{docs}/OPERATIONS.md#{word}"),
            },
            None => Block::Paragraph(format!("More: docs/OPERATIONS.md, section “{word}”.")),
        }
    }

    /// A run in full. No link: a browser has no ops token.
    pub(super) fn run(&self, run_id: &str) -> Block {
        curl("The whole run, with every person's full id", &[], &format!("{}/v1/runs/{run_id}", self.reconciler()))
    }

    /// All alerts that fire.
    pub(super) fn firing(&self) -> Block {
        curl("All open problems", &[], &format!("{}/v1/alerts?status=firing", self.reconciler()))
    }

    /// The last runs.
    pub(super) fn runs(&self) -> Block {
        curl("The last runs", &[], &format!("{}/v1/runs?limit=20", self.reconciler()))
    }

    /// Sets a coupon's quantity.
    pub(super) fn quantity(&self, what: &str, coupon: CouponId, quantity: u64) -> Block {
        let api = self.api.as_deref().unwrap_or(API);
        let body = format!("-X PATCH -d '{{\"quantity\":{quantity}}}'");
        curl(what, &[JSON, &body], &format!("{api}/v1/coupons/{coupon}"))
    }

    /// Takes alerts on: no repeats until they change.
    pub(super) fn acknowledge(&self, alerts: &[i64]) -> Block {
        let what = "Acknowledge: you are on it, and no more mails come until it changes";
        self.for_each(what, alerts, r#"-d "{\"by\":\"$USER\"}""#, "acknowledge")
    }

    /// No mails on the alerts' drops for some hours.
    pub(super) fn silence(&self, alerts: &[i64], now: DateTime<Utc>) -> Block {
        let until = (now + TimeDelta::hours(8)).to_rfc3339_opts(SecondsFormat::Secs, true);
        let what = if alerts.len() > 1 { "No mails on these drops for 8 h" } else { "No mails on this drop for 8 h" };
        self.for_each(what, alerts, &format!(r#"-d "{{\"until\":\"{until}\",\"by\":\"$USER\"}}""#), "silence")
    }

    fn for_each(&self, what: &str, alerts: &[i64], body: &str, verb: &str) -> Block {
        let ids: Vec<String> = alerts.iter().map(ToString::to_string).collect();
        let url = |id: &str| format!("{}/v1/alerts/{id}/{verb}", self.reconciler());
        if ids.len() == 1 {
            return curl(what, &[JSON, body], &url(&ids[0]));
        }
        let each = line(&[JSON, body], &url("$id"));
        Block::Command { what: what.to_owned(), line: format!("for id in {}; do {each}; done", ids.join(" ")) }
    }
}

const JSON: &str = "-H \"Content-Type: application/json\"";

fn curl(what: &str, arguments: &[&str], url: &str) -> Block {
    Block::Command { what: what.to_owned(), line: line(arguments, url) }
}

/// One argument a line, so that a telephone need not break it. The shell reads it as one command.
fn line(arguments: &[&str], url: &str) -> String {
    let mut parts = vec!["curl -H \"Authorization: Bearer $OPS_TOKEN\""];
    parts.extend(arguments);
    // Quoted: some shells take a `?` for a pattern.
    let url = format!("\"{url}\"");
    parts.push(&url);
    parts.join(" \\\n  ")
}

/// A pass over one coupon, or over all.
pub(super) fn once(what: &str, coupon: Option<CouponId>, flags: &str) -> Block {
    let coupon = coupon.map(|id| format!(" --coupon {id}")).unwrap_or_default();
    Block::Command { what: what.to_owned(), line: format!("firstcome-reconciler once{coupon}{flags}") }
}
