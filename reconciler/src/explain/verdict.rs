//! What holds now, out of what is known. Pure.

use firstcome_shared::domain::DropId;

use super::Holds;
use super::gather::Known;

type Verdict = (Holds, String, Option<DropId>, Option<i64>);

pub(super) fn verdict(known: &Known) -> Verdict {
    if let Some(row) = known.rows.last() {
        let (drop, slot) = (DropId(row.drop_id), i64::from(row.slot));
        let sentence = format!("they hold slot {slot} of drop {drop}; the row was written by the {}", row.issued_by);
        return (Holds::Issued, sentence, Some(drop), Some(slot));
    }
    if let Some((drop, reason)) = &known.broken {
        let waits = known
            .waiting
            .map(|(_, place)| format!("; they are at position {place} of the waiting list"))
            .unwrap_or_default();
        let sentence = format!("they were told yes for drop {drop} and it could not be kept: {reason}{waits}");
        return (Holds::Broken, sentence, Some(*drop), None);
    }
    if let Some((drop, slot)) = known.admitted {
        let way = if known.unread_messages > 0 {
            "its message waits for the consumer"
        } else {
            "no row yet and no unread message: the next pass of the reconciler writes the row"
        };
        return (Holds::Accepted, format!("they were given slot {slot} of drop {drop}; {way}"), Some(drop), Some(slot));
    }
    if let Some(failed) = known.unresolved.last() {
        let sentence = format!(
            "failed claim {} ({}) is not dealt with; if the next pass leaves it, a person must decide (see docs/OPERATIONS.md)",
            failed.id, failed.reason
        );
        return (Holds::Failed, sentence, failed.drop_id.map(DropId), failed.slot);
    }
    if let Some((drop, place)) = known.waiting {
        return (Holds::Waiting, format!("they wait for drop {drop} at position {place}"), Some(drop), None);
    }
    if known.blind {
        let sentence = "no row is known, but not everything could be asked; ask again when it can".to_owned();
        return (Holds::Unknown, sentence, None, None);
    }
    let sentence = if known.happenings.is_empty() {
        "no claim of theirs is known".to_owned()
    } else {
        "they hold nothing of this coupon".to_owned()
    };
    (Holds::None, sentence, None, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_asked_is_never_taken_for_nothing() {
        let word = |known: Known| verdict(&known).0;
        assert_eq!(word(Known::default()), Holds::None);
        assert_eq!(word(Known { blind: true, ..Known::default() }), Holds::Unknown);
        let admitted = Some((DropId(1), 7));
        assert_eq!(word(Known { admitted, ..Known::default() }), Holds::Accepted);
        assert_eq!(word(Known { admitted, blind: true, ..Known::default() }), Holds::Accepted);
        let broken = Some((DropId(1), "no slot was left".to_owned()));
        assert_eq!(word(Known { broken, waiting: Some((DropId(1), 1)), ..Known::default() }), Holds::Broken);
        assert_eq!(word(Known { waiting: Some((DropId(1), 3)), ..Known::default() }), Holds::Waiting);
    }
}
