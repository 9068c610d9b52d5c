//! The report of a run, as a table and as JSON.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

use super::RushOptions;
use crate::answer::AnswerKind;
use crate::rows::RowCheck;
use crate::table;
use crate::tally::Tally;
use crate::terminal::{grouped, number, step};

/// Above this share of its limit, the tool may be the bottleneck.
const NEAR: f64 = 0.7;

/// If more than one request in this many is late, a warning is printed.
const MANY: u64 = 100;

#[derive(Debug, Serialize)]
pub struct RushReport {
    /// Time at which the run ended, UTC.
    pub at: String,
    /// Addresses of the APIs.
    pub urls: Vec<String>,
    pub coupon_id: i64,
    /// Whether the coupon was created for this run.
    pub made: bool,
    /// Requests per second of an open loop. `None` for a closed loop.
    pub rate: Option<f64>,
    pub connections: usize,
    /// Requests per second of this tool on the same number of connections to a server that does
    /// nothing.
    pub ceiling_per_second: f64,
    pub tally: Tally,
    /// Number of MySQL statements of all clients during the rush, if the database was given.
    pub mysql_statements: Option<u64>,
    /// The comparison with the rows, if the database was given.
    pub rows: Option<RowCheck>,
}

impl RushReport {
    pub(super) fn new(
        options: &RushOptions,
        coupon_id: i64,
        made: bool,
        ceiling_per_second: f64,
        mut tally: Tally,
        mysql_statements: Option<u64>,
        rows: Option<RowCheck>,
    ) -> Self {
        tally.forget_names();
        Self {
            at: chrono::Utc::now()
                .format("%Y-%m-%d %H:%M:%S UTC")
                .to_string(),
            urls: options.url.iter().map(ToString::to_string).collect(),
            coupon_id,
            made,
            rate: options.rate,
            connections: options.connections,
            ceiling_per_second,
            tally,
            mysql_statements,
            rows,
        }
    }

    /// Whether every user got a final answer, every answer was understood, no two contradict each
    /// other, and every promise has its row.
    pub fn good(&self) -> bool {
        let tally = &self.tally;
        let unclear =
            tally.count(AnswerKind::Failed) + tally.count(AnswerKind::Refused) + tally.gave_up;
        let lost = self
            .rows
            .as_ref()
            .map_or(0, |rows| rows.promised_without_row);
        unclear == 0 && tally.contradictions.is_empty() && lost == 0
    }

    /// Returns the rows of the table that tables of other crowds do not have.
    fn more(&self) -> Vec<(String, String)> {
        let mut more = Vec::new();
        if let Some(rate) = self.rate {
            let late = grouped(self.tally.late);
            more.push((
                format!("open loop, {rate:.0} requests per second; sent late"),
                late,
            ));
        }
        let ceiling = self.ceiling_per_second;
        let share = self.tally.per_second / ceiling.max(1.0) * 100.0;
        more.push((
            "limit of this tool on this machine".into(),
            format!("{} per second, {share:.0} % of it used", number(ceiling)),
        ));
        if let Some(rows) = &self.rows {
            more.push(("rows in MySQL".into(), grouped(rows.rows as u64)));
            more.push((
                "promises without a row".into(),
                grouped(rows.promised_without_row as u64),
            ));
            if let Some(after) = rows.complete_after_ms {
                more.push((
                    "time from the last answer to the last row".into(),
                    format!("{after} ms"),
                ));
            }
        }
        if let Some(statements) = self.mysql_statements {
            more.push((
                "MySQL statements during the rush, all clients".into(),
                grouped(statements),
            ));
        }
        more
    }

    /// Returns warnings that affect how the report must be read.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.tally.per_second > NEAR * self.ceiling_per_second {
            warnings.push(
                "the tool was near its limit, so it may have been measured instead of the system"
                    .to_owned(),
            );
        }
        if self.tally.late * MANY > self.tally.requests {
            warnings.push(format!(
                "{} requests were sent late, mostly because every connection was waiting. The delay is included in \
                 their latency; with more --connections, more people can ask at once",
                grouped(self.tally.late)
            ));
        }
        if let Some(answer) = &self.tally.unclear {
            warnings.push(format!("an answer outside the contract: {answer}"));
        }
        if let Some(rows) = self
            .rows
            .as_ref()
            .filter(|rows| rows.promised_without_row > 0)
        {
            warnings.push(format!(
                "users with a promise but no row: {}",
                rows.named.join(", ")
            ));
        }
        warnings
    }

    fn table(&self) -> String {
        let mut text = table::of_tally_with(&self.tally, self.more());
        for warning in self.warnings() {
            text.push_str("\nnote: ");
            text.push_str(&warning);
        }
        text
    }
}

/// Destinations of the report. The file is opened before the crowd starts, so that a mistyped path
/// loses no result.
pub(super) struct Outputs {
    json: Option<(PathBuf, File)>,
    print_json: bool,
}

impl Outputs {
    pub(super) fn open(options: &RushOptions) -> Result<Self> {
        let print_json = options.json.as_deref() == Some(Path::new("-"));
        let json = options
            .json
            .as_deref()
            .filter(|_| !print_json)
            .map(create)
            .transpose()?;
        Ok(Self { json, print_json })
    }

    pub(super) fn write(self, report: &RushReport) -> Result<()> {
        let json = serde_json::to_string_pretty(report)?;
        if self.print_json {
            println!("{json}");
        } else {
            println!("{}", report.table());
        }
        if let Some((path, mut file)) = self.json {
            file.write_all(json.as_bytes())
                .with_context(|| format!("{} cannot be written", path.display()))?;
            step(format!("wrote {}", path.display()));
        }
        Ok(())
    }
}

fn create(path: &Path) -> Result<(PathBuf, File)> {
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        fs::create_dir_all(folder)
            .with_context(|| format!("{} cannot be made", folder.display()))?;
    }
    let file =
        File::create(path).with_context(|| format!("{} cannot be written", path.display()))?;
    Ok((path.to_owned(), file))
}
