//! All rows as one CSV (RFC 4180), sent page by page: the next page is read when the client has
//! received the previous one, and no MySQL connection is held in the meantime.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse as _, Response};
use chrono::{NaiveDateTime, SecondsFormat};
use firstcome_shared::domain::DropId;
use firstcome_shared::http::Problem;
use firstcome_shared::http::ops::Allowed;
use firstcome_shared::mysql::holders::{HolderRange, HoldersPage};
use firstcome_shared::mysql::issued::IssuedRow;
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::read::page;
use crate::serve::state::{App, Services};

const HEADER: &str = "drop_id,slot,user_id,code,claimed_at,issued_at,issued_by\r\n";

/// Rows read at a time: some 200 kB.
const PAGE: usize = 2_000;

/// Maximum time for a client to receive a page.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn answer(
    app: App,
    which: HolderRange,
    limit: Option<usize>,
    allowed: Allowed,
) -> Result<Response, Problem> {
    let permit = Arc::clone(app.exports.of(allowed)).try_acquire_owned();
    let permit = permit.map_err(|_| {
        Problem::unavailable("enough of these lists are being sent; try again later")
    })?;
    let left = limit.unwrap_or(usize::MAX);
    // Before the status is sent: a refusal must be a problem.
    let first = page(&app, which, PAGE.min(left)).await?;
    let name = format!(
        "attachment; filename=\"coupon-{}-issued.csv\"",
        which.coupon
    );
    let export = Export {
        app,
        which,
        left,
        ready: Some(first),
        given_at: Instant::now(),
        _permit: permit,
    };
    let headers = [
        (
            CONTENT_TYPE,
            "text/csv; charset=utf-8; header=present".to_owned(),
        ),
        (CONTENT_DISPOSITION, name),
        (X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    let body = stream::try_unfold((export, true), |(mut export, is_first)| async move {
        let Some(part) = export.next(is_first).await? else {
            return Ok(None);
        };
        Ok::<_, &'static str>(Some((part, (export, false))))
    });
    Ok((headers, Body::from_stream(body)).into_response())
}

struct Export {
    app: App,
    which: HolderRange,
    left: usize,
    /// The first page, until it is sent.
    ready: Option<HoldersPage>,
    given_at: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Export {
    /// An error breaks the connection, so that nobody takes a part for the whole.
    async fn next(&mut self, is_first: bool) -> Result<Option<Bytes>, &'static str> {
        if self.given_at.elapsed() > PATIENCE {
            return Err("the client reads too slowly");
        }
        let page = match self.ready.take() {
            Some(page) => page,
            None if self.left == 0 => return Ok(None),
            None => read(&self.app, self.which, PAGE.min(self.left)).await?,
        };
        self.left -= page.rows.len().min(self.left);
        match page.rows.last().filter(|_| page.has_more) {
            Some(last) => self.which.after = (DropId(last.drop_id), last.slot),
            None => self.left = 0,
        }
        let mut text = String::with_capacity(page.rows.len() * 110);
        text.push_str(if is_first { HEADER } else { "" });
        page.rows.iter().for_each(|row| line(&mut text, row));
        self.given_at = Instant::now();
        Ok(Some(text.into()))
    }
}

async fn read(
    services: &Services,
    which: HolderRange,
    limit: usize,
) -> Result<HoldersPage, &'static str> {
    match services.mysql.operators.holders(which, limit).await {
        Ok(page) => Ok(page.unwrap_or_default()),
        Err(error) => {
            tracing::warn!(%error, coupon = %which.coupon, "a list of holders ends in the middle");
            Err("MySQL went away")
        }
    }
}

fn line(text: &mut String, row: &IssuedRow) {
    let time = |at: NaiveDateTime| at.and_utc().to_rfc3339_opts(SecondsFormat::Millis, true);
    let user = field(&row.user_id);
    let code = field(&row.code);
    let claimed = time(row.claimed_at);
    let issued = time(row.issued_at);
    // Writing to a string can't fail.
    let _ = write!(
        text,
        "{},{},{user},{code},{claimed},{issued},{}\r\n",
        row.drop_id, row.slot, row.issued_by
    );
}

/// A spreadsheet takes a field with such a beginning for a formula, quoted or not.
fn field(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        Cow::Owned(format!("\"'{}\"", text.replace('"', "\"\"")))
    } else if text.contains(['"', ',', '\r', '\n']) {
        Cow::Owned(format!("\"{}\"", text.replace('"', "\"\"")))
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_a_formula_or_breaks_a_line() {
        for (text, written) in [
            ("u-37", "u-37"),
            ("a=b@c", "a=b@c"),
            ("=1+1", "\"'=1+1\""),
            ("+49", "\"'+49\""),
            ("-2", "\"'-2\""),
            ("@SUM(A1)", "\"'@SUM(A1)\""),
            ("=\"x\"", "\"'=\"\"x\"\"\""),
            ("a,b\r\n\"c\"", "\"a,b\r\n\"\"c\"\"\""),
        ] {
            assert_eq!(field(text), written);
        }
    }
}
