//! Derives the current state from the known facts. Pure functions only.

use firstcome_shared::domain::DropId;
use firstcome_shared::http::views::Holds;
use firstcome_shared::mysql::issued::IssuedRow;
use firstcome_shared::mysql::revoked::Revocation;

use super::gather::PersonFacts;

type PersonVerdict = (Holds, String, Option<DropId>, Option<i64>);

/// The scope of a question about a user.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Question {
    /// The requested drop, if any.
    pub(super) drop: Option<DropId>,
    /// The drop that opened last.
    pub(super) last: Option<DropId>,
    /// Whether the coupon allows one per user in total. A row in any drop then determines the
    /// answer.
    pub(super) whole_coupon: bool,
}

/// Derives the verdict. If users may have one coupon in each drop, a row in an earlier drop does
/// not determine the state in a later one. The verdict is then about the requested drop or, by
/// default, the last drop in which the user is known.
#[allow(clippy::too_many_lines, reason = "one arm a verdict")]
pub(super) fn verdict(known: &PersonFacts, question: Question) -> PersonVerdict {
    let about = if question.whole_coupon {
        question.drop
    } else {
        question.drop.or(latest(known))
    };
    let is_it = |drop: DropId| about.is_none_or(|about| about == drop);
    let waiting = known
        .waiting
        .iter()
        .rfind(|(drop, _)| is_it(*drop))
        .copied();
    if let Some(row) = known
        .rows
        .iter()
        .rfind(|row| question.whole_coupon || is_it(DropId(row.drop_id)))
    {
        return issued(row, question);
    }
    let revoked = known
        .revoked
        .iter()
        .rfind(|one| question.whole_coupon || is_it(DropId(one.drop_id)));
    if let Some(open) = revoked.filter(|one| one.again_from.is_none()) {
        return revoked_one(open);
    }
    if let Some((drop, reason)) = known.broken.iter().rfind(|(drop, _)| is_it(*drop)) {
        let waits = waiting
            .map(|(_, place)| format!("; they are at position {place} of the waiting list"))
            .unwrap_or_default();
        let sentence = format!(
            "they were promised a coupon in drop {drop}, and the promise could not be kept: {reason}{waits}"
        );
        return (Holds::Broken, sentence, Some(*drop), None);
    }
    if let Some((drop, slot)) = known
        .admitted
        .iter()
        .rfind(|(drop, _)| is_it(*drop))
        .copied()
    {
        let way = match &known.not_repaired {
            None => {
                "no row yet: the consumer or the next pass of the reconciler writes it".to_owned()
            }
            Some(why) => {
                format!(
                    "no row yet, and the last pass could not write it: {why}; see docs/OPERATIONS.md#unissued"
                )
            }
        };
        return (
            Holds::Accepted,
            format!("they were given slot {slot} of drop {drop}; {way}"),
            Some(drop),
            Some(slot),
        );
    }
    if let Some(failed) = known
        .unresolved
        .iter()
        .rfind(|letter| letter.drop_id.is_none_or(|drop| is_it(DropId(drop))))
    {
        let outcome = match &known.not_repaired {
            None => "the next pass resolves it, or says why it cannot".to_owned(),
            Some(why) => format!("the last pass could not resolve it: {why}"),
        };
        let sentence = format!(
            "failed claim {} ({}) is open: {outcome}; see docs/OPERATIONS.md#failed_claim",
            failed.id, failed.reason
        );
        return (
            Holds::Failed,
            sentence,
            failed.drop_id.map(DropId),
            failed.slot,
        );
    }
    if let Some((drop, place)) = waiting {
        return (
            Holds::Waiting,
            format!("they wait for drop {drop} at position {place}"),
            Some(drop),
            None,
        );
    }
    if let Some(revoked) = revoked {
        return revoked_one(revoked);
    }
    if known.blind {
        let sentence =
            "no row is known, but not everything could be asked; ask again when it can".to_owned();
        return (Holds::Unknown, sentence, None, None);
    }
    let sentence = if let Some(drop) = question.drop {
        format!("nothing of theirs is known in drop {drop}")
    } else if known.happenings.is_empty() {
        "no claim of theirs is known".to_owned()
    } else {
        "they hold nothing of this coupon".to_owned()
    };
    (Holds::None, sentence, None, None)
}

fn revoked_one(one: &Revocation) -> PersonVerdict {
    let again = if one.may_claim_again {
        "may claim again"
    } else {
        "may not claim again"
    };
    let Revocation {
        drop_id,
        reason,
        revoked_by,
        ..
    } = one;
    let sentence = format!(
        "what they had of drop {drop_id} was revoked by {revoked_by} ({reason}); they {again}"
    );
    (
        Holds::Revoked,
        sentence,
        Some(DropId(*drop_id)),
        one.slot.map(i64::from),
    )
}

/// Returns the last drop in which the user is known.
fn latest(known: &PersonFacts) -> Option<DropId> {
    let drops = known
        .rows
        .iter()
        .map(|row| DropId(row.drop_id))
        .chain(known.admitted.iter().map(|(drop, _)| *drop));
    let drops = drops
        .chain(known.waiting.iter().map(|(drop, _)| *drop))
        .chain(known.broken.iter().map(|(drop, _)| *drop));
    let drops = drops.chain(known.revoked.iter().map(|one| DropId(one.drop_id)));
    drops
        .chain(
            known
                .unresolved
                .iter()
                .filter_map(|letter| letter.drop_id.map(DropId)),
        )
        .max()
}

fn issued(row: &IssuedRow, question: Question) -> PersonVerdict {
    let drop = DropId(row.drop_id);
    let slot = i64::from(row.slot);
    let mut sentence = format!(
        "they hold slot {slot} of drop {drop}; the row was written by the {}",
        row.issued_by
    );
    if let Some(last) = question
        .last
        .filter(|last| !question.whole_coupon && question.drop.is_none() && *last > drop)
    {
        sentence =
            format!("{sentence}; nothing of theirs is known in drop {last}, which opened last");
    }
    (Holds::Issued, sentence, Some(drop), Some(slot))
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDateTime;

    use super::*;

    #[test]
    fn unreachable_store_is_never_treated_as_empty() {
        let word = |known: PersonFacts| verdict(&known, Question::default()).0;
        assert_eq!(word(PersonFacts::default()), Holds::None);
        assert_eq!(
            word(PersonFacts {
                blind: true,
                ..PersonFacts::default()
            }),
            Holds::Unknown
        );
        let admitted = vec![(DropId(1), 7)];
        assert_eq!(
            word(PersonFacts {
                admitted: admitted.clone(),
                ..PersonFacts::default()
            }),
            Holds::Accepted
        );
        assert_eq!(
            word(PersonFacts {
                admitted,
                blind: true,
                ..PersonFacts::default()
            }),
            Holds::Accepted
        );
        let broken = vec![(DropId(1), "no slot was left".to_owned())];
        assert_eq!(
            word(PersonFacts {
                broken,
                waiting: vec![(DropId(1), 1)],
                ..PersonFacts::default()
            }),
            Holds::Broken
        );
        assert_eq!(
            word(PersonFacts {
                waiting: vec![(DropId(1), 3)],
                ..PersonFacts::default()
            }),
            Holds::Waiting
        );
    }

    #[test]
    fn verdict_does_not_promise_a_row_that_the_last_pass_failed_to_write() {
        let admitted = PersonFacts {
            admitted: vec![(DropId(1), 4)],
            ..PersonFacts::default()
        };
        let sentence = |known: &PersonFacts| verdict(known, Question::default()).1;
        assert!(sentence(&admitted).contains("the next pass of the reconciler writes it"));
        let why = "MySQL refused the row: the table `slot_limits` has no limit of this drop";
        let refused = PersonFacts {
            not_repaired: Some(why.to_owned()),
            ..admitted
        };
        assert!(
            sentence(&refused).contains(why) && !sentence(&refused).contains("next pass"),
            "{}",
            sentence(&refused)
        );
    }

    #[test]
    fn row_of_an_earlier_drop_counts_only_if_users_may_claim_once_per_coupon() {
        let row = IssuedRow {
            drop_id: 1,
            slot: 7,
            coupon_id: 1,
            user_id: "u-7".into(),
            code: String::new(),
            claimed_at: NaiveDateTime::default(),
            issued_at: NaiveDateTime::default(),
            issued_by: "consumer".into(),
        };
        let known = PersonFacts {
            rows: vec![row],
            admitted: vec![(DropId(1), 7), (DropId(2), 3)],
            ..PersonFacts::default()
        };
        let answer = |known: &PersonFacts, question: Question| {
            let (holds, sentence, drop, _) = verdict(known, question);
            (
                holds,
                drop.map(|drop| drop.0),
                sentence.contains("opened last"),
            )
        };
        let yesterday = PersonFacts {
            admitted: Vec::new(),
            rows: known.rows.clone(),
            ..PersonFacts::default()
        };
        let last = Some(DropId(2));
        let any = Question {
            last,
            ..Question::default()
        };
        let of = |drop| Question {
            drop: Some(DropId(drop)),
            ..Question::default()
        };
        assert_eq!(answer(&known, any), (Holds::Accepted, Some(2), false));
        assert_eq!(answer(&known, of(1)), (Holds::Issued, Some(1), false));
        assert_eq!(
            answer(
                &known,
                Question {
                    whole_coupon: true,
                    ..any
                }
            ),
            (Holds::Issued, Some(1), false)
        );
        assert_eq!(answer(&yesterday, any), (Holds::Issued, Some(1), true));
        assert_eq!(answer(&yesterday, of(2)), (Holds::None, None, false));
    }
}
