//! `firstcome-api coupon allow`: sends and shows the allow list of a coupon.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use axum::body::Bytes;
use axum::http::Method;
use axum::http::header::CONTENT_TYPE;
use clap::Args;
use serde_json::{Value, json};

use super::client::Client;
use super::{encoded, shown};

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
    only: Option<String>,
}

/// Returns the output.
pub(super) async fn run(
    client: &Client<'_>,
    json: bool,
    coupon: &str,
    what: &AllowWhat,
) -> anyhow::Result<String> {
    let list = format!("{coupon}/allow-list");
    let answer = match what {
        AllowWhat {
            only: Some(whom), ..
        } => {
            let allow = (whom != "everybody").then_some(whom);
            let request = client.request(Method::PATCH, coupon);
            client
                .send_json(request, &json!({ "allow": allow }))
                .await?
        }
        AllowWhat {
            find: Some(user), ..
        } => {
            client
                .get(&format!("{list}/people/{}", encoded(user)))
                .await?
        }
        AllowWhat {
            add: Some(file), ..
        } => send(client, &format!("{list}/add"), file).await?,
        AllowWhat {
            remove: Some(file), ..
        } => send(client, &format!("{list}/remove"), file).await?,
        AllowWhat { empty: true, .. } => {
            client
                .send(client.request(Method::DELETE, &list), Bytes::new())
                .await?
        }
        _ => {
            let pages = client.pages(format!("{list}?limit=10000")).await?;
            let lines: Vec<String> = if json {
                pages.iter().map(Value::to_string).collect()
            } else {
                let ids = pages.iter().filter_map(|page| page["ids"].as_array());
                ids.flatten()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect()
            };
            return Ok(lines.iter().flat_map(|line| [line, "\n"]).collect());
        }
    };
    Ok(shown(&answer))
}

/// Sends a file as it is: the API reads what editors and spreadsheets write.
async fn send(client: &Client<'_>, path: &str, file: &Path) -> anyhow::Result<Value> {
    let read = if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(file)
    };
    let bytes = read.with_context(|| format!("{} cannot be read", file.display()))?;
    let request = client.request(Method::POST, path);
    let request = request.header(CONTENT_TYPE, "text/plain");
    client.send(request, bytes).await
}
