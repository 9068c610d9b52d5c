//! Writes claims as rows: for the consumer, and for the API if Kafka does not acknowledge a claim
//! in time.

mod classify;

use std::collections::BTreeMap;

use diesel::QueryResult;
use firstcome_shared::claim::{Claim, IssuedBy};
use firstcome_shared::domain::{CouponId, DropId, Slot};
use firstcome_shared::model::DeadLetterReason;
use firstcome_shared::mysql::catalogue::rules_of_drops;
use firstcome_shared::mysql::codes::CodeKey;
use firstcome_shared::mysql::issued::{InsertOutcome, insert, of_users, on_slots};
use firstcome_shared::mysql::void::are_void;
use firstcome_shared::mysql::{Conn, DataRefusal, refusal};
use firstcome_shared::quoted::without_values;

pub(crate) use self::classify::WriteOutcome;
use self::classify::classify;

/// Inserts claims as rows, in the caller's transaction, and returns the outcome of each. In the
/// common case, one statement inserts all. If MySQL refuses it, which leaves the transaction
/// unchanged, the claims are compared with the rows of the same slots and users.
pub(crate) async fn write_rows(
    conn: &mut Conn,
    claims: &[&Claim],
    key: &CodeKey,
    by: IssuedBy,
) -> QueryResult<Vec<WriteOutcome>> {
    match insert_all(conn, claims, key, by).await {
        Err(error) if refusal(&error).is_some() => {}
        written => return written,
    }
    let mut outcomes = judged(conn, claims).await?;
    let accepted: Vec<usize> = (0..outcomes.len())
        .filter(|at| outcomes[*at] == WriteOutcome::Issued)
        .collect();
    let all: Vec<&Claim> = accepted.iter().map(|at| claims[*at]).collect();
    match insert_all(conn, &all, key, by).await {
        Ok(written) => {
            for (at, outcome) in accepted.into_iter().zip(written) {
                outcomes[at] = outcome;
            }
        }
        // Another process has written in the meantime, or MySQL refuses the data of a claim.
        Err(error) if refusal(&error).is_some() => {
            for at in accepted {
                outcomes[at] = write_one(conn, claims[at], key, by).await?;
            }
        }
        Err(error) => return Err(error),
    }
    Ok(outcomes)
}

async fn write_one(
    conn: &mut Conn,
    claim: &Claim,
    key: &CodeKey,
    by: IssuedBy,
) -> QueryResult<WriteOutcome> {
    let error = match insert_all(conn, &[claim], key, by).await {
        Err(error) => error,
        Ok(written) => return Ok(written.into_iter().next().unwrap_or(WriteOutcome::Void)),
    };
    let reason = match refusal(&error) {
        None => return Err(error),
        Some(DataRefusal::UnknownDrop) => DeadLetterReason::UnknownDrop,
        Some(DataRefusal::SlotOutOfRange) => DeadLetterReason::SlotOutOfRange,
        Some(DataRefusal::Duplicate | DataRefusal::BadData) => DeadLetterReason::BadData,
    };
    // Usually a row that another process has just written explains the refusal.
    let judged = judged(conn, &[claim]).await?.into_iter().next();
    Ok(judged
        .filter(|outcome| *outcome != WriteOutcome::Issued)
        .unwrap_or_else(|| WriteOutcome::Refused(reason, without_values(&error))))
}

async fn insert_all(
    conn: &mut Conn,
    claims: &[&Claim],
    key: &CodeKey,
    by: IssuedBy,
) -> QueryResult<Vec<WriteOutcome>> {
    let inserted = insert(conn, claims, key, by).await?;
    Ok(inserted
        .into_iter()
        .map(|outcome| match outcome {
            InsertOutcome::Issued => WriteOutcome::Issued,
            InsertOutcome::Void => WriteOutcome::Void,
            InsertOutcome::Fault(fault) => fault.into(),
        })
        .collect())
}

/// Compares claims with revocations, with the rows of the same slots and users, and with the rules
/// of their drops. `Issued` means that a claim may become a row.
async fn judged(conn: &mut Conn, claims: &[&Claim]) -> QueryResult<Vec<WriteOutcome>> {
    let void = are_void(conn, claims).await?;
    let mut slots: BTreeMap<DropId, Vec<Slot>> = BTreeMap::new();
    let mut people: BTreeMap<CouponId, Vec<&str>> = BTreeMap::new();
    for claim in claims {
        slots.entry(claim.drop_id).or_default().push(claim.slot);
        let people = people.entry(claim.coupon_id).or_default();
        people.push(claim.user_id.as_str());
    }
    let mut rows = Vec::new();
    for (drop, slots) in &slots {
        rows.extend(on_slots(conn, *drop, slots).await?);
    }
    for (coupon, people) in &people {
        rows.extend(of_users(conn, *coupon, people).await?);
    }
    let drops: Vec<DropId> = slots.into_keys().collect();
    let rules = rules_of_drops(conn, &drops).await?;
    Ok(classify(claims, &void, &rows, &rules))
}
