//! One file per database. A pass over a whole file counts as the run that is due, and ends the
//! alerts of campaigns that are not in the file. Two files with one database would therefore hide
//! each other's problems.
//!
//! Nothing in a file survives every edit, so another file is one that has *none* of the campaigns
//! that running daemons announce. Replicas of a daemon have all of them, and a file that was edited
//! has some; if it has none, it is refused only until the old daemon has stopped. Two files that
//! share a campaign are not distinguished.

use std::collections::BTreeSet;

use anyhow::ensure;
use firstcome_attach::file::AttachFile;
use firstcome_shared::mysql::processes::fresh;
use firstcome_shared::mysql::{Conn, Db, levels};
use firstcome_shared::subject::Subject;

/// Refuses another file than that of the running daemons.
pub(super) async fn must_be_theirs(db: &Db, file: &AttachFile) -> anyhow::Result<()> {
    let read = async |conn: &mut Conn| {
        let now = levels::clock(conn).await?;
        fresh(conn, Subject::Campaign, now).await
    };
    let daemons = db.run("read the campaigns of daemons", read).await?;
    let announced = daemons.into_iter().flat_map(|it| it.state.campaigns);
    let others: BTreeSet<String> = announced.collect();
    ensure!(
        others.is_empty() || file.names().values().any(|name| others.contains(name)),
        "DATABASE_URL: a daemon with another file uses that database, for {others:?}, and each would \
        end the alerts of the other. Write a database of its own for this file (CREATE DATABASE \
        reconciler_2), or all campaigns into one file. If that daemon has been killed, try again in \
        half a minute"
    );
    Ok(())
}
