//! A look that ended: folds what it saw into the levels, and stores its repairs, in one
//! transaction.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use firstcome_shared::mysql::levels::{self as stored, NotifyRow};
use firstcome_shared::mysql::{Conn, runs};
use firstcome_shared::report::Run;

use crate::events;
use crate::levels::{Change, fold, found, repairs};
use crate::queries::alerts::{self, RepairsRow};
use crate::queries::outbox;
use crate::settings::MailSettings;

/// A run to note.
pub(crate) struct SeenRun {
    /// The run, under the id of the one that stores its findings.
    pub(crate) run: Run,
    pub(crate) is_stored: bool,
    pub(crate) settings: Arc<MailSettings>,
    pub(crate) at: Option<DateTime<Utc>>,
}

impl SeenRun {
    /// Writes what has changed. Returns whether anything has. If nothing is wrong and nothing was
    /// repaired, it takes no lock.
    pub(crate) async fn note(&self, conn: &mut Conn) -> QueryResult<bool> {
        let subject = self.settings.links.subject();
        let mut run = self.run.clone();
        if self.is_stored {
            // An earlier run may store the same findings; this one's row is deleted after a day.
            let same: Option<String> = runs::same_as(conn, &run.run_id).await?;
            run.run_id = same.unwrap_or(run.run_id);
        }
        let run = &run;
        self.tell_sealed(conn).await?;
        let is_idle = repairs(run).is_empty() && found(run, subject, run.started_at).is_empty();
        if is_idle && !stored::any(conn, subject).await? {
            return Ok(false);
        }
        let row = NotifyRow::lock(conn, subject).await?;
        // Not earlier: repairs from before the last mail about repairs count as told.
        let now = self.now(conn).await?;
        let repairs = repairs_of(run, now);
        let stored = stored::all(conn, subject).await?;
        let old = stored
            .into_iter()
            .map(|level| (level.name.clone(), level))
            .collect();
        let changes = fold(&old, run, subject, now);
        if changes.is_empty() && repairs.is_empty() {
            return Ok(false);
        }
        alerts::keep_repairs(conn, repairs).await?;
        self.write(conn, changes, &run.run_id, now).await?;
        row.raise(conn, subject).await?;
        Ok(true)
    }

    async fn write(
        &self,
        conn: &mut Conn,
        changes: Vec<Change>,
        run_id: &str,
        now: DateTime<Utc>,
    ) -> QueryResult<()> {
        let [mut seen, mut gone, mut given_up] = [const { Vec::new() }; 3];
        let mut put = Vec::new();
        for change in changes {
            match change {
                Change::Seen(name) => seen.push(name),
                Change::Put(level) => put.push(level),
                Change::Gone(name) => gone.push(name),
                Change::GiveUp(name) => given_up.push(name),
            }
        }
        let run_id = self.is_stored.then_some(run_id);
        stored::seen(conn, &seen, run_id, now).await?;
        stored::put(conn, put).await?;
        stored::delete(conn, &gone).await?;
        stored::give_up(conn, &given_up).await
    }

    async fn now(&self, conn: &mut Conn) -> QueryResult<DateTime<Utc>> {
        match self.at {
            Some(at) => Ok(at),
            None => stored::clock(conn).await,
        }
    }

    /// Puts the events of sealed drops into the outbox. Drops that were sealed before are left out:
    /// a deep pass reads their rows, but no users.
    async fn tell_sealed(&self, conn: &mut Conn) -> QueryResult<()> {
        let now = self.now(conn).await?;
        let sealed = self.run.drops.iter().filter(|drop| {
            drop.sealed && drop.after.users == drop.after.rows && drop.examined.users > 0
        });
        let events: Vec<_> = sealed.map(|drop| events::about_sealed(drop, now)).collect();
        outbox::enqueue(conn, self.settings.posts(&events, now)).await
    }
}

fn repairs_of(run: &Run, now: DateTime<Utc>) -> Vec<RepairsRow> {
    let mut rows = Vec::new();
    for ((drop, kind), number) in repairs(run) {
        rows.push(RepairsRow {
            run_id: run.run_id.clone(),
            drop_id: drop.map_or(0, |drop| drop.0),
            kind: kind.as_str().to_owned(),
            number: u32::try_from(number).unwrap_or(u32::MAX),
            repaired_at: now,
        });
    }
    rows
}
