//! The document model of mails: what happened, then sections of paragraphs, tables, lists and
//! commands. One template renders it as HTML and one as plain text, so that both have the same
//! content.

use askama::Template;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use firstcome_shared::domain::CouponId;
use strum::IntoStaticStr;

use crate::wording;

/// Width of plain text, in characters.
const WIDTH: usize = 78;

/// Maximum length of a subject, in characters. Phones show about 40, so the important part comes
/// first.
const SUBJECT: usize = 150;

/// A mail, rendered and ready for the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The kind of mail, as stored in the outbox.
    pub kind: &'static str,
    /// The subject, as one line without control characters.
    pub subject: String,
    /// The subject without its prefix, which is meant for filters.
    pub(crate) summary: String,
    pub text: String,
    /// Self-contained HTML.
    pub html: String,
}

/// The kind of a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub(super) enum MailKind {
    Action,
    Repaired,
    Resolved,
    Information,
    Missed,
    Digest,
    Test,
}

impl MailKind {
    /// Returns the prefix of the subject.
    fn beginning(self) -> &'static str {
        match self {
            Self::Action => "action needed",
            Self::Repaired => "repaired",
            Self::Resolved => "resolved",
            Self::Information => "closed below its quantity",
            Self::Missed => "run missed",
            Self::Digest => "daily digest",
            Self::Test => "test",
        }
    }
}

/// The tone of a mail, shown as the colour at its top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MailTone {
    Bad,
    Good,
    Plain,
}

/// A mail before it is rendered. Its texts are single, clean lines.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) kind: MailKind,
    pub(super) tone: MailTone,
    /// The subject without its prefix.
    pub(super) subject: String,
    /// When the mail was written.
    pub(super) at: DateTime<Utc>,
    /// The main event, in one or two sentences.
    pub(super) title: String,
    /// Further events; may be empty.
    pub(super) lead: String,
    pub(super) sections: Vec<Section>,
    pub(super) footer: Vec<String>,
}

#[derive(Debug, Default)]
pub(super) struct Section {
    pub(super) title: String,
    pub(super) blocks: Vec<Block>,
}

#[derive(Debug)]
pub(super) enum Block {
    Paragraph(String),
    /// The instruction for the operator.
    Todo(String),
    /// A line that introduces the next block.
    Heading(String),
    Table(Table),
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

/// A table whose first column is text and whose others are numbers.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) head: Vec<String>,
    pub(super) rows: Vec<TableRow>,
}

#[derive(Debug)]
pub(super) struct TableRow {
    pub(super) cells: Vec<String>,
}

#[derive(Template)]
#[template(path = "letter.html")]
struct Html<'a> {
    subject: &'a str,
    letter: &'a Letter,
    colour: &'static str,
}

#[derive(Template)]
#[template(path = "letter.txt")]
struct Text<'a> {
    letter: &'a Letter,
}

impl Letter {
    pub(super) fn render(&self) -> anyhow::Result<Rendered> {
        let subject = format!("[firstcome] {}: {}", self.kind.beginning(), self.subject);
        let subject = wording::line(&subject, SUBJECT);
        let colour = match self.tone {
            MailTone::Bad => "#c62828",
            MailTone::Good => "#2e7d32",
            MailTone::Plain => "#1565c0",
        };
        Ok(Rendered {
            kind: self.kind.into(),
            summary: wording::line(&self.subject, SUBJECT),
            html: Html {
                subject: &subject,
                letter: self,
                colour,
            }
            .render()?,
            text: Text { letter: self }.render()?,
            subject,
        })
    }

    /// Returns the first line: when the mail was written, and its kind, for readers who cannot see
    /// the colour.
    fn label(&self) -> String {
        let kind = match self.kind {
            MailKind::Information => "For information".to_owned(),
            kind => wording::capital(kind.beginning()),
        };
        format!("{kind} · {}", self.at.format("%Y-%m-%d %H:%M UTC"))
    }

    fn wrapped_lead(&self) -> String {
        wrap(
            format!("{} {}", self.title, self.lead).trim_end(),
            Indent::NONE,
        )
    }

    fn wrapped_footer(&self) -> String {
        self.footer
            .iter()
            .map(|line| wrap(line, Indent::NONE))
            .collect::<Vec<_>>()
            .join("\n")
    }
}

impl Section {
    fn ruled_title(&self) -> String {
        let rule = "=".repeat(self.title.chars().count().min(WIDTH));
        format!("{}\n{rule}", self.title)
    }
}

impl Block {
    /// Joins a command into one line for HTML, which wraps lines automatically. Otherwise a narrow
    /// screen could put the backslash of a line alone on the next one.
    fn in_one_line(line: &str) -> String {
        line.replace(" \\\n", " ")
    }

    fn as_text(&self) -> String {
        match self {
            Self::Paragraph(text) => wrap(text, Indent::NONE),
            Self::Todo(text) => wrap(
                text,
                Indent {
                    first: "To do: ",
                    rest: "       ",
                },
            ),
            Self::Heading(text) => {
                let text = wrap(text, Indent::NONE);
                let rule = "-".repeat(text.lines().last().unwrap_or_default().chars().count());
                format!("{text}\n{rule}")
            }
            Self::Table(table) => table.as_text(),
            Self::List(items) => items
                .iter()
                .map(|item| {
                    wrap(
                        item,
                        Indent {
                            first: "- ",
                            rest: "  ",
                        },
                    )
                })
                .collect::<Vec<_>>()
                .join("\n"),
            // Commands are never wrapped, because they are meant to be copied.
            Self::Command { what, line } => {
                format!(
                    "{}\n    {}",
                    wrap(&format!("{what}:"), Indent::NONE),
                    line.replace('\n', "\n    ")
                )
            }
            Self::Link { label, url } => format!("{label}: {url}"),
        }
    }
}

impl Table {
    fn as_text(&self) -> String {
        let all = || std::iter::once(&self.head).chain(self.rows.iter().map(|row| &row.cells));
        let columns = all().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|at| {
                all()
                    .filter_map(|cells| cells.get(at))
                    .map(|cell| cell.chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let line = |cells: &Vec<String>| {
            let padded = widths.iter().enumerate().map(|(at, width)| {
                let cell = cells.get(at).map_or("", String::as_str);
                let pad = " ".repeat(width - cell.chars().count());
                if at == 0 {
                    format!("{cell}{pad}")
                } else {
                    format!("{pad}{cell}")
                }
            });
            padded.collect::<Vec<_>>().join("   ").trim_end().to_owned()
        };
        let rule = "-".repeat(widths.iter().sum::<usize>() + 3 * columns.saturating_sub(1));
        let mut lines = vec![line(&self.head), rule];
        lines.extend(self.rows.iter().map(|row| line(&row.cells)));
        lines.join("\n")
    }
}

/// The indents of a wrapped text: of its first line and of the others.
#[derive(Clone, Copy)]
struct Indent {
    first: &'static str,
    rest: &'static str,
}

impl Indent {
    const NONE: Self = Self {
        first: "",
        rest: "",
    };
}

/// Wraps a line at spaces. Words that are too long stay whole.
fn wrap(text: &str, Indent { first, rest }: Indent) -> String {
    let mut lines = Vec::new();
    let mut line = String::from(first);
    let mut is_empty = true;
    for word in text.split(' ') {
        if !is_empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(std::mem::replace(&mut line, rest.to_owned()));
            is_empty = true;
        }
        if !is_empty {
            line.push(' ');
        }
        line.push_str(word);
        is_empty = false;
    }
    lines.push(line);
    lines.join("\n")
}

/// The reconciler's default address, if `PUBLIC_URL` is not set.
const RECONCILER: &str = "http://127.0.0.1:8081";

/// The API's default address, if `API_PUBLIC_URL` is not set.
const API: &str = "http://127.0.0.1:8080";

/// Addresses for the links in mails, without a trailing slash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Links {
    /// The reconciler's public address.
    pub public: Option<String>,
    /// The API's public address.
    pub api: Option<String>,
    /// Whether the operations page has the forms that change coupons, which need the API's address.
    pub page_changes_coupons: bool,
}

impl Links {
    /// Returns the public address of the coupon page.
    pub fn coupon_page(&self, coupon: CouponId) -> String {
        format!(
            "{}/c/{coupon}",
            self.api.as_deref().unwrap_or(API).trim_end_matches('/')
        )
    }

    pub(super) fn reconciler(&self) -> &str {
        self.public.as_deref().unwrap_or(RECONCILER)
    }

    pub(super) fn api(&self) -> &str {
        self.api.as_deref().unwrap_or(API)
    }

    /// Refers to the section of docs/OPERATIONS.md whose heading is `word`.
    pub(super) fn section(word: &str) -> Block {
        Block::Paragraph(format!("More: docs/OPERATIONS.md, section “{word}”."))
    }

    /// Returns a link to a screen of the operations page, if its address is known. The operator
    /// logs in there once.
    pub(super) fn on_page(&self, label: &str, path: &str) -> Option<Block> {
        let public = self.public.as_ref()?;
        Some(Block::Link {
            label: label.to_owned(),
            url: format!("{public}{path}"),
        })
    }

    /// Returns a command that shows a run in full.
    pub(super) fn run(&self, run_id: &str) -> Block {
        curl(
            "The whole run, with every person's full id",
            &[],
            &format!("{}/v1/runs/{run_id}", self.reconciler()),
        )
    }

    /// Returns the address of the list of alerts on the operations page, if known.
    pub(crate) fn alerts(&self) -> Option<String> {
        self.public
            .as_ref()
            .map(|public| format!("{public}/alerts"))
    }

    /// Returns a link to all firing alerts.
    pub(super) fn open_problems(&self) -> Option<Block> {
        let label = "All open problems, in a browser".to_owned();
        self.alerts().map(|url| Block::Link { label, url })
    }

    /// Returns a command that shows all firing alerts, and a link if the page's address is known.
    pub(super) fn firing(&self) -> Vec<Block> {
        let by_command = curl(
            "All open problems",
            &[],
            &format!("{}/v1/alerts?status=firing", self.reconciler()),
        );
        self.open_problems()
            .into_iter()
            .chain([by_command])
            .collect()
    }

    /// Returns a command that shows the last runs, and a link if the page's address is known.
    pub(super) fn runs(&self) -> Vec<Block> {
        let by_command = curl(
            "The last runs",
            &[],
            &format!("{}/v1/runs?limit=20", self.reconciler()),
        );
        self.on_page("The last runs, in a browser", "/runs")
            .into_iter()
            .chain([by_command])
            .collect()
    }

    /// Returns a command that sets a coupon's quantity.
    pub(super) fn quantity(&self, what: &str, coupon: CouponId, quantity: u64) -> Block {
        self.change(what, coupon, &format!("{{\"quantity\":{quantity}}}"))
    }

    /// Returns a command that pauses a coupon.
    pub(super) fn pause(&self, coupon: CouponId) -> Block {
        self.change(
            "Pause the coupon: nobody can claim until it is resumed",
            coupon,
            "{\"paused\":true}",
        )
    }

    fn change(&self, what: &str, coupon: CouponId, body: &str) -> Block {
        let api = self.api();
        curl(
            what,
            &[JSON, &format!("-X PATCH -d '{body}'")],
            &format!("{api}/v1/coupons/{coupon}"),
        )
    }

    /// Returns a command that acknowledges alerts, so that they are not mailed again until they
    /// change.
    pub(super) fn acknowledge(&self, alerts: &[i64]) -> Block {
        let what = "Acknowledge: no more mails come until the alert changes";
        self.for_each(what, alerts, r#"-d "{\"by\":\"$USER\"}""#, "acknowledge")
    }

    /// Returns a command that silences mails about the alerts' drops for some hours.
    pub(super) fn silence(&self, alerts: &[i64], now: DateTime<Utc>) -> Block {
        let until = now + TimeDelta::hours(8);
        let drops = if alerts.len() > 1 {
            "these drops"
        } else {
            "this drop"
        };
        let what = format!("No mails about {drops} until {}", until.format("%H:%M UTC"));
        let until = until.to_rfc3339_opts(SecondsFormat::Secs, true);
        self.for_each(
            &what,
            alerts,
            &format!(r#"-d "{{\"until\":\"{until}\",\"by\":\"$USER\"}}""#),
            "silence",
        )
    }

    fn for_each(&self, what: &str, alerts: &[i64], body: &str, verb: &str) -> Block {
        let ids: Vec<String> = alerts.iter().map(ToString::to_string).collect();
        let url = |id: &str| format!("{}/v1/alerts/{id}/{verb}", self.reconciler());
        if ids.len() == 1 {
            return curl(what, &[JSON, body], &url(&ids[0]));
        }
        let each = line(&[JSON, body], &url("$id"));
        Block::Command {
            what: what.to_owned(),
            line: format!("for id in {}; do {each}; done", ids.join(" ")),
        }
    }
}

const JSON: &str = "-H \"Content-Type: application/json\"";

fn curl(what: &str, arguments: &[&str], url: &str) -> Block {
    Block::Command {
        what: what.to_owned(),
        line: line(arguments, url),
    }
}

/// Formats a command with one argument per line, so that a phone does not break it. The shell reads
/// it as one command.
fn line(arguments: &[&str], url: &str) -> String {
    let mut parts = vec!["curl -H \"Authorization: Bearer $OPS_TOKEN\""];
    parts.extend(arguments);
    // Quote the URL, because some shells treat `?` as a pattern.
    let url = format!("\"{url}\"");
    parts.push(&url);
    parts.join(" \\\n")
}

/// Returns a command that runs a pass over one coupon or over all.
pub(super) fn once(what: &str, coupon: Option<CouponId>, flags: &str) -> Block {
    let coupon = coupon
        .map(|id| format!(" --coupon {id}"))
        .unwrap_or_default();
    Block::Command {
        what: what.to_owned(),
        line: format!("firstcome-reconciler once{coupon}{flags}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_wraps_at_spaces_and_never_within_a_word() {
        let long = "x".repeat(WIDTH + 9);
        assert_eq!(
            wrap(
                &format!("a {long} b"),
                Indent {
                    first: "- ",
                    rest: "  "
                }
            ),
            format!("- a\n  {long}\n  b")
        );
        assert!(
            wrap(&"word ".repeat(50), Indent::NONE)
                .lines()
                .all(|line| line.chars().count() <= WIDTH)
        );
    }

    #[test]
    fn tables_are_aligned() {
        let row = |cells: [&str; 3]| TableRow {
            cells: cells.map(str::to_owned).to_vec(),
        };
        let table = Table {
            head: ["", "before", "after"].map(str::to_owned).to_vec(),
            rows: vec![row(["Rows", "97", "100"]), row(["Failed claims", "2", "0"])],
        };
        assert_eq!(
            table.as_text(),
            "                before   after\n------------------------------\nRows                97     100\n\
             Failed claims        2       0"
        );
    }
}
