//! A look that ended: folds what it saw into the levels, and stores its repairs, in one
//! transaction.

use diesel::QueryResult;
use firstcome_shared::mysql::levels::NotifyRow;
use firstcome_shared::mysql::{Conn, runs};
use firstcome_shared::report::Run;

use crate::events;
use crate::levels::{Levels, fold, found, repairs};
use crate::queries::alerts;
use crate::queries::levels as stored;
use crate::queries::outbox;
use crate::settings::MailSettings;

/// Writes what has changed since the last look. `run` has the id of the run that stores its
/// findings, if any does (`is_stored`). Returns whether anything has changed. If nothing is wrong
/// and nothing was repaired, takes no lock.
pub(crate) async fn note(
    conn: &mut Conn,
    settings: &MailSettings,
    run: &Run,
    is_stored: bool,
) -> QueryResult<bool> {
    let subject = settings.links.subject();
    let mut run = run.clone();
    if is_stored {
        // An earlier run may store the same findings; this one's row is deleted after a day.
        let same: Option<String> = runs::same_as(conn, &run.run_id).await?;
        run.run_id = same.unwrap_or(run.run_id);
    }
    let run = &run;
    tell_sealed(conn, settings, run).await?;
    let now = run.started_at;
    let is_idle = repairs(run, now).is_empty() && found(run, subject, now).is_empty();
    if is_idle && !stored::any(conn, subject).await? {
        return Ok(false);
    }
    let row = NotifyRow::lock(conn, subject).await?;
    let now = settings.now(conn).await?;
    let repairs = repairs(run, now);
    let stored = stored::all(conn, subject).await?.into_iter();
    let old: Levels = stored.map(|level| (level.name.clone(), level)).collect();
    let mut new = fold(&old, run, subject, now);
    if !is_stored {
        // The run that stored its findings before still has them.
        for (name, level) in &mut new {
            if let Some(known) = old.get(name) {
                level.run_id.clone_from(&known.run_id);
            }
        }
    }
    if new == old && repairs.is_empty() {
        return Ok(false);
    }
    alerts::keep_repairs(conn, repairs).await?;
    let gone = old.keys().filter(|name| !new.contains_key(*name));
    stored::delete(conn, &gone.cloned().collect::<Vec<_>>()).await?;
    new.retain(|name, level| old.get(name) != Some(&*level));
    stored::put(conn, new.into_values().collect()).await?;
    row.raise(conn, subject).await?;
    Ok(true)
}

/// Puts the events of sealed drops into the outbox. Drops that were sealed before are left out: a
/// deep pass reads their rows, but no users.
async fn tell_sealed(conn: &mut Conn, settings: &MailSettings, run: &Run) -> QueryResult<()> {
    let now = settings.now(conn).await?;
    let sealed = run.drops.iter().filter(|drop| {
        drop.sealed && drop.after.users == drop.after.rows && drop.examined.users > 0
    });
    let events: Vec<_> = sealed.map(|drop| events::about_sealed(drop, now)).collect();
    outbox::enqueue(conn, settings.posts(&events, now)).await
}
