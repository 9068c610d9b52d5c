//! Where a mail sends a person: sections of docs/OPERATIONS.md, runs, and the commands to copy.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use firstcome_shared::domain::CouponId;

use super::letter::Block;

/// The reconciler's address where `PUBLIC_URL` does not say another: its default.
const HERE: &str = "http://127.0.0.1:8081";

/// Addresses that mails lead to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// Where docs/ can be read, without the slash at the end.
    pub docs: Option<String>,
    /// The reconciler's endpoint as people reach it, without the slash at the end.
    pub public: Option<String>,
}

impl Links {
    fn endpoint(&self) -> &str {
        self.public.as_deref().unwrap_or(HERE)
    }

    /// Leads to a section of docs/OPERATIONS.md; its heading is the word itself.
    pub(super) fn section(&self, word: &str) -> Block {
        match &self.docs {
            Some(docs) => Block::Link {
                label: format!("What to do: “{word}” in OPERATIONS.md"),
                url: format!("{docs}/OPERATIONS.md#{word}"),
            },
            None => Block::Paragraph(format!("What to do is in docs/OPERATIONS.md, section “{word}”.")),
        }
    }

    /// How to see a run in full.
    pub(super) fn run(&self, run_id: &str) -> Block {
        match &self.public {
            Some(public) => Block::Link {
                label: "The whole run, with the ops token".to_owned(),
                url: format!("{public}/v1/runs/{run_id}"),
            },
            None => Block::Command {
                what: "The whole run, with every person's id".to_owned(),
                line: format!("curl -H \"Authorization: Bearer $OPS_TOKEN\" {HERE}/v1/runs/{run_id}"),
            },
        }
    }

    fn post(&self, what: &str, path: &str, body: &str) -> Block {
        let endpoint = self.endpoint();
        Block::Command {
            what: what.to_owned(),
            line: format!(
                "curl -H \"Authorization: Bearer $OPS_TOKEN\" -H \"Content-Type: application/json\" \
                 -d '{body}' {endpoint}{path}"
            ),
        }
    }

    /// Takes an alert on: no repeats until it changes.
    pub(super) fn acknowledge(&self, alert: i64) -> Block {
        let body = r#"{"by":"your name"}"#;
        self.post("You are on it: no more mails until it changes", &format!("/v1/alerts/{alert}/acknowledge"), body)
    }

    /// No mails on the alert's drop for some hours.
    pub(super) fn silence(&self, alert: i64, now: DateTime<Utc>) -> Block {
        let until = (now + TimeDelta::hours(8)).to_rfc3339_opts(SecondsFormat::Secs, true);
        let body = format!(r#"{{"until":"{until}","by":"your name"}}"#);
        self.post("No mails on this drop for eight hours", &format!("/v1/alerts/{alert}/silence"), &body)
    }
}

/// A pass over one coupon, or over all.
pub(super) fn once(what: &str, coupon: Option<CouponId>, flags: &str) -> Block {
    let coupon = coupon.map(|id| format!(" --coupon {id}")).unwrap_or_default();
    Block::Command { what: what.to_owned(), line: format!("firstcome-reconciler once{coupon}{flags}") }
}
