//! Checks the answers about each code: an order of its requests that respects time must explain
//! them, and the uses that are stored at the end, under the rules of docs/decisions/0043-using.md.

use std::collections::HashSet;
use std::fmt::Write as _;

use crate::event::CodeAnswer;
use crate::history::{CodeRequest, History, RecordedCode, StoredUses};
use crate::violation::{Rule, Violation};

pub(super) fn check(history: &History, found: &mut Vec<Violation>) {
    let wrong = history.codes.iter().filter(|(_, code)| !is_possible(code));
    found.extend(wrong.map(|(name, code)| {
        let why = format!("{name}, {:?} in MySQL:{}", code.stored, listed(code));
        Violation::new(Rule::CodeContradiction, 0, 0, "").because(why)
    }));
}

impl StoredUses {
    fn is_used_by_another(&self, reference: &str) -> bool {
        self.in_use.as_deref().is_some_and(|user| user != reference)
    }

    /// Returns the state after the request is executed. `None` if it is refused.
    fn after(&self, request: &CodeRequest) -> Option<Self> {
        let reference = &request.reference;
        let mut next = self.clone();
        if request.undo {
            next.undone.insert(reference.clone());
            next.in_use.take_if(|user| user == reference);
        } else if self.undone.contains(reference) || self.is_used_by_another(reference) {
            return None;
        } else {
            next.in_use = Some(reference.clone());
        }
        Some(next)
    }

    /// Returns the state after the request if its answer is right.
    fn explained(&self, request: &CodeRequest, has_row: bool) -> Option<Self> {
        let reference = &request.reference;
        let is_used_by_another = self.is_used_by_another(reference);
        let is_undone = self.undone.contains(reference);
        let unchanged = |is_right: bool| is_right.then(|| self.clone());
        match (request.ended?.answer, request.undo) {
            // An undo may get this answer even if another order begins to use the code meanwhile.
            (CodeAnswer::Done, _) => self.after(request),
            (CodeAnswer::Used, false) => unchanged(is_used_by_another && !is_undone),
            (CodeAnswer::Undone, false) => unchanged(is_undone),
            (CodeAnswer::Used, true) if is_used_by_another => self.after(request),
            (CodeAnswer::Used | CodeAnswer::Undone, true) => None,
            // A coupon that a shop uses is not revoked.
            (CodeAnswer::Revoked, _) => unchanged(self.in_use.is_none()),
            // The shop read the code from its row. If the row is still there, it always was.
            (CodeAnswer::NoSuchCode, _) => unchanged(!has_row),
        }
    }
}

/// Whether an order of the requests explains all answers and the stored uses.
fn is_possible(code: &RecordedCode) -> bool {
    // A request without an answer may be executed at any time after it began, or never. A second
    // execution changes nothing, so the search does not record which of them were executed: the
    // state is enough. Recording them would double the search with each such request.
    let requests = code.requests.iter();
    let (answered, lost): (Vec<&CodeRequest>, Vec<&CodeRequest>) =
        requests.partition(|request| request.ended.is_some());
    let all = (1_u128 << answered.len()) - 1;
    let mut seen: HashSet<(u128, StoredUses)> = HashSet::new();
    let mut open = vec![(0_u128, StoredUses::default())];
    while let Some((done, state)) = open.pop() {
        if !seen.insert((done, state.clone())) {
            continue;
        }
        if done == all && code.stored.as_ref().is_none_or(|stored| *stored == state) {
            return true;
        }
        let left = || {
            let places = 0..answered.len();
            places.filter(|place| done & (1 << place) == 0)
        };
        // An answered request was executed before its answer.
        let ends = left().filter_map(|place| answered[place].ended);
        let until = ends.map(|ended| ended.line).min();
        let may_be_done = |request: &CodeRequest| until.is_none_or(|until| request.line <= until);
        for place in left().filter(|place| may_be_done(answered[*place])) {
            let state = state.explained(answered[place], code.stored.is_some());
            open.extend(state.map(|state| (done | (1 << place), state)));
        }
        let lost = lost.iter().filter(|request| may_be_done(request));
        open.extend(lost.filter_map(|request| Some((done, state.after(request)?))));
    }
    false
}

/// Lists the requests about a code, with the lines at which they begin and end.
fn listed(code: &RecordedCode) -> String {
    let mut text = String::new();
    for request in &code.requests {
        let kind = if request.undo { "undo" } else { "use" };
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n      line {} {kind} {} {:?}",
            request.line, request.reference, request.ended
        );
    }
    text
}
