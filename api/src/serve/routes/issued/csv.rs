//! Sends all rows as one CSV (RFC 4180), page by page. Each page is read after the client has
//! received the previous one, and no MySQL connection is held in between.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse as _, Response};
use chrono::{NaiveDateTime, SecondsFormat};
use firstcome_shared::domain::DropId;
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::holders::{HolderRange, HoldersPage};
use firstcome_shared::mysql::issued::IssuedRow;
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::page;
use crate::serve::state::{App, Services};

const HEADING: [&str; 7] = [
    "drop_id",
    "slot",
    "user_id",
    "code",
    "claimed_at",
    "issued_at",
    "issued_by",
];

/// Rows per page, about 200 kB.
const PAGE: usize = 2_000;

/// Maximum time for a client to receive a page.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn answer(
    app: App,
    which: HolderRange,
    limit: Option<usize>,
) -> Result<Response, Problem> {
    let permit = Arc::clone(&app.exports).try_acquire_owned();
    let permit = permit.map_err(|_| {
        Problem::unavailable("too many of these lists are being sent; try again later")
    })?;
    let left = limit.unwrap_or(usize::MAX);
    // Read the first page before the status is sent, so that an error becomes a problem response.
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
    /// Returns the next part. An error breaks the connection, so that the client notices that rows
    /// are missing.
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
        self.given_at = Instant::now();
        let mut csv = csv::WriterBuilder::new()
            .terminator(csv::Terminator::CRLF)
            .from_writer(Vec::new());
        let heading = is_first.then(|| HEADING.map(str::to_owned));
        for record in heading.into_iter().chain(page.rows.iter().map(record)) {
            csv.write_record(record).map_err(|_| "a row has no CSV")?;
        }
        let text = csv.into_inner().map_err(|_| "a page has no CSV")?;
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
            tracing::warn!(%error, coupon = %which.coupon, "a CSV of holders was aborted");
            Err("MySQL does not answer")
        }
    }
}

fn record(row: &IssuedRow) -> [String; 7] {
    let time = |at: NaiveDateTime| at.and_utc().to_rfc3339_opts(SecondsFormat::Millis, true);
    [
        row.drop_id.to_string(),
        row.slot.to_string(),
        guarded(&row.user_id).into_owned(),
        row.code.clone(),
        time(row.claimed_at),
        time(row.issued_at),
        row.issued_by.clone(),
    ]
}

/// Puts a `'` before what spreadsheets would take for a formula, even if it is quoted, or for a
/// number, and so change.
fn guarded(text: &str) -> Cow<'_, str> {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) || would_change_as_number(text) {
        Cow::Owned(format!("'{text}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Whether a spreadsheet shows and saves this id in another form: a number of more than 11 digits
/// is rounded, leading zeros are lost, and `1E5`, `1-2` and `1:2` become a number, a date and a
/// time.
fn would_change_as_number(text: &str) -> bool {
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_kept = is_number && text.len() <= 11 && (text.len() == 1 || !text.starts_with('0'));
    text.starts_with(|first: char| first.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| b"0123456789.:/+-eE".contains(&byte))
        && !is_kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_what_a_spreadsheet_would_change() {
        for (text, written) in [
            ("u-37", "u-37"),
            ("a=b@c", "a=b@c"),
            ("=1+1", "'=1+1"),
            ("+49", "'+49"),
            ("-2", "'-2"),
            ("@SUM(A1)", "'@SUM(A1)"),
            ("=\"x\"", "'=\"x\""),
            ("107693000000000000001", "'107693000000000000001"),
            ("00123", "'00123"),
            ("1e5", "'1e5"),
            ("3/4", "'3/4"),
            ("12345678901", "12345678901"),
            ("0", "0"),
            (
                "0a1b2c3d-1111-4222-8333-444455556666",
                "0a1b2c3d-1111-4222-8333-444455556666",
            ),
        ] {
            assert_eq!(guarded(text), written);
        }
    }
}
