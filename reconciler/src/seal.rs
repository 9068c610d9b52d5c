//! Seals drops that are over and exact, and ends the dead letters of sealed drops by MySQL alone.
//! Nothing unseals a drop.

use std::collections::BTreeMap;

use chrono::Utc;
use firstcome_shared::StoreError;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::dead_letters::DeadLetterRow;
use firstcome_shared::mysql::row_pages::DropCount;
use firstcome_shared::mysql::{Db, DbError, list};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::expiry::sealed_for;
use firstcome_shared::redis::gate::Gate;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::project::Fenced;
use firstcome_shared::redis::reads::CouponState;
use firstcome_shared::schedule::Schedule;
use firstcome_shared::sql;

use crate::context::{PassContext, Step, Stores};
use crate::judge::{self, LetterEnd, MysqlPage, RedisPage};
use crate::ledger::Ledger;
use crate::pass::{Compared, end_claims, moment, note_rows};
use crate::read::{self, CouponSeen, DropPass, DropSeen, ReadPage};
use crate::report::{DropReport, Finding, FindingCase, Kind, Numbers, Run};
use crate::{revoke_promote, rows, settings};

/// Whether the drop has been closed for longer than any claim takes, by Redis's clock and by this
/// host's: if either is wrong, users may still be admitted.
fn is_over(ctx: &PassContext, drop: &DropSeen) -> bool {
    let now = ctx.clock_ms.min(Utc::now().timestamp_millis());
    let closed = drop.drop.closes_at.map(|at| at.timestamp_millis());
    closed.is_some_and(|at| at.saturating_add(ctx.in_flight_ms) < now)
}

/// Seals a drop if it is over, exact, and has no open dead letter. Counts its rows and revocations
/// once more under its lock. Users who are still owed a slot stay listed.
pub(crate) async fn seal(drop: DropPass<'_>, last: &Compared, ledger: &mut Ledger) -> Step<bool> {
    let DropPass { ctx, seen, own } = drop;
    let db = drop.db();
    let coupon = seen.coupon.id;
    let numbers = &last.numbers;
    let waiting = last.numbers.waiting;
    let is_exact = last.is_clean() && numbers.users == numbers.rows && numbers.in_flight == 0;
    if ctx.dry_run || !is_exact || !is_over(ctx, own) {
        return Ok(false);
    }
    let id = drop.id();
    let closes_at = own.drop.closes_at;
    let quantity = own.drop.quantity;
    let letters = db.count(DropCount::DeadLetters, &[id]).await?;
    if !letters.is_empty() {
        return Ok(false);
    }
    let left = u64::from(quantity).saturating_sub(numbers.rows);
    let of = format!("{left} of {quantity} slots left and {waiting} people waiting");
    if left > 0 && waiting > 0 && !own.drop.closed_early {
        // Promotion comes before sealing, but not in a paused coupon.
        if seen.coupon.paused {
            let detail = format!("closed while paused, with {of}: resume it, and they get them");
            ledger.add(Finding::report(Kind::Unfilled, detail));
        }
        return Ok(false);
    }
    // Note this first, so that a Redis with the note is not older than the sealing.
    let Some(fence) = seen.state.gate.fence(ctx.servers.holding(coupon)) else {
        return Ok(false);
    };
    let noted = drop.redis().note_seal(coupon, &fence, id).await?;
    if noted == Fenced::Stale {
        return Ok(false);
    }
    let revocations = db
        .count(DropCount::Revocations, &[id])
        .await?
        .get(&id)
        .copied()
        .unwrap_or(0);
    let rows = u32::try_from(numbers.rows).unwrap_or(u32::MAX);
    let sealed = db.seal_drop(id, closes_at, quantity, rows, revocations);
    if !sealed.await? {
        return Ok(false);
    }
    let coupon_id = coupon.0;
    let drop_id = id.0;
    tracing::info!(coupon_id, drop_id, rows, "the drop is exact, and sealed");
    // The next sealing repeats it, or a job at the coupon's end. The pass must report this sealing.
    if let Err(error) = expire_sealed(&ctx.stores, coupon).await {
        tracing::warn!(coupon_id, drop_id, %error, "its keys do not expire yet");
    }
    if let Err(error) = settings::forget_sealed(ctx, &seen.coupon, id, &fence).await {
        let what = "its revocations stay in Redis until it is verified again";
        tracing::warn!(coupon_id, drop_id, %error, "{what}");
    }
    if left > 0 {
        ledger.add(Finding {
            needs_person: false,
            ..Finding::report(Kind::Unfilled, format!("closed with {of}"))
        });
    }
    Ok(true)
}

/// Lets the keys of a coupon's sealed drops expire, also those that an earlier call did not reach,
/// and the coupon's own if it is over.
pub(crate) async fn expire_sealed(stores: &Stores, coupon: CouponId) -> Result<(), StoreError> {
    let Some(found) = stores.db.coupon(coupon).await? else {
        return Ok(());
    };
    let redis = &stores.redis;
    let keys = sealed_keys(redis, &found.1);
    redis.expire_drops(&keys, sealed_for()).await?;
    if is_over_for_good(&found) {
        redis.expire_coupon(coupon).await?;
    }
    Ok(())
}

/// Returns the keys of the sealed drops among these.
pub(crate) fn sealed_keys(redis: &Redis, drops: &[Drop]) -> Vec<DropKeys> {
    let sealed = drops.iter().filter(|it| it.sealed_at.is_some());
    sealed.map(|it| redis.keys(it.coupon_id, it.id)).collect()
}

/// Whether a coupon has drops, all of them sealed, and its schedule has no more of them.
pub(crate) fn is_over_for_good((coupon, drops): &(Coupon, Vec<Drop>)) -> bool {
    let is_daily = matches!(coupon.schedule, Some(Schedule::Daily { .. }));
    let goes_on = is_daily
        && coupon
            .schedule
            .as_ref()
            .is_some_and(|it: &Schedule| !it.drops_from(Utc::now()).is_empty());
    !goes_on && !drops.is_empty() && drops.iter().all(|drop| drop.sealed_at.is_some())
}

/// Judges the dead letters that belong to no drop of a pass: those of sealed drops, by MySQL alone,
/// and those that name no drop or no user. Returns their number and the findings.
pub(crate) async fn judge_letters(
    ctx: &PassContext,
    coupon: Option<CouponId>,
    drop: Option<DropId>,
) -> Step<(u64, Vec<Finding>)> {
    let db = &ctx.stores.db;
    let mut number = 0;
    let mut of_drops: BTreeMap<OfDrop, Ledger> = BTreeMap::new();
    let mut after = (i64::MIN, 0);
    loop {
        let page = letters_of_sealed(db, coupon, drop, after).await?;
        let Some(((_, drop), letter)) = page.last() else {
            break;
        };
        after = (drop.0, letter.id);
        number += page.len() as u64;
        for letters in page.chunk_by(|(a, _), (b, _)| a == b) {
            let ledger = of_drops.entry(letters[0].0).or_default();
            match judge_sealed(ctx, letters).await {
                Ok(found) => ledger.append(found),
                // The letters of other drops do not wait for these.
                Err(error) => {
                    let why = ctx.about_coupon(error).await?;
                    let detail = format!("failed claims of this drop cannot be judged: {why}");
                    ledger.add(Finding::report(Kind::FailedClaim, detail));
                }
            }
        }
    }
    let of_drops = of_drops.into_iter();
    let mut findings: Vec<Finding> = of_drops
        .flat_map(|((coupon, drop), it)| it.findings(Some(coupon), Some(drop)))
        .collect();
    let (loose, examples) = db.loose_dead_letters(coupon, drop).await?;
    findings.extend(loose_letters(loose, examples));
    Ok((number + loose, findings))
}

/// Reports the sealed drops that still owe users a slot, with these users, so that their alert
/// remains one about the drop until each promise is kept or given up.
pub(crate) async fn report_owing(
    ctx: &PassContext,
    (coupon, drop): (Option<CouponId>, Option<DropId>),
    run: &mut Run,
) -> Step<()> {
    for of_drop in sealed_that_owe(&ctx.stores.db, coupon, drop).await? {
        let Some((seen, own)) = sealed_drop(ctx, of_drop).await? else {
            continue;
        };
        let id = own.drop.id;
        let mut ledger = Ledger::default();
        let owed = revoke_promote::open_promises(ctx, &seen.coupon, id).await?;
        let numbers = Numbers {
            rows: own.drop.sealed_rows.unwrap_or(0).into(),
            broken_promises: owed.len() as u64,
            ..Numbers::default()
        };
        for owed in owed {
            let found = Finding::report(Kind::BrokenPromise, "promised, and its drop is sealed");
            ledger.add(found.naming(revoke_promote::known_slot(&owed), Some(&owed.user)));
        }
        let findings = ledger.findings(Some(seen.coupon.id), Some(id));
        let is_promise = |it: &Finding| it.kind == Kind::BrokenPromise;
        match run.drops.iter_mut().find(|it| it.drop_id == id) {
            // This pass has sealed it.
            Some(known) if known.findings.iter().any(is_promise) => {}
            Some(known) => known.findings.extend(findings),
            None if findings.is_empty() => {}
            None => run.drops.push(DropReport {
                coupon_name: seen.coupon.settings.name,
                sealed: true,
                before: numbers,
                after: numbers,
                findings,
                ..DropReport::begun(of_drop.0, id, own.drop.quantity)
            }),
        }
    }
    Ok(())
}

/// Names letters that no pass can judge, and counts the others.
fn loose_letters(number: u64, examples: Vec<(String, DeadLetterRow)>) -> Vec<Finding> {
    let more = number.saturating_sub(examples.len() as u64);
    let named = examples.into_iter().map(|(why, letter)| {
        let is_forged = letter.is_forged();
        let detail = if is_forged {
            letter.error.clone().unwrap_or_default()
        } else {
            format!("failed claim {} names {why}", letter.id)
        };
        let case = if is_forged {
            FindingCase::Forged
        } else {
            FindingCase::Plain
        };
        Finding {
            case,
            coupon_id: letter.coupon_id.map(CouponId),
            drop_id: letter.drop_id.map(DropId),
            dead_letter: Some(letter.id),
            slot: letter.slot,
            user_id: letter.user_id,
            ..Finding::report(Kind::FailedClaim, detail)
        }
    });
    let rest = (more > 0).then(|| Finding {
        case: FindingCase::MoreLeft(more),
        ..Finding::report(
            Kind::FailedClaim,
            format!("{more} more failed claims name no drop of a pass"),
        )
    });
    named.chain(rest).collect()
}

/// Maximum number of letters of sealed drops that are read at once. Those of one drop are judged
/// together.
const LETTERS_AT_ONCE: i64 = 500;

type OfDrop = (CouponId, DropId);

/// Reads the next open letters of sealed drops that name a user, by drop and id.
async fn letters_of_sealed(
    db: &Db,
    coupon: Option<CouponId>,
    drop: Option<DropId>,
    (after, last): (i64, i64),
) -> Result<Vec<(OfDrop, DeadLetterRow)>, DbError> {
    let next = sql!(
        "SELECT d.coupon_id, d.id, {f.columns} FROM drops d JOIN failed_claims f ON f.drop_id = \
        d.id AND f.resolved_at IS NULL AND f.user_id IS NOT NULL \
        AND COALESCE(f.coupon_id = d.coupon_id, TRUE) WHERE d.sealed_at IS NOT NULL \
        AND (d.id > ? OR d.id = ? AND f.id > ?) AND COALESCE(d.coupon_id = ?, TRUE) \
        AND COALESCE(d.id = ?, TRUE) ORDER BY d.id, f.id LIMIT ?",
        after,
        after,
        last,
        coupon,
        drop,
        LETTERS_AT_ONCE
    );
    db.all("dead letters of sealed drops", next).await
}

/// Reads the sealed drops with users who are still owed a slot.
async fn sealed_that_owe(
    db: &Db,
    coupon: Option<CouponId>,
    drop: Option<DropId>,
) -> Result<Vec<OfDrop>, DbError> {
    let owing = db.drops_with_broken_promises().await?;
    let sealed = sql!(
        "SELECT coupon_id, id FROM drops WHERE id IN (?) AND sealed_at IS NOT NULL",
        list(owing)
    );
    let mut sealed: Vec<OfDrop> = db.all("sealed drops that owe", sealed).await?;
    sealed.retain(|(of, id): &OfDrop| {
        coupon.is_none_or(|coupon| coupon == *of) && drop.is_none_or(|drop| drop == *id)
    });
    Ok(sealed)
}

/// Reads a sealed drop as one of which Redis has nothing.
async fn sealed_drop(
    ctx: &PassContext,
    (coupon, drop): OfDrop,
) -> Result<Option<(CouponSeen, DropSeen)>, DbError> {
    let Some((coupon, drops)) = ctx.stores.db.coupon(coupon).await? else {
        return Ok(None);
    };
    let keys = ctx.stores.redis.keys(coupon.id, drop);
    let own = drops
        .into_iter()
        .find(|own| own.id == drop)
        .map(|drop| DropSeen::bare(drop, keys));
    let seen = CouponSeen {
        coupon,
        drops: Vec::new(),
        state: CouponState::default(),
        banned: 0,
        is_closed: true,
    };
    Ok(own.map(|own| (seen, own)))
}

/// Judges letters of a sealed drop like those of a closed one that Redis has lost, and carries out
/// what follows. Only a claim that an API or an operator wrote gets a row in a drop that was
/// verified, and nobody is promoted in it, so nobody is owed a slot.
async fn judge_sealed(ctx: &PassContext, letters: &[(OfDrop, DeadLetterRow)]) -> Step<Ledger> {
    ctx.must_go_on()?;
    let Some((seen, own)) = sealed_drop(ctx, letters[0].0).await? else {
        return Ok(Ledger::default());
    };
    let drop = DropPass::new(ctx, &seen, &own);
    // A message of a sealed drop is judged by its time, like one of a closed drop.
    let mut closed = own.drop.clone();
    closed.sealed_at = None;
    let letters = letters.iter().map(|(_, row)| read::letter(row, &closed));
    let page = ReadPage {
        mysql: MysqlPage {
            rows: Vec::new(),
            letters: letters.collect(),
        },
        redis: RedisPage::default(),
        gate: Gate::default(),
        revision: 0,
    };
    let Some(again) = read::again(drop, &page, true).await? else {
        return Ok(Ledger::default());
    };
    let mut judged = judge::judge(&moment(drop), &page.mysql, &page.redis, &again);
    for (_, end) in &mut judged.letters {
        if matches!(end, LetterEnd::Owed { .. }) {
            *end = LetterEnd::Left("another user has its slot in a sealed drop");
        }
    }
    let mut compared = Compared::default();
    let letters = &page.mysql.letters;
    let may_write = !ctx.dry_run;
    end_claims(drop, letters, &judged, may_write, &mut compared).await?;
    let due = may_write.then_some(&*judged.rows);
    let ends = rows::insert_rows(drop, due.unwrap_or(&[])).await?;
    note_rows(&judged.rows, ends, &mut compared);
    Ok(compared.ledger)
}
