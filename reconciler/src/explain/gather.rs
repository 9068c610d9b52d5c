//! Gathers everything that the stores still have about a user.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{DropId, UserId};
use firstcome_shared::http::views::Happening;
use firstcome_shared::mysql::dead_letters::DeadLetterRow;
use firstcome_shared::mysql::issued::IssuedRow;
use firstcome_shared::mysql::promises::BrokenPromiseRow;
use firstcome_shared::mysql::revoked::Revocation;
use firstcome_shared::mysql::runs::FindingRow;
use firstcome_shared::redis::RedisError;
use firstcome_shared::trace::TraceContext;

use super::OnSlot;
use crate::report::Outcome;
use crate::stores::Stores;

/// The known facts about a user.
#[derive(Debug, Default)]
pub(super) struct PersonFacts {
    pub(super) happenings: Vec<Happening>,
    pub(super) no_longer_known: Vec<String>,
    pub(super) rows: Vec<IssuedRow>,
    /// From Redis: drop and slot.
    pub(super) admitted: Vec<(DropId, i64)>,
    /// From Redis: drop and position on the waiting list.
    pub(super) waiting: Vec<(DropId, i64)>,
    pub(super) unresolved: Vec<DeadLetterRow>,
    /// Broken promises that are not mended: drop and reason.
    pub(super) broken: Vec<(DropId, String)>,
    /// Revocations, oldest first.
    pub(super) revoked: Vec<Revocation>,
    /// Why the last repair for the user was not made, if it was not.
    pub(super) not_repaired: Option<String>,
    /// Whether a store could not be read.
    pub(super) blind: bool,
    /// Traces of the user's claims, without duplicates.
    pub(super) traces: Vec<String>,
}

impl PersonFacts {
    /// Records a trace, and returns the part of a sentence that mentions it.
    fn trace(&mut self, trace: Option<TraceContext>) -> String {
        let Some(id) = trace.map(|trace| trace.trace_id.to_string()) else {
            return String::new();
        };
        let told = format!("; trace {id}");
        if !self.traces.contains(&id) {
            self.traces.push(id);
        }
        told
    }

    fn tell(&mut self, at: Option<DateTime<Utc>>, source: &'static str, what: String) {
        self.happenings.push(Happening {
            at,
            source: source.to_owned(),
            what,
        });
    }
}

/// Returns every user who has a row, an admission in Redis or a dead letter for a slot of a drop.
pub(super) async fn people_on(
    stores: &Stores,
    coupon: &Coupon,
    drop: DropId,
    slot: i64,
) -> anyhow::Result<OnSlot> {
    let mut people = BTreeSet::new();
    if let Ok(slot) = slot.try_into() {
        people.extend(
            stores
                .db
                .row_on_slot(drop, slot)
                .await?
                .map(|row| UserId::from_store(row.user_id)),
        );
    }
    people.extend(stores.db.people_of_dead_letters_on(drop, slot).await?);
    let in_redis = stores
        .redis
        .page(&stores.redis.keys(coupon.id, drop), slot, Some(slot))
        .await;
    let not_asked = match in_redis {
        Ok(page) => {
            people.extend(page.users.into_iter().map(|holder| holder.user));
            None
        }
        Err(error) => Some(error),
    };
    Ok(OnSlot {
        drop,
        people,
        not_asked,
    })
}

pub(super) async fn gather(
    stores: &Stores,
    coupon: &Coupon,
    drops: &[Drop],
    user: &UserId,
) -> anyhow::Result<PersonFacts> {
    let mut known = PersonFacts::default();
    mysql(stores, coupon, user, &mut known).await?;
    if let Err(error) = redis(stores, coupon, drops, user, &mut known).await {
        known.blind = true;
        known
            .no_longer_known
            .push(format!("Redis cannot be asked right now: {error}"));
    }
    Ok(known)
}

async fn redis(
    stores: &Stores,
    coupon: &Coupon,
    drops: &[Drop],
    user: &UserId,
    known: &mut PersonFacts,
) -> Result<(), RedisError> {
    for drop in drops {
        let keys = stores.redis.keys(coupon.id, drop.id);
        let standing = stores.redis.standing(&keys, coupon.era, user).await?;
        if !standing.loaded && drop.sealed_at.is_some() {
            known.no_longer_known.push(format!(
                "Redis: the keys of drop {} have expired, since it is sealed",
                drop.id
            ));
        } else if !standing.loaded && drop.opens_at <= Utc::now() {
            known.blind = true;
            known.no_longer_known.push(format!(
                "Redis does not have drop {}; the reconciler rebuilds it",
                drop.id
            ));
        }
        if let Some(slot) = standing.slot {
            let page = stores.redis.slots(&keys, &[slot]).await?;
            let held = page.users.into_iter().find(|holder| holder.user == *user);
            let at = held.and_then(|holder| DateTime::from_timestamp_millis(holder.at_ms?));
            known.tell(
                at,
                "redis",
                format!("admitted to drop {} in slot {slot}", drop.id),
            );
            known.admitted.push((drop.id, i64::from(slot)));
        }
        if let Some(place) = standing.position {
            known.tell(
                None,
                "redis",
                format!(
                    "on the waiting list of drop {} at position {place}",
                    drop.id
                ),
            );
            known.waiting.push((drop.id, i64::from(place)));
        }
    }
    Ok(())
}

async fn mysql(
    stores: &Stores,
    coupon: &Coupon,
    user: &UserId,
    known: &mut PersonFacts,
) -> anyhow::Result<()> {
    let people = std::slice::from_ref(user);
    known.rows = stores.db.rows_of_people(coupon.id, people).await?;
    for row in known.rows.clone() {
        let trace = known.trace(
            stores
                .db
                .trace_on_slot(DropId(row.drop_id), row.slot)
                .await?,
        );
        let what = format!(
            "row in drop {}, slot {}, written by the {}{trace}",
            row.drop_id, row.slot, row.issued_by
        );
        known.tell(
            Some(row.claimed_at.and_utc()),
            "mysql",
            format!(
                "claimed slot {} of drop {} (as its row says)",
                row.slot, row.drop_id
            ),
        );
        known.tell(Some(row.issued_at.and_utc()), "mysql", what);
    }
    known.revoked = stores.db.revocations_of_people(coupon.id, people).await?;
    for one in known.revoked.clone() {
        let slot = one
            .slot
            .map_or_else(|| "no slot".to_owned(), |slot| format!("slot {slot}"));
        let what = format!(
            "revoked: drop {}, {slot}, by {}: {}",
            one.drop_id, one.revoked_by, one.reason
        );
        known.tell(Some(one.revoked_at.and_utc()), "mysql", what);
    }
    for row in stores.db.dead_letters_of_person(coupon.id, user).await? {
        tell_dead_letter(&row, known);
        if row.resolved_at.is_none() {
            known.unresolved.push(row);
        }
    }
    let findings = stores.db.findings_about(coupon.id, user).await?;
    known.not_repaired = findings.last().and_then(|(last, _)| not_repaired(last));
    for (at, what) in passes_together(findings) {
        known.tell(Some(at), "reconciler", what);
    }
    broken(stores, coupon, user, known).await
}

/// Returns why the repair of a user's last finding was not made. This includes findings that need
/// an operator.
fn not_repaired(last: &FindingRow) -> Option<String> {
    let is_left = last.result == Outcome::Failed.as_str() || last.needs_person;
    last.detail.clone().filter(|_| is_left)
}

fn tell_dead_letter(row: &DeadLetterRow, known: &mut PersonFacts) {
    let place = match (row.source_partition, row.source_offset) {
        (Some(partition), Some(offset)) => {
            format!("message at partition {partition}, offset {offset}")
        }
        _ => "inserted manually".to_owned(),
    };
    let why = row
        .error
        .as_deref()
        .map(|error| format!(": {error}"))
        .unwrap_or_default();
    let trace = known.trace(
        row.traceparent
            .as_ref()
            .and_then(|text| TraceContext::parse(text.as_bytes())),
    );
    known.tell(
        Some(row.failed_at.and_utc()),
        "backup",
        format!(
            "failed claim {} ({place}): {}{why}{trace}",
            row.id, row.reason
        ),
    );
    if let Some(at) = row.resolved_at {
        let how = row.resolution.as_deref().unwrap_or("resolved");
        let more = row.resolution_detail.as_deref().unwrap_or_default();
        known.tell(
            Some(at.and_utc()),
            "backup",
            format!("failed claim {} dealt with: {how}; {more}", row.id),
        );
    }
}

/// Returns one sentence per finding, with the time of its first occurrence. Consecutive passes with
/// the same finding share a sentence.
fn passes_together(rows: Vec<(FindingRow, NaiveDateTime)>) -> Vec<(DateTime<Utc>, String)> {
    struct Same {
        what: String,
        run: String,
        first: DateTime<Utc>,
        last: DateTime<Utc>,
        passes: u32,
    }
    let mut sentences: Vec<Same> = Vec::new();
    for (row, at) in rows {
        let FindingRow {
            run_id: run,
            kind,
            action,
            result,
            ..
        } = row;
        let place = row
            .drop_id
            .map(|d| format!(" in drop {d}"))
            .unwrap_or_default();
        let slot = row.slot.map(|s| format!(", slot {s}")).unwrap_or_default();
        // If a finding is only reported, its result is not worth mentioning.
        let done = if (action.as_str(), result.as_str()) == ("report", "skipped") {
            String::new()
        } else {
            format!("{action} {result}: ")
        };
        let what = format!(
            "{kind}{place}{slot}: {done}{}",
            row.detail.unwrap_or_default()
        );
        let at = at.and_utc();
        match sentences.last_mut().filter(|same| same.what == what) {
            Some(same) => {
                same.last = at;
                same.passes += 1;
            }
            None => sentences.push(Same {
                what,
                run,
                first: at,
                last: at,
                passes: 1,
            }),
        }
    }
    let sentence = |same: Same| match same.passes {
        1 => (same.first, format!("{} (pass {})", same.what, same.run)),
        passes => {
            let last = same.last.format("%Y-%m-%d %H:%M:%S");
            (
                same.first,
                format!(
                    "{} ({passes} passes until {last}, the first {})",
                    same.what, same.run
                ),
            )
        }
    };
    sentences.into_iter().map(sentence).collect()
}

async fn broken(
    stores: &Stores,
    coupon: &Coupon,
    user: &UserId,
    known: &mut PersonFacts,
) -> anyhow::Result<()> {
    for promise in stores.db.broken_promises_of(coupon.id, user).await? {
        let BrokenPromiseRow {
            drop_id: drop,
            reason,
            run_id: run,
            created_at: at,
            mended_at: mended,
        } = promise;
        known.tell(
            Some(at.and_utc()),
            "reconciler",
            format!("promise of drop {drop} broken: {reason} (pass {run})"),
        );
        match mended {
            Some(at) => {
                known.tell(
                    Some(at.and_utc()),
                    "reconciler",
                    format!("promise of drop {drop} mended"),
                );
            }
            None => known.broken.push((DropId(drop), reason)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consecutive_passes_with_the_same_finding_share_a_sentence() {
        let at = |minute: u32| {
            DateTime::from_timestamp(i64::from(minute) * 60, 0)
                .unwrap()
                .naive_utc()
        };
        let row = |run: &str, result: &str, minute| {
            let [run_id, kind, action, result] =
                [run, "failed_claim", "report", result].map(str::to_owned);
            let drop_id = Some(7);
            let slot = Some(1_100);
            let detail = Some("no such slot".to_owned());
            let coupon_id = Some(1);
            let user_id = None;
            let needs_person = true;
            let dead_letter = None;
            let row = FindingRow {
                run_id,
                coupon_id,
                drop_id,
                kind,
                slot,
                user_id,
                action,
                result,
                detail,
                needs_person,
                dead_letter,
            };
            (row, at(minute))
        };
        let rows = vec![
            row("a", "skipped", 1),
            row("b", "skipped", 2),
            row("c", "skipped", 3),
            row("d", "applied", 4),
        ];
        let told = passes_together(rows);
        let said: Vec<&str> = told.iter().map(|(_, what)| what.as_str()).collect();
        assert_eq!(
            said,
            [
                "failed_claim in drop 7, slot 1100: no such slot (3 passes until 1970-01-01 00:03:00, the first a)",
                "failed_claim in drop 7, slot 1100: report applied: no such slot (pass d)",
            ]
        );
        assert_eq!(told[0].0, at(1).and_utc());
    }
}
