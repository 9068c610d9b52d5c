//! What our records say about repairs: whether a person has confirmed a plan of a block's text, and
//! which rows were ours within a day. Without a database of ours, nothing is known, and every
//! repair waits for names.

use std::collections::HashSet;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::{BoolExpressionMethods as _, ExpressionMethods as _, QueryDsl as _};
use diesel_async::RunQueryDsl as _;
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::migrations::{self, Tables};
use firstcome_shared::mysql::{Db, DbResult, DbSettings, runs};
use firstcome_shared::report::{ActionKind, Outcome, recorded_user};
use firstcome_shared::schema::reconcile_findings;
use strum::{EnumString, IntoStaticStr};

use crate::file::Campaign;

/// Our database.
#[derive(Clone)]
pub struct Ours {
    pub db: Db,
    pub settings: DbSettings,
}

/// What is recorded about a block's text and stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, IntoStaticStr, EnumString)]
#[strum(serialize_all = "lowercase")]
pub enum Trust {
    #[default]
    None,
    /// A person has confirmed a plan of it.
    Confirmed,
    /// Users whom findings named left Redis without a row, so that it is never trusted.
    Left,
}

/// Rows of ours in one campaign.
#[derive(Debug, Default)]
pub struct OurRows {
    /// Within a day.
    pub today: u64,
    /// Of all recorded rows, as they are recorded.
    pub users: HashSet<String>,
}

impl OurRows {
    /// Whether a user got a row of ours.
    pub fn has(&self, user: &str) -> bool {
        self.users.contains(&recorded_user(user))
    }
}

fn name(block: &Campaign) -> String {
    format!("attach.{}.{:x}", block.coupon_id(), block.fingerprint)
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
        ensure!(
            tables.is_empty() || tables.iter().any(|table| table == "reconcile_runs"),
            "DATABASE_URL: that database has tables of others: write one of its own (CREATE \
            DATABASE reconciler)"
        );
        ensure!(
            tables.iter().all(|table| table != "coupons"),
            "DATABASE_URL: Firstcome's own coupons are there; use another database"
        );
        let migrated = migrations::migrate(&self.settings, Tables::Records).await;
        migrated.map(drop).context("DATABASE_URL")
    }

    pub async fn trust(&self, block: &Campaign) -> DbResult<Trust> {
        let name = name(block);
        let text = self.db.run("read a plan's record", async move |conn| {
            runs::state(conn, &name).await
        });
        let trust = text.await?.and_then(|text| text.parse().ok());
        Ok(trust.unwrap_or_default())
    }

    pub async fn record(&self, block: &Campaign, trust: Trust) -> DbResult<()> {
        let name = name(block);
        let recorded = self.db.run("write a plan's record", async move |conn| {
            runs::set_state(conn, &name, trust.into()).await
        });
        recorded.await.map(drop)
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
