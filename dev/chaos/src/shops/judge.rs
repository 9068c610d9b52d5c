//! Decides whether the answers about one code are linearizable: whether an order of the requests
//! that respects time explains them under the rules of docs/decisions/0043-using.md.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::time::Instant;

use firstcome_harness::histories::CodeAnswer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestKind {
    Use,
    Undo,
}

/// A request about a code.
#[derive(Debug, Clone)]
pub(super) struct CodeRequest {
    pub(super) kind: RequestKind,
    pub(super) reference: String,
    /// The earliest time at which it could arrive.
    pub(super) begun: Instant,
    pub(super) ended: Instant,
    /// `None` if no answer came, or if the answer does not tell whether the request was executed.
    pub(super) answer: Option<CodeAnswer>,
}

/// The uses of a code: the state of the model, and what MySQL has at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct StoredUses {
    pub(super) in_use: Option<String>,
    pub(super) undone: BTreeSet<String>,
}

impl StoredUses {
    fn is_used_by_another(&self, reference: &str) -> bool {
        self.in_use.as_deref().is_some_and(|user| user != reference)
    }

    /// Returns the state after the request is executed. `None` if the rules do not allow that.
    fn after(&self, request: &CodeRequest) -> Option<Self> {
        let reference = &request.reference;
        let mut next = self.clone();
        match request.kind {
            RequestKind::Use if self.undone.contains(reference) => return None,
            RequestKind::Use if self.is_used_by_another(reference) => return None,
            RequestKind::Use => next.in_use = Some(reference.clone()),
            RequestKind::Undo => {
                next.undone.insert(reference.clone());
                next.in_use.take_if(|user| user == reference);
            }
        }
        Some(next)
    }

    /// Returns the state after a request that got an answer, or none if this state does not explain
    /// the answer. `has_row` tells whether the code has a row at the end.
    fn explained(&self, request: &CodeRequest, has_row: bool) -> Vec<Self> {
        let reference = &request.reference;
        let is_undone = self.undone.contains(reference);
        let is_used_by_another = self.is_used_by_another(reference);
        let unchanged = |is_right: bool| is_right.then(|| self.clone()).into_iter().collect();
        match (request.kind, request.answer) {
            // An undo may get this answer even if another order begins to use the code meanwhile.
            (_, Some(CodeAnswer::Done)) => self.after(request).into_iter().collect(),
            (RequestKind::Use, Some(CodeAnswer::Used)) => {
                unchanged(is_used_by_another && !is_undone)
            }
            (RequestKind::Use, Some(CodeAnswer::Undone)) => unchanged(is_undone),
            (RequestKind::Undo, Some(CodeAnswer::Used)) if is_used_by_another => {
                self.after(request).into_iter().collect()
            }
            (RequestKind::Undo, Some(CodeAnswer::Used | CodeAnswer::Undone)) | (_, None) => {
                Vec::new()
            }
            // A coupon that a shop uses is not revoked.
            (_, Some(CodeAnswer::Revoked)) => unchanged(self.in_use.is_none()),
            // The shop read the code from its row. If the row is still there, it always was.
            (_, Some(CodeAnswer::NoSuchCode)) => unchanged(!has_row),
        }
    }
}

/// Whether an order of the requests explains all answers and, if the code has a row, the stored
/// uses.
pub(super) fn is_possible(requests: &[CodeRequest], stored: Option<&StoredUses>) -> bool {
    // A request without an answer may be executed at any time after it began, or never. A second
    // execution changes nothing, so the search does not record which of them were executed: the
    // state is enough. Recording them would double the search with each such request.
    let (answered, lost): (Vec<&CodeRequest>, Vec<&CodeRequest>) = requests
        .iter()
        .partition(|request| request.answer.is_some());
    let all = (1_u64 << answered.len()) - 1;
    let mut seen: HashSet<(u64, StoredUses)> = HashSet::new();
    let mut open = vec![(0_u64, StoredUses::default())];
    while let Some((done, state)) = open.pop() {
        if !seen.insert((done, state.clone())) {
            continue;
        }
        if done == all && stored.is_none_or(|stored| *stored == state) {
            return true;
        }
        let left = || {
            let places = 0..answered.len();
            places.filter(|place| done & (1 << place) == 0)
        };
        // An answered request was executed before its answer.
        let until = left().map(|place| answered[place].ended).min();
        let may_be_done = |request: &CodeRequest| until.is_none_or(|until| request.begun <= until);
        for place in left().filter(|place| may_be_done(answered[*place])) {
            let states = state.explained(answered[place], stored.is_some());
            open.extend(states.into_iter().map(|state| (done | (1 << place), state)));
        }
        let lost = lost.iter().filter(|request| may_be_done(request));
        open.extend(lost.filter_map(|request| Some((done, state.after(request)?))));
    }
    false
}

/// Lists requests for a report.
pub(super) fn listed(requests: &[CodeRequest]) -> String {
    let mut text = String::new();
    let Some(first) = requests.iter().map(|request| request.begun).min() else {
        return text;
    };
    for request in requests {
        let [begun, ended] = [request.begun, request.ended].map(|at| (at - first).as_millis());
        let (kind, answer) = (request.kind, request.answer);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\n      {begun:>6}-{ended:>6} ms {kind:?} {} {answer:?}",
            request.reference
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Reads requests such as `0-5 use a done`, separated by commas.
    fn requests(text: &str) -> Vec<CodeRequest> {
        let start = Instant::now();
        let read = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (begun, ended) = words[0].split_once('-').unwrap();
            let at = |ms: &str| start + Duration::from_millis(ms.parse().unwrap());
            CodeRequest {
                kind: match words[1] {
                    "use" => RequestKind::Use,
                    _ => RequestKind::Undo,
                },
                reference: words[2].to_owned(),
                begun: at(begun),
                ended: at(ended),
                answer: match words[3] {
                    "done" => Some(CodeAnswer::Done),
                    "used" => Some(CodeAnswer::Used),
                    "undone" => Some(CodeAnswer::Undone),
                    "revoked" => Some(CodeAnswer::Revoked),
                    "none" => Some(CodeAnswer::NoSuchCode),
                    _ => None,
                },
            }
        };
        text.split(',').map(|line| read(line.trim())).collect()
    }

    #[test]
    fn answers_are_possible_only_if_some_order_explains_them() {
        for (text, expected) in [
            ("0-1 use a done, 2-3 use a done", true),
            ("0-1 use a done, 2-3 use b done", false),
            (
                "0-1 use a done, 2-3 use b used, 4-5 undo a done, 6-7 use b done",
                true,
            ),
            ("0-1 use a done, 0-1 use b done", false),
            ("0-9 use a done, 0-9 use b done, 2-3 undo a done", true),
            ("0-1 undo a done, 2-3 use a done", false),
            ("0-1 undo a done, 2-3 use a undone, 4-5 use b done", true),
            ("0-1 undo a done, 0-3 use a done", true),
            (
                "0-1 use b done, 2-3 undo a used, 4-5 undo b done, 6-7 use a done",
                false,
            ),
            ("0-1 use a unknown, 2-3 use b done", true),
            ("0-1 use a unknown, 2-3 use b used, 4-5 use b done", false),
            (
                "0-1 use a unknown, 2-3 use b done, 4-5 undo b done, 6-7 use b used",
                false,
            ),
            (
                "0-1 use a unknown, 2-3 use b done, 4-5 undo b done, 6-7 use c used",
                true,
            ),
            ("0-1 use a done, 2-3 use a revoked", false),
            ("0-1 use a done, 2-3 undo a done, 4-5 use b revoked", true),
            ("0-1 use a none, 2-3 use b done", true),
        ] {
            assert_eq!(is_possible(&requests(text), None), expected, "{text}");
        }
    }

    /// Simulates that MySQL is unavailable: each request is repeated, and no answer comes. A search
    /// that recorded which of them were executed would take too long.
    #[test]
    fn requests_are_judged_even_among_thirty_without_an_answer() {
        let lost = (0..30).map(|at| {
            let shop = ["a", "b", "c", "d", "e", "f"][at % 6];
            let kind = if at % 5 == 0 { "undo" } else { "use" };
            format!("{at}-99 {kind} {shop} unknown")
        });
        let lost: Vec<String> = lost.collect();
        for (last, expected) in [
            ("100-101 use x done, 102-103 undo x done", true),
            ("100-101 use x done, 102-103 use y done", false),
        ] {
            let all = format!("{}, {last}", lost.join(", "));
            assert_eq!(is_possible(&requests(&all), None), expected, "{last}");
        }
    }

    #[test]
    fn stored_uses_are_possible_only_if_some_order_explains_them() {
        let by = |user: &str| StoredUses {
            in_use: Some(user.to_owned()),
            ..StoredUses::default()
        };
        for (text, stored, expected) in [
            ("0-1 use a done", by("a"), true),
            ("0-1 use a done", StoredUses::default(), false),
            ("0-1 use a unknown", StoredUses::default(), true),
            ("0-1 use a unknown", by("a"), true),
            ("0-1 use a unknown", by("b"), false),
            ("0-1 use a none, 2-3 use b done", by("b"), false),
            ("0-1 use a done, 2-3 undo a done", by("a"), false),
        ] {
            let possible = is_possible(&requests(text), Some(&stored));
            assert_eq!(possible, expected, "{text} {stored:?}");
        }
    }
}
