//! Describes the demo's result.

use firstcome_stack::Mail;
use mail_parser::MessageParser;
use serde_json::Value;

use crate::local::proof::{Proof, RefusedClaims};
use crate::table;
use crate::tally::Tally;
use crate::terminal::grouped;

#[derive(Debug)]
pub struct DemoOutcome {
    pub tally: Tally,
    pub proof: Proof,
    pub mails: Vec<Mail>,
    /// The final pass of the reconciler, as the endpoint reported it.
    pub last_pass: Value,
    /// Number of passes, including the final one.
    pub passes: u64,
    /// Processes that did not stop cleanly.
    pub complaints: Vec<String>,
}

impl DemoOutcome {
    /// Whether the total is exact, no answers contradict each other, and every process stopped
    /// cleanly.
    pub fn success(&self) -> bool {
        self.proof.exact() && self.tally.contradictions.is_empty() && self.complaints.is_empty()
    }

    pub fn table(&self) -> String {
        let tally = &self.tally;
        let proof = &self.proof;
        let mut rows = table::asked(tally);
        let mut row = |what: &str, value: u64| rows.push((what.to_owned(), grouped(value)));
        for (kind, count) in &tally.answers {
            row(&format!("answered {kind}"), *count);
        }
        row("users with a promise", tally.admitted as u64);
        row("rows", proof.rows as u64);
        row("  by the consumer", proof.by_consumer as u64);
        row("  by the reconciler", proof.by_reconciler as u64);
        row(
            "refused, stored in the dead-letter table",
            proof.refused_in_all(),
        );
        for refused in &proof.refused {
            row(
                &format!("  {}{}", refused.reason, left(refused)),
                refused.count,
            );
        }
        row(
            "promises without a row",
            proof.promised_without_row.len() as u64,
        );
        row("over-issued", proof.over_issued as u64);
        row("duplicates", proof.duplicates as u64);
        row("contradictory answers", tally.contradictions.len() as u64);
        row("passes of the reconciler", self.passes);
        rows.push(("last pass".into(), self.last_pass_in_words()));
        #[allow(clippy::cast_precision_loss, reason = "seconds for display")]
        rows.push((
            "from the last admission to exact".into(),
            format!("{:.1} s", proof.settled_after_ms as f64 / 1e3),
        ));
        table::of_rows(rows)
    }

    fn last_pass_in_words(&self) -> String {
        let drops = self.last_pass["drops"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        let left = |of: &Value| {
            of["findings"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|f| f["needs_person"] == true)
                .count()
        };
        let left = left(&self.last_pass) + drops.iter().map(left).sum::<usize>();
        let exact = !drops.is_empty() && drops.iter().all(|drop| drop["exact"] == true);
        match (exact, left) {
            (true, 0) => "exact, nothing left".into(),
            (true, 1) => format!("exact; 1 message is left for an operator: {OWN_GARBAGE}"),
            (true, left) => {
                format!(
                    "exact; {left} messages are left for an operator, 1 of them is {OWN_GARBAGE}"
                )
            }
            (false, _) => format!(
                "not exact ({})",
                self.last_pass["status"]
                    .as_str()
                    .unwrap_or("it did not run")
            ),
        }
    }
}

/// The only message that the product cannot resolve.
const OWN_GARBAGE: &str = "the demo's own garbage (fault 2)";

fn left(refused: &RefusedClaims) -> String {
    if refused.open == 0 {
        String::new()
    } else {
        format!(": {} left for an operator", refused.open)
    }
}

fn subject(mail: &Mail) -> String {
    let parsed = MessageParser::default().parse(&mail.raw);
    parsed
        .and_then(|message| message.subject().map(str::to_owned))
        .unwrap_or_default()
}

impl DemoOutcome {
    /// Formats the mails, each with a heading: first the repairs, then the garbage that the demo
    /// sent.
    pub fn mails_as_text(&self) -> String {
        let mut mails: Vec<_> = self
            .mails
            .iter()
            .map(|mail| (!is_about_a_repair(mail), mail))
            .collect();
        mails.sort_by_key(|(is_garbage, _)| *is_garbage);
        let text = |(is_garbage, mail)| {
            let about = if is_garbage {
                OWN_GARBAGE
            } else {
                "what the reconciler repaired"
            };
            format!(
                "─── mail: {about} {}\n{}\n\n",
                "─".repeat(20),
                without_commands(&mail_as_text(mail))
            )
        };
        mails.into_iter().map(text).collect()
    }
}

pub(crate) fn is_about_a_repair(mail: &Mail) -> bool {
    subject(mail).contains("repaired")
}

fn without_commands(mail: &str) -> String {
    match mail.split_once("\nCommands\n") {
        Some((text, _)) => format!(
            "{}\n\n[… its commands; its links led to servers of this run]",
            text.trim_end()
        ),
        None => mail.to_owned(),
    }
}

/// Formats a mail as its recipient reads it.
fn mail_as_text(mail: &Mail) -> String {
    let parsed = MessageParser::default().parse(&mail.raw);
    let text = parsed.and_then(|message| {
        message
            .body_text(0)
            .map(|text| text.trim_end().replace("\r\n", "\n"))
    });
    let text = text.unwrap_or_else(|| mail.text());
    format!(
        "From: {}\nTo: {}\nSubject: {}\n\n{text}",
        mail.from,
        mail.to.join(", "),
        subject(mail)
    )
}
