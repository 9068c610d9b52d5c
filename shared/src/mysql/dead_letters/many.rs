//! Bulk operations on dead letters: counts reasons, and discards everything that matches a filter.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde_json::json;

use super::look::{DeadLetterQuery, LIMITED, LONG_LOOK, discard_open};
use crate::mysql::db::IdRow;
use crate::mysql::ops_actions::{Operator, OperatorAct};
use crate::mysql::{Db, DbError};

/// Maximum number of dead letters counted by reason, which bounds the cost during a flood.
pub const COUNTED: u32 = 100_000;

/// Maximum number of reasons listed.
const REASONS: u32 = 50;

/// Maximum number discarded in one transaction.
pub const DISCARDED_AT_ONCE: u32 = 10_000;

/// Rows per statement.
const ROWS: usize = 1_000;

/// A reason, and the number of dead letters that have it.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct ReasonCount {
    #[diesel(sql_type = Text)]
    pub reason: String,
    #[diesel(sql_type = BigInt)]
    pub letters: i64,
}

/// The dead letters that match a filter, up to [`DISCARDED_AT_ONCE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
pub struct Matching {
    #[diesel(sql_type = BigInt)]
    pub letters: i64,
    /// The highest id, to exclude dead letters that arrive later.
    #[diesel(sql_type = BigInt)]
    pub highest: i64,
}

impl Db {
    /// Counts the reasons of the first [`COUNTED`] dead letters of a drop, or of all drops, most
    /// frequent first.
    pub async fn dead_letter_reasons(
        &self,
        wanted: DeadLetterQuery,
    ) -> Result<Vec<ReasonCount>, DbError> {
        let all = DeadLetterQuery {
            reason: None,
            ..wanted
        }
        .select("f.reason");
        let counted = format!(
            "SELECT {LIMITED} reason, COUNT(*) AS letters FROM ({all} LIMIT {COUNTED}) some GROUP BY reason \
             ORDER BY letters DESC, reason LIMIT {REASONS}"
        );
        self.run_within(
            LONG_LOOK,
            "count dead letters by reason",
            async move |conn| diesel::sql_query(counted).load(conn).await,
        )
        .await
    }

    /// Counts the matching dead letters that could be discarded now.
    pub async fn matching_dead_letters(
        &self,
        wanted: DeadLetterQuery,
    ) -> Result<Matching, DbError> {
        let some = wanted.select("f.id");
        let counted = format!(
            "SELECT {LIMITED} COUNT(*) AS letters, CAST(COALESCE(MAX(id), 0) AS SIGNED) AS highest \
             FROM ({some} LIMIT {DISCARDED_AT_ONCE}) some"
        );
        self.run_within(
            LONG_LOOK,
            "count matching dead letters",
            async move |conn| diesel::sql_query(counted).get_result(conn).await,
        )
        .await
    }

    /// Discards the dead letters that were displayed to an operator: open ones that match the
    /// filter, at most the displayed number, and none that arrived later. Returns how many were
    /// discarded.
    pub async fn discard_dead_letters(
        &self,
        wanted: DeadLetterQuery,
        seen: Matching,
        why: String,
        by: Operator,
    ) -> Result<usize, DbError> {
        let most = seen.letters.clamp(0, i64::from(DISCARDED_AT_ONCE));
        let of_seen = DeadLetterQuery {
            resolved: false,
            ..wanted.clone()
        }
        .select("f.id");
        let of_seen = format!("{of_seen} AND f.id <= {} LIMIT {most}", seen.highest);
        self.run_within(LONG_LOOK, "discard dead letters", async move |conn| {
            conn.transaction(async |conn| {
                let mut ids: Vec<i64> =
                    diesel::sql_query(of_seen).load::<IdRow>(conn).await?.iter().map(|one| one.id).collect();
                ids.sort_unstable();
                let mut discarded = 0;
                for some in ids.chunks(ROWS) {
                    // A pass may have resolved one since it was found.
                    discarded += discard_open(conn, some, &why).await?;
                }
                if discarded > 0 {
                    let act = OperatorAct {
                        action: "discard_dead_letters",
                        drop: wanted.drop,
                        // Store the reason only with the dead letters, so that erasing a user
                        // removes it.
                        detail: json!({
                            "dead_letters": discarded, "reason": wanted.reason, "highest": seen.highest,
                        }),
                        ..OperatorAct::default()
                    };
                    by.did(conn, act).await?;
                }
                Ok(discarded)
            })
            .await
        })
        .await
    }
}
