//! `firstcome-api coupon allow`: sends and shows the allow list of a coupon in parts, because it
//! may name a million users.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, stdin};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use axum::http::Method;
use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, CommandFailure};
use super::output::print;
use crate::percent::encoded;

/// Ids per request.
const AT_ONCE: usize = 5_000;

/// Maximum length of a line, in bytes. Ids have at most 64.
const LONGEST_LINE: u64 = 200;

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(super) struct AllowWhat {
    /// Add the users in this file to the list, one id a line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    add: Option<PathBuf>,
    /// Remove the users in this file from the list
    #[arg(long, value_name = "FILE")]
    remove: Option<PathBuf>,
    /// Empty the list
    #[arg(long)]
    empty: bool,
    /// Print the list
    #[arg(long)]
    show: bool,
    /// Print whether this user is on the list
    #[arg(long, value_name = "PERSON")]
    find: Option<String>,
    /// Restrict claims from now on to `list` or `group:NAME`; `everybody` removes the restriction
    #[arg(long, value_name = "WHOM")]
    pub(super) only: Option<String>,
}

pub(super) async fn run(
    client: &Client,
    json: bool,
    coupon: &str,
    what: &AllowWhat,
) -> Result<(), CommandFailure> {
    let list = format!("{coupon}/allow-list");
    match what {
        AllowWhat {
            add: Some(file), ..
        } => send(client, "add", file, &list, json).await,
        AllowWhat {
            remove: Some(file), ..
        } => send(client, "remove", file, &list, json).await,
        AllowWhat { empty: true, .. } => {
            let done = client
                .ops(Method::DELETE, &list, &Value::Null, None)
                .await?;
            print(&if json {
                format!("{done}\n")
            } else {
                format!("{} removed; nobody is on the list\n", done["changed"])
            })
        }
        AllowWhat {
            find: Some(user), ..
        } => {
            let path = format!("{list}/people/{}", encoded(user));
            let (found, _) = client.get_ops(&path).await?;
            let words = if found["on_list"] == true {
                "is"
            } else {
                "is not"
            };
            print(&if json {
                format!("{found}\n")
            } else {
                format!("{user} {words} on the list\n")
            })
        }
        _ => show(client, json, &list).await,
    }
}

/// Sends a file part by part. If a part is refused, the parts before it stay in effect. Sending the
/// file again is safe.
async fn send(
    client: &Client,
    verb: &str,
    file: &Path,
    list: &str,
    json: bool,
) -> Result<(), CommandFailure> {
    let mut lines = Lines::open(file)?;
    let mut changed = 0;
    let mut last = Value::Null;
    let mut sent = 0;
    loop {
        let part = lines.next_part()?;
        if part.is_empty() {
            break;
        }
        let path = format!("{list}/{verb}");
        // The API numbers lines within the part.
        last = client
            .send_text(&path, part.join("\n"))
            .await
            .map_err(|failure| in_part(failure, sent + 1..=sent + part.len()))?;
        changed += last["changed"].as_u64().unwrap_or_default();
        sent += part.len();
    }
    if sent == 0 {
        return Err(CommandFailure::NotAsked(format!(
            "{} has no line",
            file.display()
        )));
    }
    if json {
        return print(&format!(
            "{}\n",
            json!({"changed": changed, "people": last["people"], "revision": last["revision"]})
        ));
    }
    let done = if verb == "add" { "added" } else { "removed" };
    print(&format!(
        "{changed} {done} of {sent} lines; {} people are on the list\n",
        last["people"]
    ))
}

fn in_part(failure: CommandFailure, lines: RangeInclusive<usize>) -> CommandFailure {
    let (first, last) = lines.into_inner();
    let place = format!("lines {first} to {last}");
    match failure {
        CommandFailure::Refused(why) => {
            CommandFailure::Refused(format!("of {place}: {why}; the ids before them were sent"))
        }
        CommandFailure::NotAsked(why) => {
            CommandFailure::NotAsked(format!("at {place}: {why}; send the file again"))
        }
        CommandFailure::OutputClosed => CommandFailure::OutputClosed,
    }
}

/// Reads the lines of a file part by part.
struct Lines {
    reader: Box<dyn BufRead>,
    name: String,
}

impl Lines {
    fn open(file: &Path) -> Result<Self, CommandFailure> {
        let name = file.display().to_string();
        if name == "-" {
            return Ok(Self {
                reader: Box::new(BufReader::new(stdin())),
                name: "the standard input".into(),
            });
        }
        let opened = File::open(file)
            .map_err(|error| CommandFailure::NotAsked(format!("{name} cannot be read: {error}")))?;
        Ok(Self {
            reader: Box::new(BufReader::new(opened)),
            name,
        })
    }

    fn next_part(&mut self) -> Result<Vec<String>, CommandFailure> {
        let mut part = Vec::new();
        while part.len() < AT_ONCE {
            let mut line = Vec::new();
            let read = self
                .reader
                .by_ref()
                .take(LONGEST_LINE)
                .read_until(b'\n', &mut line);
            read.map_err(|error| {
                CommandFailure::NotAsked(format!("{} cannot be read: {error}", self.name))
            })?;
            if line.is_empty() {
                break;
            }
            let line = String::from_utf8_lossy(&line);
            part.push(line.trim_end_matches(['\r', '\n']).to_owned());
        }
        Ok(part)
    }
}

async fn show(client: &Client, json: bool, list: &str) -> Result<(), CommandFailure> {
    let mut next = Some(format!("{list}?limit=10000"));
    let mut is_first = true;
    while let Some(path) = next {
        let (page, _) = client.get_ops(&path).await?;
        next = page["next"].as_str().map(str::to_owned);
        if json {
            print(&format!("{page}\n"))?;
            continue;
        }
        if is_first {
            let whom = page["allow"].as_str().unwrap_or("everybody");
            eprintln!("for: {whom}; {} people are on the list", page["people"]);
            is_first = false;
        }
        let ids = page["ids"]
            .as_array()
            .map_or(&[] as &[Value], Vec::as_slice);
        let lines: String = ids
            .iter()
            .filter_map(Value::as_str)
            .flat_map(|id| [id, "\n"])
            .collect();
        print(&lines)?;
    }
    Ok(())
}
