//! Checks: SELECTs that return no row while nothing is wrong, of a campaign and of the whole file.

use std::collections::HashMap;
use std::time::Duration;

use firstcome_shared::report::{AlertKind, Kind, Kinds};
use tokio::time::Instant;

use crate::error::Answer;
use crate::memory::Wait;
use crate::sql::{Cell, Columns, Query, Session};
use crate::text::{Statement, Values};
use crate::users::{Hasher, UserHash};

/// Rows of a check that are named. One more is read.
const MOST: usize = 100;

/// A check of the file rests for so many times what it took.
const REST: u32 = 20;

/// A row is a finding if two runs at least so far apart returned it.
pub const APART: Duration = Duration::from_secs(60);

/// A row that a check returned. Its identity is the first column: the others, such as amounts and
/// times, change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRow {
    /// The number of the check in its campaign, from 1 on.
    pub check: usize,
    pub identity: UserHash,
    /// The first column; `None`: there are more rows than are read.
    pub first: Option<String>,
    /// All columns, for operators only.
    pub text: String,
}

/// Returns the rows of a check, each identity once. The last one may stand for all others.
pub async fn run(
    session: &mut Session,
    number: usize,
    query: Query<'_>,
    hasher: &Hasher,
) -> Answer<Vec<CheckRow>> {
    let mut rows: Vec<CheckRow> = Vec::new();
    let mut each = |_: &Columns, row: &[Cell]| {
        let texts: Vec<String> = row
            .iter()
            .map(|cell| cell.text().unwrap_or_else(|| "NULL".to_owned()))
            .collect();
        let text = texts.join(", ");
        let is_beyond = rows.len() == MOST;
        let first = texts.into_iter().next().filter(|_| !is_beyond);
        let identity = hasher.user(&format!("{number}\n{first:?}"));
        if rows.iter().all(|row| row.identity != identity) {
            rows.push(CheckRow {
                check: number,
                identity,
                first,
                text,
            });
        }
        Ok(!is_beyond)
    };
    session.read(query, &mut each).await?;
    Ok(rows)
}

/// Returns the number of the first check that returns a row.
pub async fn first_failing(
    session: &mut Session,
    checks: &[Statement],
    values: Values<'_>,
    until: Instant,
) -> Answer<Option<usize>> {
    for (at, statement) in checks.iter().enumerate() {
        let mut has_row = false;
        let mut each = |_: &Columns, _: &[Cell]| {
            has_row = true;
            Ok(true)
        };
        let field = format!("check {}", at + 1);
        let query = Query {
            field: &field,
            statement,
            values,
            until,
        };
        session.read(query, &mut each).await?;
        if has_row {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}

/// What a process remembers of a check of the file.
#[derive(Debug, Default)]
pub struct CheckMemory {
    /// When it is due.
    due: Duration,
    /// Rows of the last run, and when they were first returned.
    open: HashMap<UserHash, Duration>,
    rows: Vec<CheckRow>,
    began: Duration,
    /// Why the last run failed.
    pub cannot_run: Option<String>,
}

impl CheckMemory {
    pub fn is_due(&self, now: Duration) -> bool {
        now >= self.due
    }

    /// Adds a run. While a row is too young to be a finding, the next run comes once it is not.
    pub fn add(&mut self, rows: Vec<CheckRow>, began: Duration, ended: Duration, every: Duration) {
        let known = std::mem::take(&mut self.open);
        self.open = rows
            .iter()
            .map(|row| {
                (
                    row.identity,
                    known.get(&row.identity).copied().unwrap_or(ended),
                )
            })
            .collect();
        self.rows = rows;
        self.began = began;
        self.cannot_run = None;
        let is_young = |first: &Duration| began < *first + APART;
        let wanted = if self.open.values().any(is_young) {
            every.min(APART)
        } else {
            every
        };
        self.due = ended + wanted.max(ended.saturating_sub(began) * REST);
    }

    /// Notes a run that failed: open rows stay.
    pub fn failed(&mut self, why: String, now: Duration, every: Duration) {
        self.due = now + every;
        self.cannot_run = Some(why);
    }

    /// Returns the rows that two runs have returned, far enough apart.
    pub fn ripe(&self) -> impl Iterator<Item = &CheckRow> {
        self.rows.iter().filter(|row| {
            let first = self.open.get(&row.identity);
            first.is_some_and(|first| self.began >= *first + APART)
        })
    }

    /// Returns the kinds that the last run would have found.
    pub fn judges(&self) -> Kinds {
        let is_open = |first: &Duration| self.began < *first + APART;
        if self.cannot_run.is_some() || self.open.values().any(is_open) {
            return Kinds::all_but([AlertKind::Left(Kind::Check)]);
        }
        Kinds::All
    }

    /// What the youngest row waits for.
    pub fn waits_for(&self, now: Duration) -> Wait {
        let young = self
            .open
            .values()
            .filter(|first| self.began < **first + APART);
        match young.max() {
            None => Wait::Nothing,
            Some(first) if now >= *first + APART => Wait::Look,
            Some(_) => Wait::Time,
        }
    }
}
