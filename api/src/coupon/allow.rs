//! `firstcome-api coupon allow`: sends and shows the allow list of a coupon in parts, because it
//! may name a million users.

use std::io::{Read as _, stdin};
use std::path::{Path, PathBuf};

use axum::http::Method;
use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, CommandFailure};
use super::output::print;
use crate::percent::encoded;
use crate::user_list::{self, UserList};

/// Ids per request.
const AT_ONCE: usize = 5_000;

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(super) struct AllowWhat {
    /// Add the users in this file to the list: one id a line, or a CSV with a column `user_id`; `-`
    /// is standard input
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
    let UserList { users, lines } = read(file).map_err(CommandFailure::NotAsked)?;
    let path = format!("{list}/{verb}");
    let mut changed = 0;
    let mut last = Value::Null;
    for part in users.chunks(AT_ONCE) {
        last = client.ops(Method::POST, &path, &json!(part), None).await?;
        changed += last["changed"].as_u64().unwrap_or_default();
    }
    let repeated = lines - users.len();
    if json {
        let done = json!({
            "changed": changed, "people": last["people"], "revision": last["revision"],
            "lines": lines, "repeated": repeated
        });
        return print(&format!("{done}\n"));
    }
    let done = if verb == "add" { "added" } else { "removed" };
    print(&format!(
        "{changed} {done} of {lines} ids ({repeated} repeated); {} people are on the list\n",
        last["people"]
    ))
}

fn read(file: &Path) -> Result<UserList, String> {
    let (name, bytes) = if file == Path::new("-") {
        let mut bytes = Vec::new();
        let read = stdin().read_to_end(&mut bytes);
        ("the standard input".to_owned(), read.map(|_| bytes))
    } else {
        (file.display().to_string(), std::fs::read(file))
    };
    let bytes = bytes.map_err(|error| format!("{name} cannot be read: {error}"))?;
    let list = user_list::parse(&bytes).map_err(|why| format!("{name}: {why}"))?;
    if list.users.is_empty() {
        return Err(format!("{name} has no id"));
    }
    Ok(list)
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
