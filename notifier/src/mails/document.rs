//! The document model of mails: what happened, then blocks of paragraphs, lists, links and
//! commands. One template renders it as HTML and one function as plain text, so that both have the
//! same content.

use askama::Template;
use chrono::{DateTime, Utc};
use firstcome_shared::report::wording;

/// Width of plain text, in characters.
const WIDTH: usize = 78;

/// Maximum length of a subject, in characters. Phones show about 40, so the important part comes
/// first.
const SUBJECT: usize = 150;

/// The last lines of every mail.
const FOOTER: [&str; 2] = [
    "Commands run where the reconciler runs, with its settings and OPS_TOKEN in the environment, \
    unless they say otherwise.",
    "You get this because your address is in ALERT_TO of a Firstcome reconciler.",
];

/// A mail, rendered and ready for the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The kind of mail, as stored in the outbox.
    pub kind: &'static str,
    /// The subject, as one line without control characters.
    pub subject: String,
    pub text: String,
    /// Self-contained HTML.
    pub html: String,
}

/// A mail before it is rendered. Its texts are single, clean lines.
#[derive(Debug)]
pub(super) struct Document {
    /// The kind of the mail: first as the outbox stores it, then as the subject begins with it.
    pub(super) kind: [&'static str; 2],
    /// Whether the mail is about something bad, shown as the colour at its top.
    pub(super) is_bad: bool,
    /// The subject without its prefix.
    pub(super) subject: String,
    /// When the mail was written.
    pub(super) at: DateTime<Utc>,
    /// What happened, and for how many.
    pub(super) title: String,
    /// What users notice, and further events; may be empty.
    pub(super) lead: String,
    pub(super) blocks: Vec<Block>,
    /// Further last lines.
    pub(super) footer: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Block {
    /// The title of a section.
    Title(String),
    Paragraph(String),
    /// What happens by itself, or the instruction for the operator.
    Todo(String),
    List(Vec<String>),
    Command {
        what: String,
        line: String,
    },
    Link {
        label: String,
        url: String,
    },
}

#[derive(Template)]
#[template(path = "document.html")]
struct Html<'a> {
    subject: &'a str,
    document: &'a Document,
    colour: &'static str,
}

impl Document {
    pub(super) fn render(&self) -> anyhow::Result<Rendered> {
        let [kind, prefix] = self.kind;
        let subject = format!("[firstcome] {prefix}: {}", self.subject);
        let subject = wording::line(&subject, SUBJECT);
        let html = Html {
            subject: &subject,
            document: self,
            colour: if self.is_bad { "#c62828" } else { "#2e7d32" },
        };
        Ok(Rendered {
            kind,
            html: html.render()?,
            text: self.as_text(),
            subject,
        })
    }

    /// Returns the first line: when the mail was written, and its kind, for readers who cannot see
    /// the colour.
    fn label(&self) -> String {
        let kind = wording::capital(self.kind[1]);
        format!("{kind} · {}", self.at.format("%Y-%m-%d %H:%M UTC"))
    }

    fn as_text(&self) -> String {
        let label = self.label();
        let lead = format!("{} {}", self.title, self.lead);
        let lead = wrap(lead.trim_end(), "", "");
        let blocks: Vec<String> = self.blocks.iter().map(Block::as_text).collect();
        let footer: Vec<String> = self.footer().map(|line| wrap(line, "", "")).collect();
        let blocks = blocks.join("\n\n");
        let footer = footer.join("\n");
        format!("{label}\n\n{lead}\n\n\n{blocks}\n\n-- \n{footer}")
    }

    fn footer(&self) -> impl Iterator<Item = &str> {
        self.footer.iter().map(String::as_str).chain(FOOTER)
    }
}

impl Block {
    pub(super) fn command(what: &str, line: impl Into<String>) -> Self {
        Self::Command {
            what: what.to_owned(),
            line: line.into(),
        }
    }

    pub(super) fn list(items: Vec<String>) -> Option<Self> {
        (!items.is_empty()).then_some(Self::List(items))
    }

    /// Joins a command into one line for HTML, which wraps lines automatically. Otherwise a narrow
    /// screen could put the backslash of a line alone on the next one.
    fn in_one_line(line: &str) -> String {
        line.replace(" \\\n", " ")
    }

    fn as_text(&self) -> String {
        match self {
            Self::Title(text) => format!("\n== {} ==", wrap(text, "", "   ")),
            Self::Paragraph(text) => wrap(text, "", ""),
            Self::Todo(text) => wrap(text, "To do: ", "       "),
            Self::List(items) => {
                let items = items.iter().map(|item| wrap(item, "- ", "  "));
                items.collect::<Vec<_>>().join("\n")
            }
            // Commands are never wrapped, because they are meant to be copied.
            Self::Command { what, line } => {
                let what = wrap(&format!("{what}:"), "", "");
                format!("{what}\n    {}", line.replace('\n', "\n    "))
            }
            Self::Link { label, url } => format!("{label}: {url}"),
        }
    }
}

/// Wraps a line at spaces, with these indents of the first line and of the others. Words that are
/// too long stay whole.
fn wrap(text: &str, first: &str, rest: &str) -> String {
    let mut out = first.to_owned();
    let mut width = first.chars().count();
    for (at, word) in text.split(' ').enumerate() {
        let length = word.chars().count();
        if at > 0 && width + 1 + length > WIDTH {
            out += "\n";
            out += rest;
            width = rest.chars().count();
        } else if at > 0 {
            out.push(' ');
            width += 1;
        }
        out += word;
        width += length;
    }
    out
}

/// Formats a time as in all mails.
pub(super) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps_at_spaces_and_never_within_a_word() {
        let long = "x".repeat(WIDTH + 9);
        let wrapped = wrap(&format!("a {long} b"), "- ", "  ");
        assert_eq!(wrapped, format!("- a\n  {long}\n  b"));
        let lines = wrap(&"word ".repeat(50), "", "");
        assert!(lines.lines().all(|line| line.chars().count() <= WIDTH));
    }
}
