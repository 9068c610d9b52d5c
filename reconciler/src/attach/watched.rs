//! One file per database: a lease on the campaigns that daemons watch with it. A pass over a whole
//! file counts as the run that is due, and ends the alerts of campaigns that are not in the file.
//! Two files with one database would therefore hide each other's problems.
//!
//! Nothing in a file survives every edit, so another file is one that has *none* of the campaigns
//! that a running daemon has noted. Replicas of a daemon have all of them, and a file that was
//! edited has some; if it has none, it is refused only until the old daemon has stopped. Two files
//! that share a campaign are not distinguished.

use std::collections::BTreeMap;

use anyhow::ensure;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_attach::file::AttachFile;
use firstcome_shared::columns::seconds_from_now;
use firstcome_shared::mysql::levels::NotifyRow;
use firstcome_shared::mysql::runs::set_state;
use firstcome_shared::mysql::{Conn, Db};
use firstcome_shared::schema::reconciler_state;
use firstcome_shared::subject::Subject;

/// How long a note counts. A daemon that was killed leaves its notes; one that runs renews them
/// several times in this time. A note that lies further ahead than this is ignored: it was written
/// before the clock was set back.
const HOLDS_SECONDS: i64 = 120;

/// The campaigns of a file, by their names in `reconciler_state`.
#[derive(Debug, Clone)]
pub(super) struct Watched(BTreeMap<String, String>);

impl Watched {
    fn from_file(file: &AttachFile) -> Self {
        let names = file.names().into_iter();
        Self(
            names
                .map(|(id, name)| (format!("watched.{id}"), name))
                .collect(),
        )
    }

    /// Notes the campaigns of a daemon that starts.
    ///
    /// # Errors
    /// If a daemon with another file uses the database.
    pub(super) async fn begin(db: &Db, file: &AttachFile) -> anyhow::Result<Self> {
        let own = Self::from_file(file);
        let starting = own.clone();
        let others = db.transaction("note campaigns", async move |conn| {
            // If two daemons start at the same time, one of them finds the notes of the other.
            NotifyRow::lock(conn, Subject::Campaign).await?;
            let others = starting.others(noted(conn).await?);
            if others.is_empty() {
                for (name, campaign) in &starting.0 {
                    set_state(conn, name, campaign).await?;
                }
            }
            Ok(others)
        });
        refuse(&others.await?)?;
        Ok(own)
    }

    /// Refuses a single pass over another file than that of a running daemon.
    pub(super) async fn check(db: &Db, file: &AttachFile) -> anyhow::Result<()> {
        let noted = async |conn: &mut Conn| noted(conn).await;
        let noted = db.run("read campaigns", noted).await?;
        refuse(&Self::from_file(file).others(noted))
    }

    pub(super) async fn renew(&self, db: &Db) {
        for (name, campaign) in self.0.clone() {
            let note = async move |conn: &mut Conn| set_state(conn, &name, &campaign).await;
            if let Err(error) = db.run("note a campaign", note).await {
                tracing::debug!(%error, "what is watched is not noted; it is repeated soon");
                return;
            }
        }
    }

    /// Frees the database for another file.
    pub(super) async fn end(&self, db: &Db) {
        for name in self.0.keys() {
            let forget = diesel::delete(reconciler_state::table.find(name.clone()));
            if let Err(error) = db.write("forget a campaign", forget).await {
                tracing::debug!(%error, "another file is refused for two minutes");
                return;
            }
        }
    }

    /// Returns the noted campaigns if none of them is in this file.
    fn others(&self, noted: Vec<(String, String)>) -> Vec<String> {
        if noted.iter().any(|(name, _)| self.0.contains_key(name)) {
            return Vec::new();
        }
        noted.into_iter().map(|(_, campaign)| campaign).collect()
    }
}

/// Reads the names and campaigns of the notes that count.
async fn noted(conn: &mut Conn) -> QueryResult<Vec<(String, String)>> {
    reconciler_state::table
        .filter(reconciler_state::name.like("watched.%"))
        .filter(reconciler_state::updated_at.ge(seconds_from_now(-HOLDS_SECONDS)))
        .filter(reconciler_state::updated_at.le(seconds_from_now(HOLDS_SECONDS)))
        .order(reconciler_state::name)
        .select((reconciler_state::name, reconciler_state::value))
        .load(conn)
        .await
}

fn refuse(others: &[String]) -> anyhow::Result<()> {
    ensure!(
        others.is_empty(),
        "DATABASE_URL: a daemon with another file uses that database, for {others:?}, and each would \
        end the alerts of the other. Write a database of its own for this file (CREATE DATABASE \
        reconciler_2), or all campaigns into one file. If that daemon has been stopped, try again in \
        two minutes"
    );
    Ok(())
}
