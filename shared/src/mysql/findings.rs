//! Findings of runs. A finding that persists is stored as one row, regardless of how many passes
//! report it. Full passes are numbered, and the row stores the numbers of the first pass that
//! reported it and of the first pass that no longer did. Repairs, and findings of other runs,
//! belong to one run.

use std::collections::HashMap;

use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable};
use diesel_async::RunQueryDsl;

use super::schema::{reconcile_findings, reconcile_runs};
use super::{Db, DbError};
use crate::domain::{CouponId, UserId};

#[derive(Debug, Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = reconcile_findings)]
pub struct FindingRow {
    pub run_id: String,
    pub coupon_id: Option<i64>,
    pub drop_id: Option<i64>,
    pub kind: String,
    pub slot: Option<i64>,
    pub user_id: Option<String>,
    pub action: String,
    pub result: String,
    pub detail: Option<String>,
    pub needs_person: bool,
    pub dead_letter: Option<i64>,
}

#[derive(Insertable)]
#[diesel(table_name = reconcile_findings)]
struct NewFinding {
    #[diesel(embed)]
    row: FindingRow,
    seen_from: Option<u64>,
    seen_to: Option<u64>,
    content: Option<i64>,
}

/// The findings of a run.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// Findings that belong to this run only.
    pub own: Vec<FindingRow>,
    /// Findings that a full pass left unresolved, each with an identity for comparison with those
    /// of the previous full pass. `None` for other runs.
    pub left: Option<Vec<(i64, FindingRow)>>,
}

/// How the findings of a run were stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeptFindings {
    /// The run's number among the full passes.
    pub(super) number: Option<u64>,
    /// Whether no finding appeared or disappeared and none belongs to this run only.
    pub(super) nothing_new: bool,
}

/// Findings written, compared or deleted per statement.
const AT_ONCE: usize = 500;

/// Findings read per statement for comparison.
const READ_AT_ONCE: i64 = 5_000;

impl Db {
    /// Writes the findings of a run that has no row yet or is in progress, in small statements.
    /// Safe to repeat after an error.
    pub(super) async fn keep_findings(
        &self,
        run_id: &str,
        findings: Findings,
    ) -> Result<KeptFindings, DbError> {
        self.delete_findings_of(run_id.to_owned()).await?;
        let is_full = findings.left.is_some();
        let number = if is_full {
            Some(self.next_number().await?)
        } else {
            None
        };
        let own = findings.own.into_iter().map(|row| NewFinding {
            row,
            seen_from: number,
            seen_to: number.map(|n| n + 1),
            content: None,
        });
        let mut new: Vec<NewFinding> = own.collect();
        let mut gone = Vec::new();
        if let Some(left) = findings.left {
            let mut open = self.open_findings().await?;
            for (content, row) in left {
                if open.get_mut(&content).and_then(Vec::pop).is_none() {
                    new.push(NewFinding {
                        row,
                        seen_from: number,
                        seen_to: None,
                        content: Some(content),
                    });
                }
            }
            gone = open.into_values().flatten().collect();
        }
        let nothing_new = is_full && new.is_empty() && gone.is_empty();
        self.write_findings(new).await?;
        self.end_findings(gone, number).await?;
        Ok(KeptFindings {
            number,
            nothing_new,
        })
    }

    async fn write_findings(&self, mut new: Vec<NewFinding>) -> Result<(), DbError> {
        while !new.is_empty() {
            let some: Vec<NewFinding> = new.drain(..AT_ONCE.min(new.len())).collect();
            self.run("write findings", async move |conn| {
                diesel::insert_into(reconcile_findings::table)
                    .values(some)
                    .execute(conn)
                    .await
            })
            .await?;
        }
        Ok(())
    }

    async fn end_findings(&self, gone: Vec<i64>, number: Option<u64>) -> Result<(), DbError> {
        for some in gone.chunks(AT_ONCE) {
            let some = some.to_vec();
            self.run("end findings", async move |conn| {
                diesel::update(
                    reconcile_findings::table.filter(reconcile_findings::id.eq_any(some)),
                )
                .set(reconcile_findings::seen_to.eq(number))
                .execute(conn)
                .await
            })
            .await?;
        }
        Ok(())
    }

    /// Deletes the findings that an attempt wrote before it failed.
    async fn delete_findings_of(&self, run_id: String) -> Result<(), DbError> {
        loop {
            let run_id = run_id.clone();
            let deleted = self.run("delete findings of a run", async move |conn| {
                let sql =
                    format!("DELETE FROM reconcile_findings WHERE run_id = ? LIMIT {READ_AT_ONCE}");
                diesel::sql_query(sql)
                    .bind::<diesel::sql_types::Text, _>(run_id)
                    .execute(conn)
                    .await
            });
            if deleted.await? == 0 {
                return Ok(());
            }
        }
    }

    async fn next_number(&self) -> Result<u64, DbError> {
        let last = self.run("number a pass", async |conn| {
            reconcile_runs::table
                .select(diesel::dsl::max(reconcile_runs::number))
                .first::<Option<u64>>(conn)
                .await
        });
        Ok(last.await?.unwrap_or(0) + 1)
    }

    /// Reads the findings that the last full pass left unresolved: ids by content.
    async fn open_findings(&self) -> Result<HashMap<i64, Vec<i64>>, DbError> {
        let mut open: HashMap<i64, Vec<i64>> = HashMap::new();
        let mut after = 0;
        loop {
            let page = self.run("findings that stay", async move |conn| {
                reconcile_findings::table
                    .filter(
                        reconcile_findings::seen_to
                            .is_null()
                            .and(reconcile_findings::content.is_not_null()),
                    )
                    .filter(reconcile_findings::id.gt(after))
                    .order(reconcile_findings::id)
                    .limit(READ_AT_ONCE)
                    .select((
                        reconcile_findings::id,
                        reconcile_findings::content.assume_not_null(),
                    ))
                    .load::<(i64, i64)>(conn)
                    .await
            });
            let page = page.await?;
            let Some((last, _)) = page.last() else {
                return Ok(open);
            };
            after = *last;
            for (id, content) in page {
                open.entry(content).or_default().push(id);
            }
        }
    }

    /// Reads at most `limit` findings of a run with ids above `after`.
    pub(super) async fn findings_of(
        &self,
        run_id: String,
        number: Option<u64>,
        limit: u32,
        after: i64,
    ) -> Result<Vec<(i64, FindingRow)>, DbError> {
        self.run("findings of a run", async move |conn| {
            let next = reconcile_findings::table
                .filter(reconcile_findings::id.gt(after))
                .order(reconcile_findings::id)
                .limit(i64::from(limit))
                .select((reconcile_findings::id, FindingRow::as_select()));
            let Some(number) = number else {
                return next
                    .filter(reconcile_findings::run_id.eq(run_id))
                    .load(conn)
                    .await;
            };
            let seen = next.filter(reconcile_findings::seen_from.le(number));
            // Two queries, each on the index of `seen_to`.
            let mut found: Vec<(i64, FindingRow)> = seen
                .filter(reconcile_findings::seen_to.is_null())
                .load(conn)
                .await?;
            found.extend(
                seen.filter(reconcile_findings::seen_to.gt(number))
                    .load::<(i64, FindingRow)>(conn)
                    .await?,
            );
            found.sort_unstable_by_key(|(id, _)| *id);
            found.truncate(limit as usize);
            Ok(found)
        })
        .await
    }

    /// Reads why the last pass left a dead letter unresolved, and when.
    pub async fn why_left(
        &self,
        letter: i64,
        drop: Option<i64>,
    ) -> Result<Option<(String, NaiveDateTime)>, DbError> {
        self.run("why a dead letter stays", async move |conn| {
            // The condition matches the index on drop and result.
            let of_drop =
                diesel::dsl::sql::<Bool>("drop_id <=> ").bind::<Nullable<BigInt>, _>(drop);
            let left = reconcile_findings::result.eq("skipped");
            reconcile_findings::table
                .filter(of_drop)
                .filter(left.and(reconcile_findings::dead_letter.eq(letter)))
                .order(reconcile_findings::created_at.desc())
                .select((
                    reconcile_findings::detail.assume_not_null(),
                    reconcile_findings::created_at,
                ))
                .first(conn)
                .await
                .optional()
        })
        .await
    }

    /// Reads the first thousand findings about a user and a coupon, each with the time of its
    /// record.
    pub async fn findings_about(
        &self,
        coupon: CouponId,
        user: &UserId,
    ) -> Result<Vec<(FindingRow, NaiveDateTime)>, DbError> {
        let user = user.as_str().to_owned();
        self.run("findings about a person", async move |conn| {
            reconcile_findings::table
                .filter(
                    reconcile_findings::coupon_id
                        .eq(coupon.0)
                        .and(reconcile_findings::user_id.eq(user)),
                )
                .order(reconcile_findings::id)
                .limit(1_000)
                .select((FindingRow::as_select(), reconcile_findings::created_at))
                .load(conn)
                .await
        })
        .await
    }
}
