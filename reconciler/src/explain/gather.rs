//! Gathers everything that the stores still have about a user.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, Slot, UserId};
use firstcome_shared::model::Revocation;
use firstcome_shared::mysql::dead_letters::DeadLetterRow;
use firstcome_shared::mysql::uses::CodeUse;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::{Redis, RedisError};
use firstcome_shared::schema::reconcile_findings;

use super::verdict::{Evidence, UserFacts};
use crate::queries;
use crate::queries::runs::FindingRow;
use crate::report::{ActionKind, AlertKind, Kind, Outcome};

/// The keys of a drop that was sealed longer ago have expired.
const KEYS_KEPT: TimeDelta = TimeDelta::hours(2);

pub(super) async fn gather(
    db: &Db,
    redis: &Redis,
    coupon: &Coupon,
    drops: &[Drop],
    user: &UserId,
) -> Result<UserFacts, DbError> {
    let mut known = UserFacts::default();
    in_mysql(db, coupon, user, &mut known).await?;
    if let Err(error) = in_redis(redis, coupon, drops, user, &mut known).await {
        known.is_blind = true;
        let why = format!("Redis cannot be asked right now: {error}");
        known.no_longer_known.push(why);
    }
    // The waiting list is only in Redis.
    if coupon.waiting_list > 0
        && !known
            .standings
            .iter()
            .any(|it| it.evidence == Evidence::Waiting)
        && let Some(at) = last_loss(db, coupon.id).await?
    {
        let at = at.format("%Y-%m-%d %H:%M:%S UTC");
        known.no_longer_known.push(format!(
            "Redis may have lost data at {at}: if it lost the waiting list, \
            whoever waited lost the place and has to claim again"
        ));
    }
    Ok(known)
}

/// Maximum number of findings, and of dead letters, that are read for a user: the newest.
const READ: u32 = 1_000;

/// Reads the newest findings about a user and a coupon.
async fn findings_about(
    db: &Db,
    coupon: CouponId,
    user: &UserId,
) -> Result<Vec<FindingAbout>, DbError> {
    let about = reconcile_findings::table
        .filter(reconcile_findings::coupon_id.eq(coupon))
        .filter(reconcile_findings::user_id.eq(user.clone()))
        .order(reconcile_findings::id.desc())
        .limit(i64::from(READ))
        .select(FindingAbout::as_select());
    db.rows("findings about a person", about).await
}

/// A finding with its run and the time of its record.
#[derive(Queryable, Selectable)]
#[diesel(table_name = reconcile_findings)]
struct FindingAbout {
    run_id: String,
    created_at: DateTime<Utc>,
    #[diesel(embed)]
    finding: FindingRow,
}

/// Reads when the coupon was last opened again after a loss of Redis.
async fn last_loss(db: &Db, coupon: CouponId) -> Result<Option<DateTime<Utc>>, DbError> {
    let last = reconcile_findings::table
        .filter(reconcile_findings::coupon_id.eq(coupon))
        .filter(reconcile_findings::kind.eq(Kind::RedisLost.as_str()))
        .filter(reconcile_findings::action.eq(ActionKind::Open.as_str()))
        .filter(reconcile_findings::result.eq(Outcome::Applied.as_str()))
        .order(reconcile_findings::id.desc())
        .limit(1)
        .select(reconcile_findings::created_at);
    db.row("last loss of Redis", last).await
}

/// Reads the user's entries in MySQL.
async fn in_mysql(
    db: &Db,
    coupon: &Coupon,
    user: &UserId,
    known: &mut UserFacts,
) -> Result<(), DbError> {
    let person = db.user_record(coupon.id, user).await?;
    for found in db.uses_of_rows(&person.rows).await? {
        record_use(found.drop_id.0, found.slot, &found.order, known);
    }
    for row in person.rows {
        let drop = DropId(row.drop_id);
        let slot = row.slot;
        let by = row.issued_by;
        let claimed = format!("claimed slot {slot} of drop {drop} (as its row says)");
        let issued = format!("row in drop {drop}, slot {slot}, written by the {by}");
        let holds =
            format!("they hold slot {slot} of drop {drop}; the row was written by the {by}");
        known.happened(Some(row.claimed_at), "mysql", claimed);
        known.happened(Some(row.issued_at), "mysql", issued);
        known.stands(Evidence::Row, Some(drop), Some(slot.into()), holds);
    }
    for one in &person.revoked {
        revocation(one, known);
    }
    let findings = findings_about(db, coupon.id, user).await?;
    for about in findings.into_iter().rev() {
        known.found(&about.finding);
        let says = sentence(&about.run_id, about.finding);
        known.happened(Some(about.created_at), "reconciler", says);
    }
    let mut dead_letters =
        queries::dead_letters::dead_letters_of_user(db, coupon.id, user, READ).await?;
    dead_letters.sort_by_key(|row| row.id);
    for row in dead_letters {
        dead_letter(&row, known);
    }
    for one in person.broken {
        let drop = one.drop_id;
        let reason = one.reason;
        let run_id = one.run_id;
        let what = format!("promise of drop {drop} broken: {reason} (pass {run_id})");
        known.happened(Some(one.created_at), "reconciler", what);
        if let Some(at) = one.mended_at {
            let what = format!("promise of drop {drop} mended");
            known.happened(Some(at), "reconciler", what);
        } else {
            let sentence = format!(
                "they were promised a coupon in drop {drop}, and the promise could not be kept: \
                {reason}"
            );
            known.stands(Evidence::BrokenPromise, Some(drop), None, sentence);
        }
    }
    Ok(())
}

fn record_use(drop: i64, slot: Slot, order: &CodeUse, known: &mut UserFacts) {
    let code = format!("code of slot {slot} of drop {drop}");
    let by = format!("order {} of {}", order.reference, order.used_by);
    if order.used_at.is_some() {
        known.happened(order.used_at, "mysql", format!("{code} used by {by}"));
    }
    if order.undone_at.is_some() {
        let what = format!("use of the {code} by {by} undone");
        known.happened(order.undone_at, "mysql", what);
    }
}

fn revocation(one: &Revocation, known: &mut UserFacts) {
    let drop = DropId(one.drop_id);
    let slot = one.slot.map(i64::from);
    let by = &one.revoked_by;
    let reason = &one.reason;
    let place = slot.map_or_else(|| "no slot".to_owned(), |slot| format!("slot {slot}"));
    let what = format!("revoked: drop {drop}, {place}, by {by}: {reason}");
    known.happened(Some(one.revoked_at), "mysql", what);
    let may = if one.may_claim_again {
        "may"
    } else {
        "may not"
    };
    let sentence = format!(
        "what they had of drop {drop} was revoked by {by} ({reason}); they {may} claim again"
    );
    let evidence = match one.again_from {
        None => Evidence::Revocation,
        Some(_) => Evidence::EarlierRevocation,
    };
    known.stands(evidence, Some(drop), slot, sentence);
}

fn dead_letter(row: &DeadLetterRow, known: &mut UserFacts) {
    let id = row.id;
    let reason = &row.reason;
    let origin = match (row.partition, row.offset) {
        (Some(partition), Some(offset)) => {
            format!("written by the consumer: message at partition {partition}, offset {offset}")
        }
        _ => "not from the topic".to_owned(),
    };
    let error = row
        .error
        .as_ref()
        .map(|error| format!(": {error}"))
        .unwrap_or_default();
    let what = format!("failed claim {id} ({origin}): {reason}{error}");
    known.happened(Some(row.failed_at), "dead letter", what);
    if let Some(at) = row.resolved_at {
        let how = row.resolution.as_deref().unwrap_or("resolved");
        let more = row.resolution_detail.as_deref().unwrap_or_default();
        let what = format!("failed claim {id} dealt with: {how}; {more}");
        known.happened(Some(at), "dead letter", what);
        return;
    }
    let sentence = format!("failed claim {id} ({reason}) is open");
    let drop = row.drop_id.map(DropId);
    known.stands(Evidence::DeadLetter, drop, row.slot, sentence);
}

/// Says what a pass found about the user and did.
fn sentence(run_id: &str, row: FindingRow) -> String {
    let detail = row.detail.clone();
    let row = match row.known() {
        Ok(finding) => finding,
        // Another version wrote it.
        Err(word) => return format!("{word}: {detail} (pass {run_id})"),
    };
    let [kind, _] = AlertKind::Left(row.kind).facts().noun;
    let drop = row.drop_id.map(|drop| format!(" in drop {drop}"));
    let slot = row.slot.map(|slot| format!(", slot {slot}"));
    let place = [drop, slot].map(Option::unwrap_or_default).concat();
    let text = row.text();
    let result = row.result.as_str();
    format!("{kind}{place}: {text} (pass {run_id}: {result})")
}

/// Reads the user's slots and waiting positions in the drops that Redis may still have.
async fn in_redis(
    redis: &Redis,
    coupon: &Coupon,
    drops: &[Drop],
    user: &UserId,
    known: &mut UserFacts,
) -> Result<(), RedisError> {
    let now = Utc::now();
    let mut has_expired = false;
    for drop in drops {
        let id = drop.id;
        if drop.sealed_at.is_some_and(|at| now - at > KEYS_KEPT) {
            has_expired = true;
            continue;
        }
        let keys = redis.keys(coupon.id, id);
        let standing = redis
            .standing(&keys, coupon.once_per, coupon.era, user)
            .await?;
        if !standing.loaded && drop.sealed_at.is_some() {
            has_expired = true;
        } else if !standing.loaded && drop.opens_at <= now {
            known.is_blind = true;
            let why = format!("Redis does not have drop {id}; the reconciler rebuilds it");
            known.no_longer_known.push(why);
        }
        if let Some(slot) = standing.slot {
            let page = redis.slots(&keys, &[slot]).await?;
            let held = page.users.into_iter().find(|holder| holder.user == *user);
            let at = held.and_then(|holder| DateTime::from_timestamp_millis(holder.at_ms?));
            known.happened(at, "redis", format!("admitted to drop {id} in slot {slot}"));
            let sentence = format!("they were given slot {slot} of drop {id}; no row yet");
            known.stands(Evidence::Admission, Some(id), Some(slot.into()), sentence);
        }
        if let Some(place) = standing.position {
            let what = format!("on the waiting list of drop {id} at position {place}");
            known.happened(None, "redis", what);
            if drop.sealed_at.is_none() {
                let sentence = format!("they wait for drop {id} at position {place}");
                known.stands(Evidence::Waiting, Some(id), None, sentence);
            }
        }
    }
    if has_expired {
        let why = "Redis: the keys of sealed drops have expired: who waited for them is not known";
        known.no_longer_known.push(why.to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_letter_is_explained_with_its_offset_in_the_topic_if_it_has_one() {
        let row = |reason: &str, offset: Option<i64>| DeadLetterRow {
            id: 3,
            coupon_id: Some(1),
            drop_id: Some(7),
            slot: Some(4),
            user_id: Some("u-4".to_owned()),
            claimed_at: None,
            reason: reason.to_owned(),
            error: None,
            failed_at: DateTime::default(),
            resolved_at: None,
            resolution: None,
            resolution_detail: None,
            partition: offset.map(|_| 0),
            offset,
        };
        for (row, place) in [
            (row("by hand", None), "not from the topic"),
            (row("undecodable", Some(9)), "partition 0, offset 9"),
        ] {
            let mut known = UserFacts::default();
            dead_letter(&row, &mut known);
            assert!(known.happenings[0].what.contains(place), "{known:?}");
        }
    }
}
