//! Dead letters that belong to no drop of a pass: those of sealed drops are judged by MySQL alone,
//! and those that name no drop or no user, or are forged, are reported.

use std::collections::BTreeMap;

use diesel::prelude::*;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::dead_letters::DeadLetterRow;
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::schema::{drops, failed_claims};

use crate::context::{PassContext, Step};
use crate::judge::{self, LetterEnd, MysqlPage, RedisPage};
use crate::ledger::Ledger;
use crate::pass::{Compared, carry_out, moment};
use crate::queries::{self, Scope};
use crate::read::{self, CouponSeen, DropPass, DropSeen, ReadPage};
use crate::report::{Cause, Finding, Kind, Run};

/// Maximum number of letters of sealed drops that are read at once. Those of one drop are judged
/// together.
const LETTERS_AT_ONCE: i64 = 500;

/// The IDs of a coupon and of one of its drops.
pub(crate) type OfDrop = (CouponId, DropId);

/// Judges the open dead letters that belong to no drop of a pass. Adds what was done to the run,
/// also if an error ends it.
pub(crate) async fn judge_letters(ctx: &PassContext, scope: Scope, run: &mut Run) -> Step<()> {
    let mut of_drops = BTreeMap::new();
    let judged = judge_sealed_drops(ctx, scope, &mut of_drops).await;
    for ((coupon, drop), ledger) in of_drops {
        run.findings
            .extend(ledger.findings(Some(coupon), Some(drop)));
    }
    let number = judged?;
    let db = &ctx.stores.db;
    let (loose, examples) = queries::dead_letters::loose_dead_letters(db, scope).await?;
    run.unlisted.examined.failed_claims += number + loose;
    run.findings.extend(loose_letters(loose, examples));
    Ok(())
}

/// Judges the open dead letters of sealed drops that name a user, and returns their number.
async fn judge_sealed_drops(
    ctx: &PassContext,
    scope: Scope,
    of_drops: &mut BTreeMap<OfDrop, Ledger>,
) -> Step<u64> {
    let db = &ctx.stores.db;
    let mut number = 0;
    let mut after = (i64::MIN, 0);
    loop {
        let page = letters_of_sealed(db, scope, after).await?;
        let Some(((_, drop), letter)) = page.last() else {
            break;
        };
        after = (drop.0, letter.id);
        number += page.len() as u64;
        for letters in page.chunk_by(|(a, _), (b, _)| a == b) {
            let ledger = of_drops.entry(letters[0].0).or_default();
            let mut compared = Compared::default();
            let judged = judge_sealed(ctx, letters, &mut compared).await;
            ledger.append(compared.ledger);
            // The letters of other drops do not wait for these.
            if let Err(error) = judged {
                let why = ctx.about_coupon(letters[0].0.0, error).await?;
                let detail = format!("failed claims of this drop cannot be judged: {why}");
                ledger.add(Finding {
                    cause: Cause::NotCompared,
                    ..Finding::report(Kind::FailedClaim, detail)
                });
            }
        }
    }
    Ok(number)
}

/// Reads the next open letters of sealed drops that name a user, by drop and id.
async fn letters_of_sealed(
    db: &Db,
    scope: Scope,
    (after, last): (i64, i64),
) -> Result<Vec<(OfDrop, DeadLetterRow)>, DbError> {
    let names_it = failed_claims::coupon_id
        .is_null()
        .or(failed_claims::coupon_id.eq(drops::coupon_id.nullable()));
    let is_next = drops::id
        .gt(after)
        .or(drops::id.eq(after).and(failed_claims::id.gt(last)));
    let mut next = drops::table
        .inner_join(failed_claims::table.on(failed_claims::drop_id.eq(drops::id.nullable())))
        .filter(failed_claims::resolved_at.is_null())
        .filter(failed_claims::user_id.is_not_null())
        .filter(names_it)
        .filter(drops::sealed_at.is_not_null())
        .filter(is_next)
        .order((drops::id, failed_claims::id))
        .limit(LETTERS_AT_ONCE)
        .select(((drops::coupon_id, drops::id), DeadLetterRow::as_select()))
        .into_boxed();
    if let Some(coupon) = scope.coupon {
        next = next.filter(drops::coupon_id.eq(coupon));
    }
    if let Some(drop) = scope.drop {
        next = next.filter(drops::id.eq(drop));
    }
    db.rows("dead letters of sealed drops", next).await
}

/// Judges letters of a sealed drop like those of a closed one that Redis has lost, and carries out
/// what follows. A claim that only a message names gets a row only if its time, if known, fits the
/// drop's window. Nobody is promoted in a sealed drop, so nobody is owed a slot.
async fn judge_sealed(
    ctx: &PassContext,
    letters: &[(OfDrop, DeadLetterRow)],
    compared: &mut Compared,
) -> Step<()> {
    ctx.must_go_on()?;
    let Some((seen, own)) = sealed_drop(ctx, letters[0].0).await? else {
        return Ok(());
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
    };
    let Some(again) = read::again(drop, &page, true).await? else {
        return Ok(());
    };
    let mut judged = judge::judge(&moment(drop), &page.mysql, &page.redis, &again);
    for (_, end) in &mut judged.letters {
        if matches!(end, LetterEnd::Owed(_)) {
            *end = LetterEnd::Left("another user has its slot in a sealed drop");
        }
    }
    carry_out(drop, &judged, !ctx.dry_run, compared).await
}

/// Reads a sealed drop as one of which Redis has nothing.
pub(crate) async fn sealed_drop(
    ctx: &PassContext,
    (coupon, drop): OfDrop,
) -> Result<Option<(CouponSeen, DropSeen)>, DbError> {
    let Some((coupon, drops)) = ctx.stores.db.coupon(coupon).await? else {
        return Ok(None);
    };
    let Some(own) = drops.into_iter().find(|own| own.id == drop) else {
        return Ok(None);
    };
    let seen = CouponSeen {
        is_closed: true,
        ..CouponSeen::bare(coupon, Vec::new())
    };
    Ok(Some((seen, DropSeen::bare(&ctx.stores.redis, own))))
}

const NAMES_NO_DROP: &str =
    "it names no drop in which a pass could issue it, or a sealed one and no user";

/// Reports dead letters that no pass can judge: the examples one by one, the rest as a number.
fn loose_letters(number: u64, examples: Vec<DeadLetterRow>) -> Vec<Finding> {
    let more = number.saturating_sub(examples.len() as u64);
    let named = examples.into_iter().map(|letter| {
        let is_forged = letter.is_forged();
        let detail = if is_forged {
            letter.error.clone().unwrap_or_default()
        } else {
            NAMES_NO_DROP.to_owned()
        };
        let cause = if is_forged {
            Cause::Forged
        } else {
            Cause::Plain
        };
        Finding {
            cause,
            coupon_id: letter.coupon_id.map(CouponId),
            drop_id: letter.drop_id.map(DropId),
            dead_letter: Some(letter.id),
            slot: letter.slot,
            user_id: letter.user_id,
            ..Finding::report(Kind::FailedClaim, detail)
        }
    });
    let rest = (more > 0).then(|| Finding {
        cause: Cause::MoreLeft(more),
        ..Finding::report(
            Kind::FailedClaim,
            format!("{more} more failed claims name no drop of a pass"),
        )
    });
    named.chain(rest).collect()
}
