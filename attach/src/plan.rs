//! What our records say about repairs: whether a person has confirmed a plan of a block's text, and
//! which rows were ours within a day. Without a database of ours, nothing is known, and every
//! repair waits for names.

use std::collections::HashSet;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::{
    BoolExpressionMethods as _, ExpressionMethods as _, OptionalExtension as _, QueryDsl as _,
};
use diesel_async::RunQueryDsl as _;
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::migrations::{self, Tables};
use firstcome_shared::mysql::{Db, DbResult, DbSettings};
use firstcome_shared::report::{ActionKind, Outcome};
use firstcome_shared::schema::{reconcile_findings, reconciler_state};

use crate::file::Campaign;

/// Our database.
#[derive(Clone)]
pub struct Ours {
    pub db: Db,
    pub settings: DbSettings,
}

/// What is recorded about a block's text and stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// A person has confirmed a plan of it.
    pub is_confirmed: bool,
    /// Users whom findings named, and who left Redis without a row. Such a text is never trusted.
    pub left: u64,
}

impl Record {
    fn parse(text: &str, fingerprint: u64) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next()? != format!("{fingerprint:x}") {
            return None;
        }
        Some(Self {
            is_confirmed: words.next()? == "confirmed",
            left: words.next()?.parse().ok()?,
        })
    }

    fn text(self, fingerprint: u64) -> String {
        let word = if self.is_confirmed {
            "confirmed"
        } else {
            "seen"
        };
        format!("{fingerprint:x} {word} {}", self.left)
    }
}

/// Rows of ours in one campaign.
#[derive(Debug, Default)]
pub struct OurRows {
    /// Within a day.
    pub today: u64,
    /// Of all recorded rows.
    pub users: HashSet<String>,
}

fn name(block: &Campaign) -> String {
    format!("attach.{}", block.coupon_id())
}

impl Ours {
    pub fn new(settings: DbSettings) -> anyhow::Result<Self> {
        Ok(Self {
            db: Db::new(&settings)?,
            settings,
        })
    }

    /// Creates our tables. Refuses a database with other tables, which may be the shop's own, and
    /// the database of a Firstcome that hands out coupons itself.
    pub async fn migrate(&self) -> anyhow::Result<()> {
        let tables = self.db.tables().await.context("DATABASE_URL")?;
        let has = |wanted: &str| tables.iter().any(|table| table == wanted);
        ensure!(
            tables.is_empty() || has("reconcile_runs"),
            "DATABASE_URL: that database has tables of others: write one of its own (CREATE \
            DATABASE reconciler)"
        );
        ensure!(
            !has("coupons"),
            "DATABASE_URL: Firstcome's own coupons are there; use another database"
        );
        let migrated = migrations::migrate(&self.settings, Tables::Records).await;
        migrated.map(drop).context("DATABASE_URL")
    }

    pub async fn record(&self, block: &Campaign) -> DbResult<Record> {
        let wanted = name(block);
        let text: Option<String> = self
            .db
            .run("read a plan's record", async move |conn| {
                let found = reconciler_state::table.find(wanted);
                found
                    .select(reconciler_state::value)
                    .first(conn)
                    .await
                    .optional()
            })
            .await?;
        let record = text.and_then(|text| Record::parse(&text, block.fingerprint));
        Ok(record.unwrap_or_default())
    }

    pub async fn write_record(&self, block: &Campaign, record: Record) -> DbResult<()> {
        if self.record(block).await? == record {
            return Ok(());
        }
        let row = (
            reconciler_state::name.eq(name(block)),
            reconciler_state::value.eq(record.text(block.fingerprint)),
        );
        self.db
            .run("write a plan's record", async move |conn| {
                let replace = diesel::replace_into(reconciler_state::table).values(row);
                replace.execute(conn).await
            })
            .await
            .map(drop)
    }

    pub async fn rows(&self, drop: DropId) -> DbResult<OurRows> {
        let rows: Vec<(Option<String>, DateTime<Utc>)> = self
            .db
            .run("rows of ours", async move |conn| {
                use reconcile_findings::{action, created_at, drop_id, result, table, user_id};
                let written = drop_id
                    .eq(drop.0)
                    .and(action.eq(ActionKind::Issue.as_str()))
                    .and(result.eq(Outcome::Applied.as_str()));
                let rows = table.filter(written).select((user_id, created_at));
                rows.load(conn).await
            })
            .await?;
        let day_ago = Utc::now() - TimeDelta::days(1);
        Ok(OurRows {
            today: rows.iter().filter(|(_, at)| *at > day_ago).count() as u64,
            users: rows.into_iter().filter_map(|(user, _)| user).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Record;

    #[test]
    fn record_counts_only_for_the_text_that_it_was_written_for() {
        let record = Record {
            is_confirmed: true,
            left: 2,
        };
        let text = record.text(0xab);
        assert_eq!(Record::parse(&text, 0xab), Some(record));
        assert_eq!(Record::parse(&text, 0xac), None);
        assert_eq!(Record::parse("", 0xab), None);
    }
}
