//! Records a rush, reads its rows without using the product's code, and lets the oracle judge both.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use firstcome_oracle::{History, Judgement, RecordedRow, RecordedScope, Recorder, Verdict, check};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;
use tempfile::TempDir;

use crate::ops::Ops;

/// The history of a rush on the current drop of a coupon, whose quantity nobody changes.
pub struct RushHistory {
    pub recorder: Recorder,
    coupon: i64,
    drop: i64,
    file: PathBuf,
    _temporary: TempDir,
}

impl RushHistory {
    /// Begins a history in this file, or in a temporary one.
    pub async fn begin(api: &Ops, coupon: i64, file: Option<&Path>) -> Result<Self> {
        let temporary = tempfile::tempdir()?;
        let own = temporary.path().join("history.jsonl");
        let file = file.map_or(own, Path::to_owned);
        let body = api.get(&format!("/v1/coupons/{coupon}")).await?;
        let current = &body["current_drop"];
        let drop = current["id"].as_i64();
        let drop = drop.context("the coupon has no current drop")?;
        let quantity = current["quantity"].as_u64();
        let quantity = quantity.context("the drop has no quantity")?;
        let once_per = match body["once_per"].as_str() {
            Some("coupon") => RecordedScope::Coupon,
            _ => RecordedScope::Drop,
        };
        let written = File::create(&file);
        let written = written.with_context(|| format!("the history {}", file.display()))?;
        let recorder = Recorder::new(BufWriter::new(written));
        let [own_drop, of_coupon] = [drop, coupon].map(i64::cast_unsigned);
        recorder.drop_is(own_drop, of_coupon, quantity, once_per);
        Ok(Self {
            recorder,
            coupon,
            drop,
            file,
            _temporary: temporary,
        })
    }

    /// Reads the rows of the drop.
    pub async fn rows(&self, conn: &mut Conn) -> Result<Rows> {
        let sql = "SELECT slot, user_id, issued_by = 'consumer' FROM issued_coupons \
                   WHERE drop_id = ?";
        let rows: Vec<(i64, String, bool)> = conn
            .exec(sql, (self.drop,))
            .await
            .context("the rows can't be read")?;
        let by_consumer = rows.iter().filter(|row| row.2).count();
        let rows = rows.into_iter();
        Ok(Rows {
            all: rows
                .map(|(slot, person, _)| RecordedRow { slot, person })
                .collect(),
            by_consumer,
        })
    }

    /// Judges the history, with the rows if they were read. Users whose names do not begin with
    /// `prefix` may have claimed before the rush.
    pub fn judge(&self, rows: Option<&Rows>, prefix: &str) -> Result<Judgement> {
        if let Some(rows) = rows {
            let [coupon, drop] = [self.coupon, self.drop].map(i64::cast_unsigned);
            for row in rows
                .all
                .iter()
                .filter(|row| !row.person.starts_with(prefix))
            {
                let claim = self.recorder.invoke(coupon, Some(drop), &row.person);
                std::mem::drop(claim);
            }
            self.recorder.finally(drop, rows.all.clone());
        }
        self.recorder
            .finish()
            .context("the history is incomplete")?;
        let text = std::fs::read_to_string(&self.file)?;
        Ok(check(&History::parse(&text)?))
    }
}

/// The rows of one drop.
pub struct Rows {
    pub all: Vec<RecordedRow>,
    pub by_consumer: usize,
}

impl Rows {
    /// Returns the number of rows of users whose names begin with `prefix`.
    pub fn of(&self, prefix: &str) -> usize {
        let own = |row: &&RecordedRow| row.person.starts_with(prefix);
        self.all.iter().filter(own).count()
    }

    /// Returns the rows of a table for the terminal.
    pub fn table(&self) -> Vec<(String, String)> {
        let all = self.all.len();
        let counts = [
            ("rows", all),
            ("  by the consumer", self.by_consumer),
            ("  by the reconciler", all - self.by_consumer),
        ];
        counts
            .map(|(what, count)| (what.to_owned(), count.to_string()))
            .into()
    }
}

/// Returns the row of a table.
pub fn kept(judgement: &Judgement) -> (String, String) {
    let figures = &judgement.figures;
    let kept = format!("{} of {}", figures.kept, figures.promises);
    ("promises with their row".to_owned(), kept)
}

/// Whether a promise was broken, answers contradict each other, or a row is wrong.
pub fn is_violated(judgement: &Judgement) -> bool {
    matches!(judgement.verdict, Verdict::Violated(_))
}
