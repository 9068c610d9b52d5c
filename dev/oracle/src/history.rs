//! Parses a history and groups its lines into operations and reads.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::{Result, anyhow};

use crate::event::{
    CodeAnswer, HistoryLine, RecordedAnswer, RecordedEvent, RecordedRow, RecordedScope, ShownClaim,
};

/// A claim, its look-up, its revocation, or the change of an allow list for one user, with its
/// outcome.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Line number of the event that begins it.
    pub line: usize,
    pub act: OperationKind,
    /// The requested coupon.
    pub coupon: u64,
    /// The drop that it concerns: the one that the answer to a look-up names, otherwise the
    /// requested one, otherwise the only one that claims and look-ups of the coupon could concern
    /// while it was in progress. `None` if unknown.
    pub drop: Option<u64>,
    pub person: String,
    /// Line number of its outcome. `None` if the operation never ended.
    pub ended_line: Option<usize>,
    /// Its outcome. Unknown if the operation never ended.
    pub ended: Ended,
}

impl Operation {
    /// Returns the drop and slot of a promise: the answer to a claim, or what a look-up shows.
    pub fn promise(&self) -> Option<(u64, i64)> {
        match &self.ended {
            Ended::Ok(
                RecordedAnswer::Accepted { drop, slot }
                | RecordedAnswer::AlreadyClaimed { drop, slot },
            ) => Some((*drop, *slot)),
            Ended::Ok(RecordedAnswer::Shown {
                slot: Some(slot),
                claim: Some(claim),
                ..
            }) if claim.is_promise() => Some((self.drop?, *slot)),
            _ => None,
        }
    }

    /// Whether a look-up shows that the user's claim is revoked.
    pub fn shows_revocation(&self) -> bool {
        let Ended::Ok(RecordedAnswer::Shown { claim, .. }) = self.ended else {
            return false;
        };
        claim == Some(ShownClaim::Revoked)
    }
}

/// The kinds of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    Claim,
    LookUp,
    Revoke {
        /// Whether the user may claim again afterwards.
        again: bool,
    },
    /// Changes the allow list.
    List {
        /// True if the change adds the user, false if it removes the user.
        on: bool,
    },
}

/// How an operation ended. `Unknown`: it may have had an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    Ok(RecordedAnswer),
    Failed,
    Unknown,
}

/// A drop as the history announces it.
#[derive(Debug, Clone)]
pub struct RecordedDrop {
    pub coupon: u64,
    /// The scope of the limit of one slot per user.
    pub once_per: RecordedScope,
    /// Line numbers and quantities, in order.
    pub quantities: Vec<(usize, u64)>,
    /// From this line on, no claim is admitted.
    pub closed: Option<usize>,
}

impl RecordedDrop {
    /// Whether an operation may concern this drop of its coupon. Without an answer, it may take
    /// effect late.
    fn may_be_of(&self, op: &Operation) -> bool {
        let ended = op.ended_line.filter(|_| op.ended != Ended::Unknown);
        let is_early = |ended: usize| self.quantities.first().is_none_or(|it| ended < it.0);
        self.coupon == op.coupon
            && !ended.is_some_and(is_early)
            && self.closed.is_none_or(|closed| op.line < closed)
    }

    /// Returns the quantity that applies at a line.
    pub fn quantity_at(&self, line: usize) -> u64 {
        self.quantities
            .iter()
            .rev()
            .find(|(since, _)| *since <= line)
            .map_or(0, |(_, quantity)| *quantity)
    }
}

/// An operator's change of a coupon's quantity.
#[derive(Debug, Clone)]
pub struct QuantityChange {
    pub line: usize,
    pub coupon: u64,
    pub quantity: u64,
    /// `None` if the answer does not tell whether the change was made: it may be made at any time.
    pub ended: Option<ChangeEnded>,
}

/// The end of a change.
#[derive(Debug, Clone, Copy)]
pub struct ChangeEnded {
    pub line: usize,
    /// Whether the change was made. Otherwise it was refused.
    pub made: bool,
}

/// A shop uses a code for an order, or undoes the use.
#[derive(Debug, Clone)]
pub struct CodeRequest {
    pub line: usize,
    /// The order.
    pub reference: String,
    pub undo: bool,
    /// `None` if no answer tells what was done: it may be done at any time, or never.
    pub ended: Option<CodeRequestEnded>,
}

/// The answer to a shop.
#[derive(Debug, Clone, Copy)]
pub struct CodeRequestEnded {
    pub line: usize,
    pub answer: CodeAnswer,
}

/// The uses of a code.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct StoredUses {
    /// The order that uses it.
    pub in_use: Option<String>,
    /// The orders that may never use it.
    pub undone: BTreeSet<String>,
}

/// The requests about a code, and its uses after the system has recovered.
#[derive(Debug, Default)]
pub struct RecordedCode {
    pub requests: Vec<CodeRequest>,
    /// `None` if the code has no row then.
    pub stored: Option<StoredUses>,
}

/// One read of a drop's rows.
#[derive(Debug, Clone)]
pub struct RowsRead {
    pub line: usize,
    pub drop: u64,
    pub rows: Vec<RecordedRow>,
}

/// A parsed history.
#[derive(Debug, Default)]
pub struct History {
    pub drops: BTreeMap<u64, RecordedDrop>,
    /// The initial allow list of each coupon that has one.
    pub lists: BTreeMap<u64, HashSet<String>>,
    /// The operations in the order in which they begin.
    pub operations: Vec<Operation>,
    /// The changes of quantities by their operation numbers.
    pub changes: BTreeMap<u64, QuantityChange>,
    /// The codes that shops used.
    pub codes: BTreeMap<String, RecordedCode>,
    /// The reads in order, without the final ones.
    pub reads: Vec<RowsRead>,
    /// Drop, user and slot of the promises listed as broken.
    pub broken: Vec<(u64, String, Option<i64>)>,
    /// The final read of each drop.
    pub finals: BTreeMap<u64, RowsRead>,
    /// The code and the place of each request of a shop that has no answer yet.
    code_requests: HashMap<u64, (String, usize)>,
    /// When each line was written, in milliseconds since the recorder was created.
    times: Vec<u64>,
}

impl History {
    /// Returns when this line was written, in milliseconds since the recorder was created. `None`
    /// if there is no such line, or if the history was not parsed from text.
    pub fn at_ms(&self, line: usize) -> Option<u64> {
        self.times.get(line.checked_sub(1)?).copied()
    }

    /// Parses JSON lines. A malformed history (an outcome without its operation, a drop that was
    /// never announced) is an error: the recorder is faulty, so the history proves nothing.
    pub fn parse(text: &str) -> Result<Self> {
        let parsed = text.lines().map(serde_json::from_str::<HistoryLine>);
        let lines: Vec<HistoryLine> = parsed.collect::<Result<_, _>>()?;
        let times = lines.iter().map(|line| line.at_ms).collect();
        let history = Self::of(lines.into_iter().map(|line| line.event))?;
        Ok(Self { times, ..history })
    }

    /// Builds a history from events, each of which is a line.
    pub fn of(events: impl IntoIterator<Item = RecordedEvent>) -> Result<Self> {
        let mut history = Self::default();
        let mut open = HashMap::new();
        let mut seen = HashMap::new();
        for (line, event) in (1..).zip(events) {
            let taken = history.take(line, event, &mut open, &mut seen);
            taken.map_err(|why| anyhow!("line {line}: {why}"))?;
        }
        history.find_drops();
        Ok(history)
    }

    /// Finds the drop of each claim and look-up that names none.
    fn find_drops(&mut self) {
        let asks = |op: &&mut Operation| {
            let is_asked = matches!(op.act, OperationKind::Claim | OperationKind::LookUp);
            is_asked && op.drop.is_none()
        };
        for op in self.operations.iter_mut().filter(asks) {
            let mut drops = self.drops.iter().filter(|it| it.1.may_be_of(op));
            let first = drops.next().filter(|_| drops.next().is_none());
            op.drop = first.map(|it| *it.0);
        }
    }

    /// Adds the event of a line. `open` contains the operations that have not ended, `seen` all
    /// operations.
    fn take(
        &mut self,
        line: usize,
        event: RecordedEvent,
        open: &mut HashMap<u64, usize>,
        seen: &mut HashMap<u64, usize>,
    ) -> std::result::Result<(), String> {
        let operation = |act, coupon, drop, person| Operation {
            line,
            act,
            coupon,
            drop,
            person,
            ended_line: None,
            ended: Ended::Unknown,
        };
        let (op, operation) = match event {
            RecordedEvent::Invoked {
                op,
                coupon,
                drop,
                person,
            } => (op, operation(OperationKind::Claim, coupon, drop, person)),
            RecordedEvent::LookingUp { op, coupon, person } => {
                (op, operation(OperationKind::LookUp, coupon, None, person))
            }
            RecordedEvent::Revoking {
                op,
                coupon,
                drop,
                person,
                again,
            } => {
                let act = OperationKind::Revoke { again };
                (op, operation(act, coupon, drop, person))
            }
            RecordedEvent::Listing {
                op,
                coupon,
                person,
                on,
            } => {
                if !self.lists.contains_key(&coupon) {
                    return Err(format!("coupon {coupon} has no allow list"));
                }
                let act = OperationKind::List { on };
                (op, operation(act, coupon, None, person))
            }
            other => return self.note(line, other, open),
        };
        if seen.insert(op, line).is_some() {
            return Err(format!("operation {op} was invoked before"));
        }
        open.insert(op, self.operations.len());
        self.operations.push(operation);
        Ok(())
    }

    fn end_code_request(
        &mut self,
        op: u64,
        ended: CodeRequestEnded,
    ) -> std::result::Result<(), String> {
        let asked = self.code_requests.remove(&op);
        let (code, at) = asked.ok_or_else(|| format!("use {op} never began"))?;
        let requests = self.codes.get_mut(&code).map(|code| &mut code.requests);
        if let Some(request) = requests.and_then(|requests| requests.get_mut(at)) {
            request.ended = Some(ended);
        }
        Ok(())
    }

    /// Takes an event that begins no operation.
    fn note(
        &mut self,
        line: usize,
        event: RecordedEvent,
        open: &mut HashMap<u64, usize>,
    ) -> std::result::Result<(), String> {
        match event {
            RecordedEvent::Drop {
                drop,
                coupon,
                quantity,
                once_per,
            } => {
                let facts = RecordedDrop {
                    coupon,
                    once_per,
                    quantities: Vec::new(),
                    closed: None,
                };
                let facts = self.drops.entry(drop).or_insert(facts);
                if facts.coupon != coupon || facts.once_per != once_per {
                    return Err(format!("drop {drop} had another coupon or scope before"));
                }
                facts.quantities.push((line, quantity));
            }
            RecordedEvent::Closed { drop } => self.close(line, drop)?,
            RecordedEvent::AllowList { coupon, people } => {
                let is_late = self.operations.iter().any(|op| op.coupon == coupon);
                let before = self.lists.insert(coupon, people.into_iter().collect());
                if is_late || before.is_some() {
                    let why = "has operations or an allow list already";
                    return Err(format!("coupon {coupon} {why}"));
                }
            }
            RecordedEvent::Ok { op, answer } => self.end(line, open, op, Ended::Ok(answer))?,
            RecordedEvent::Failed { op, .. } => self.end(line, open, op, Ended::Failed)?,
            RecordedEvent::Unknown { op, .. } => self.end(line, open, op, Ended::Unknown)?,
            RecordedEvent::Read { drop, rows } => {
                self.known(drop)?;
                self.reads.push(RowsRead { line, drop, rows });
            }
            RecordedEvent::Broken { drop, person, slot } => {
                self.known(drop)?;
                self.broken.push((drop, person, slot));
            }
            RecordedEvent::Final { drop, rows } => {
                self.known(drop)?;
                let last = RowsRead { line, drop, rows };
                if self.finals.insert(drop, last).is_some() {
                    return Err(format!("drop {drop} has ended before"));
                }
            }
            RecordedEvent::Changing {
                op,
                coupon,
                quantity,
            } => {
                let change = QuantityChange {
                    line,
                    coupon,
                    quantity,
                    ended: None,
                };
                self.changes.insert(op, change);
            }
            RecordedEvent::Changed { op, made } => {
                let change = self.changes.get_mut(&op);
                let change = change.ok_or_else(|| format!("change {op} never began"))?;
                change.ended = Some(ChangeEnded { line, made });
            }
            RecordedEvent::CodeAsked {
                op,
                code,
                reference,
                undo,
            } => {
                let requests = &mut self.codes.entry(code.clone()).or_default().requests;
                self.code_requests.insert(op, (code, requests.len()));
                requests.push(CodeRequest {
                    line,
                    reference,
                    undo,
                    ended: None,
                });
            }
            RecordedEvent::CodeAnswered { op, outcome } => {
                let answer = outcome;
                self.end_code_request(op, CodeRequestEnded { line, answer })?;
            }
            RecordedEvent::CodeFinal {
                code,
                in_use,
                undone,
            } => {
                let undone = undone.into_iter().collect();
                let stored = StoredUses { in_use, undone };
                self.codes.entry(code).or_default().stored = Some(stored);
            }
            // These begin operations, which the caller records.
            RecordedEvent::Invoked { .. }
            | RecordedEvent::LookingUp { .. }
            | RecordedEvent::Revoking { .. }
            | RecordedEvent::Listing { .. } => {}
        }
        Ok(())
    }

    fn end(
        &mut self,
        line: usize,
        open: &mut HashMap<u64, usize>,
        op: u64,
        ended: Ended,
    ) -> std::result::Result<(), String> {
        if let Ended::Ok(
            RecordedAnswer::Accepted { drop, .. }
            | RecordedAnswer::AlreadyClaimed { drop, .. }
            | RecordedAnswer::Shown {
                drop: Some(drop), ..
            },
        ) = &ended
        {
            self.known(*drop)?;
        }
        let at = open
            .remove(&op)
            .ok_or_else(|| format!("operation {op} ends, but is not under way"))?;
        if let Some(operation) = self.operations.get_mut(at) {
            if let Ended::Ok(RecordedAnswer::Shown { drop, .. }) = ended {
                operation.drop = drop;
            }
            operation.ended = ended;
            operation.ended_line = Some(line);
        }
        Ok(())
    }

    fn close(&mut self, line: usize, drop: u64) -> std::result::Result<(), String> {
        self.known(drop)?;
        if let Some(facts) = self.drops.get_mut(&drop) {
            facts.closed.get_or_insert(line);
        }
        Ok(())
    }

    fn known(&self, drop: u64) -> std::result::Result<(), String> {
        if self.drops.contains_key(&drop) {
            Ok(())
        } else {
            Err(format!("drop {drop} was never announced"))
        }
    }
}
