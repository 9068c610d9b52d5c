//! Judges a history. Runs every check, so that one violation does not hide another.

mod allowed;
mod amount;
mod codes;
mod index;
mod promises;
mod quantities;
mod revoked;
mod rows;

use self::index::Index;
use crate::RecordedAnswer;
use crate::history::{Ended, History};
use crate::verdict::{Figures, Judgement, Verdict};
use crate::violation::Violation;

/// Judges a history.
///
/// A violation takes precedence over an unknown result. Without any promise, or without the final
/// rows of a drop, the history proves nothing.
pub fn check(history: &History) -> Judgement {
    let index = Index::new(history);
    let mut found = Vec::new();
    let ended = |is_so: fn(&Ended) -> bool| {
        let operations = history.operations.iter();
        operations.filter(|op| is_so(&op.ended)).count()
    };
    let mut figures = Figures {
        operations: history.operations.len(),
        answered: ended(|how| matches!(how, Ended::Ok(_))),
        unknown: ended(|how| *how == Ended::Unknown),
        revoked: ended(is_revoked),
        reads: history.reads.len() + history.finals.len(),
        rows: history.finals.values().map(|last| last.rows.len()).sum(),
        ..Figures::default()
    };
    promises::check(history, &index, &mut figures, &mut found);
    for read in history.reads.iter().chain(history.finals.values()) {
        rows::check(history, &index, read, &mut found);
    }
    rows::across_drops(history, &mut found);
    rows::stay(history, &index, &mut found);
    quantities::check(history, &mut found);
    amount::check(history, &index, &mut found);
    revoked::check(history, &index, &mut found);
    allowed::check(history, &index, &mut found);
    codes::check(history, &mut found);
    found.sort();
    found.dedup();
    Judgement {
        verdict: verdict(history, &figures, found),
        figures,
    }
}

fn verdict(history: &History, figures: &Figures, found: Vec<Violation>) -> Verdict {
    if !found.is_empty() {
        return Verdict::Violated(found);
    }
    if let Some(drop) = history
        .drops
        .keys()
        .find(|drop| !history.finals.contains_key(drop))
    {
        return Verdict::Unknown(format!(
            "the rows of drop {drop} at the end were not recorded"
        ));
    }
    if figures.promises == 0 {
        return Verdict::Unknown("nothing was promised to anybody, so nothing was shown".into());
    }
    Verdict::Pass
}

fn is_revoked(ended: &Ended) -> bool {
    matches!(ended, Ended::Ok(RecordedAnswer::Revoked { .. }))
}
