//! What both outboxes hold, as a person looks at it, and another try of what was given up.

use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Datetime, Integer, Nullable, Text, Unsigned};
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde_json::json;

use super::ops_actions::{Operator, OperatorAct};
use super::{Db, DbError};

/// Most that are listed of each outbox: of those not delivered, and of those delivered last.
const OPEN: u32 = 100;
const SENT: u32 = 20;

/// Which outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutboxKind {
    Mail,
    Webhook,
}

impl OutboxKind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Mail => "mail",
            Self::Webhook => "webhook",
        }
    }

    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Mail, Self::Webhook]
            .into_iter()
            .find(|kind| kind.word() == word)
    }

    /// Table, and its columns of what is sent and where to.
    fn table(self) -> (&'static str, &'static str) {
        match self {
            Self::Mail => ("mail_outbox", "subject AS what, recipient AS target"),
            Self::Webhook => ("webhook_outbox", "kind AS what, target"),
        }
    }
}

/// A row of an outbox.
#[derive(Debug, Clone, QueryableByName)]
pub struct Delivery {
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    #[diesel(sql_type = Datetime)]
    pub created_at: NaiveDateTime,
    /// A mail's subject, an event's kind.
    #[diesel(sql_type = Text)]
    pub what: String,
    #[diesel(sql_type = Text)]
    pub target: String,
    #[diesel(sql_type = Unsigned<Integer>)]
    pub attempts: u32,
    #[diesel(sql_type = Datetime)]
    pub next_attempt_at: NaiveDateTime,
    #[diesel(sql_type = Nullable<Datetime>)]
    pub sent_at: Option<NaiveDateTime>,
    #[diesel(sql_type = Nullable<Datetime>)]
    pub given_up_at: Option<NaiveDateTime>,
    #[diesel(sql_type = Nullable<Text>)]
    pub last_error: Option<String>,
}

impl Db {
    /// The newest rows that are not delivered, then those that were delivered last.
    pub async fn deliveries(&self, kind: OutboxKind) -> Result<Vec<Delivery>, DbError> {
        let (table, columns) = kind.table();
        let some = |which: &str, most: u32| {
            format!(
                "(SELECT id, created_at, {columns}, attempts, next_attempt_at, sent_at, given_up_at, last_error \
                 FROM {table} WHERE sent_at {which} ORDER BY id DESC LIMIT {most})"
            )
        };
        let sql = format!(
            "{} UNION ALL {}",
            some("IS NULL", OPEN),
            some("IS NOT NULL", SENT)
        );
        self.run("list deliveries", async move |conn| {
            diesel::sql_query(sql).load(conn).await
        })
        .await
    }

    /// Has what is not delivered tried again now, also what was given up; false if there is no such
    /// row.
    pub async fn deliver_again(
        &self,
        kind: OutboxKind,
        id: i64,
        by: Operator,
    ) -> Result<bool, DbError> {
        self.run("deliver again", async move |conn| {
            conn.transaction(async |conn| {
                let table = kind.table().0;
                let update = format!(
                    "UPDATE {table} SET given_up_at = NULL, next_attempt_at = UTC_TIMESTAMP(3) \
                     WHERE id = {id} AND sent_at IS NULL"
                );
                if diesel::sql_query(update).execute(conn).await? == 0 {
                    return Ok(false);
                }
                let act = OperatorAct {
                    action: "deliver_again",
                    detail: json!({kind.word(): id}),
                    ..OperatorAct::default()
                };
                by.did(conn, act).await.map(|()| true)
            })
            .await
        })
        .await
    }
}
