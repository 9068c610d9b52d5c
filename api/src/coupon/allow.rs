//! `firstcome-api coupon allow`: sends and shows the allow list of a coupon in parts, because it
//! may name a million users.

use std::io::{Read as _, stdin};
use std::path::{Path, PathBuf};

use axum::http::Method;
use clap::Args;
use serde_json::{Value, json};

use super::client::{Client, CommandFailure};
use super::shown;
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

/// Returns the output.
pub(super) async fn run(
    client: &Client,
    json: bool,
    coupon: &str,
    what: &AllowWhat,
) -> Result<String, CommandFailure> {
    let list = format!("{coupon}/allow-list");
    let sent = match (&what.add, &what.remove) {
        (Some(file), _) => Some(("add", file)),
        (_, Some(file)) => Some(("remove", file)),
        (None, None) => None,
    };
    if let Some((verb, file)) = sent {
        return send(client, &format!("{list}/{verb}"), file).await;
    }
    if what.empty {
        let emptied = client.send(Method::DELETE, &list, &Value::Null).await?;
        return Ok(shown(&emptied));
    }
    if let Some(user) = &what.find {
        let path = format!("{list}/people/{}", encoded(user));
        return Ok(shown(&client.get(&path).await?));
    }
    let pages = client.pages(format!("{list}?limit=10000")).await?;
    if json {
        let lines: Vec<String> = pages.iter().map(Value::to_string).collect();
        return Ok(lines.join("\n") + "\n");
    }
    let ids = pages.iter().filter_map(|page| page["ids"].as_array());
    let ids = ids.flatten().filter_map(Value::as_str);
    Ok(ids.flat_map(|id| [id, "\n"]).collect())
}

/// Sends a file part by part. If a part is refused, the parts before it stay in effect. Sending the
/// file again is safe.
async fn send(client: &Client, path: &str, file: &Path) -> Result<String, CommandFailure> {
    let UserList { users, lines } = read(file).map_err(CommandFailure::NotAsked)?;
    let mut changed = 0;
    let mut last = Value::Null;
    for part in users.chunks(AT_ONCE) {
        last = client.send(Method::POST, path, &json!(part)).await?;
        changed += last["changed"].as_u64().unwrap_or_default();
    }
    Ok(shown(&json!({
        "changed": changed, "people": last["people"], "revision": last["revision"],
        "lines": lines, "repeated": lines - users.len(),
    })))
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
