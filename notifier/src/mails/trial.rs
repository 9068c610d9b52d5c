//! The mail of `test-email`.

use chrono::{DateTime, Utc};

use super::document::{Block, Document, Rendered, time};

pub(crate) fn test(now: DateTime<Utc>) -> anyhow::Result<Rendered> {
    let sent = format!("Sent {}. This is how commands look:", time(now));
    Document {
        kind: ["test"; 2],
        is_bad: false,
        subject: "mail arrives".to_owned(),
        at: now,
        title: "Mail from the Firstcome reconciler arrives here.".to_owned(),
        lead: "Nothing needs to be done.".to_owned(),
        blocks: vec![
            Block::Paragraph(sent),
            Block::command("A pass by hand", "firstcome-reconciler once"),
        ],
        footer: Vec::new(),
    }
    .render()
}
