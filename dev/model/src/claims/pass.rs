//! A reconciler's pass: its view, its plan, and its repairs, each as one atomic step.

use super::redis::Moved;
use super::state::{PassView, Reconciler, Repair, State};
use super::{Person, Protocol, SLOTS, Slot, Wrong};

impl State {
    fn is_lost(&self) -> bool {
        !self.redis.meta
    }

    fn ensure_era(&mut self) -> u8 {
        if self.redis.era == 0 {
            self.eras += 1;
            self.redis.era = self.eras;
        }
        self.redis.era
    }

    /// Whether a pass may begin. If Redis has lost data, the pass first waits until nothing can be
    /// in flight to the topic or the dead-letter table.
    pub(crate) fn may_begin(&self, protocol: &Protocol) -> bool {
        let loss = !self.gate_open || self.is_lost();
        !loss || (self.publishing.is_empty() && self.again.is_empty()) || protocol.is(Wrong::NoWait)
    }

    /// Reads the gate, the era, the clock and the tail in one step. This is sound, because a loss
    /// between reading the era and the tail would also be visible in the era.
    pub(crate) fn begin(&mut self, at: usize) {
        self.ensure_era();
        let held = (0_u8..).zip(self.redis.users).filter(|(_, slot)| *slot > 0);
        self.reconcilers[at] = Reconciler::Begun(PassView {
            process: self.process,
            era: self.redis.era,
            gate_was_open: self.gate_open,
            tail: self.tail().to_vec(),
            settled: held
                .filter(|claim| !self.publishing.contains(claim))
                .collect(),
        });
    }

    pub(crate) fn look(&mut self, protocol: &Protocol, at: usize) {
        let Reconciler::Begun(seen) =
            std::mem::replace(&mut self.reconcilers[at], Reconciler::Idle)
        else {
            return;
        };
        let mut todo = self.plan(protocol, &seen);
        if protocol.is(Wrong::SettleFirst) && self.is_lost() {
            todo.retain(|repair| !matches!(repair, Repair::Load | Repair::Settle));
            todo.splice(0..0, [Repair::Load, Repair::Settle]);
        }
        if todo.is_empty() && !seen.gate_was_open {
            todo.push(Repair::Grant);
        }
        if !todo.is_empty() {
            todo.reverse();
            let late = protocol.is(Wrong::EraReadLate);
            let era = if late { self.redis.era } else { seen.era };
            self.reconcilers[at] = Reconciler::Repairing {
                era,
                process: seen.process,
                todo,
            };
        }
    }

    fn plan(&self, protocol: &Protocol, seen: &PassView) -> Vec<Repair> {
        let mut todo = Vec::new();
        self.plan_rows(&mut todo);
        self.plan_messages(seen, &mut todo);
        let lost = self.is_lost();
        if lost && !protocol.is(Wrong::BackupLate) {
            self.plan_kept(seen, &mut todo);
        }
        todo.extend(lost.then_some(Repair::Load));
        if lost || !todo.is_empty() || !self.redis.adds_up() {
            todo.push(Repair::Settle);
        }
        self.plan_people(seen, &mut todo);
        if todo.iter().any(|repair| matches!(repair, Repair::Move(..))) {
            todo.push(Repair::Settle);
        }
        self.plan_failed(&mut todo);
        todo
    }

    /// Rows are authoritative.
    fn plan_rows(&self, todo: &mut Vec<Repair>) {
        let rows = (1..)
            .zip(self.rows)
            .filter_map(|(slot, row)| Some((row?, slot)));
        let astray = rows.filter(|(person, slot)| self.redis.slot_of(*person) != *slot);
        todo.extend(astray.map(|(person, slot)| Repair::PutBack(person, slot, true)));
    }

    /// Plans repairs for messages of users who are missing in Redis, on slots that no user holds:
    /// Redis has lost these admissions.
    fn plan_messages(&self, seen: &PassView, todo: &mut Vec<Repair>) {
        for (at, (person, slot)) in seen.tail.iter().enumerate() {
            let first = seen.tail[..at].iter().all(|(_, other)| other != slot);
            let held = self.redis.on(*slot).next().is_some() || self.row_on(*slot).is_some();
            let elsewhere = self.redis.slot_of(*person) > 0 || self.row_of(*person).is_some();
            let known_to_be_given =
                self.is_lost() || !seen.gate_was_open || *slot <= self.redis.count;
            if first && !held && !elsewhere && known_to_be_given {
                todo.push(Repair::PutBack(*person, *slot, false));
            }
        }
    }

    /// Plans to restore the users of dead letters before the drop is loaded, because the
    /// dead-letter table may have the only copy of a promise.
    fn plan_kept(&self, seen: &PassView, todo: &mut Vec<Repair>) {
        for &(person, slot) in &self.failed {
            let told_otherwise = seen
                .tail
                .iter()
                .any(|claim| claim.0 == person || claim.1 == slot);
            if !told_otherwise && self.row_on(slot).is_none() && self.row_of(person).is_none() {
                todo.push(Repair::PutBack(person, slot, false));
            }
        }
    }

    /// Users who share a slot are moved. Users without a row and without anything in flight get a
    /// row.
    fn plan_people(&self, seen: &PassView, todo: &mut Vec<Repair>) {
        for slot in 1..=SLOTS {
            let evidence = |person: &Person| {
                seen.tail.contains(&(*person, slot)) || self.failed.contains(&(*person, slot))
            };
            let keeper = self
                .row_on(slot)
                .or_else(|| self.redis.on(slot).find(evidence))
                .or(self.redis.on(slot).next());
            for person in self.redis.on(slot) {
                let claim = (person, slot);
                if self.row_of(person).is_some() {
                    // The user is on the slot of the row, or is moved there.
                } else if keeper != Some(person) {
                    todo.push(Repair::Move(person, slot));
                } else if seen.settled.contains(&claim) && !evidence(&person) {
                    todo.push(Repair::Issue(person, slot));
                }
            }
        }
    }

    fn plan_failed(&self, todo: &mut Vec<Repair>) {
        for &(person, slot) in &self.failed {
            let held = self.redis.slot_of(person);
            let anothers = |slot: Slot| self.row_on(slot).is_some_and(|row| row != person);
            if self.row_of(person).is_none() {
                if held > 0 && !anothers(held) {
                    todo.push(Repair::Issue(person, held));
                } else if held == 0 && !anothers(slot) && self.redis.on(slot).next().is_none() {
                    todo.extend([
                        Repair::PutBack(person, slot, false),
                        Repair::Settle,
                        Repair::Issue(person, slot),
                    ]);
                } else if held == 0 {
                    todo.push(Repair::Move(person, 0));
                }
            }
            todo.push(Repair::Resolve(person, slot));
        }
    }

    pub(crate) fn repair(&mut self, protocol: &Protocol, at: usize) {
        let Reconciler::Repairing { era, .. } = &self.reconcilers[at] else {
            return;
        };
        let made = if *era == 0 { self.ensure_era() } else { 0 };
        let Reconciler::Repairing { era, process, todo } = &mut self.reconcilers[at] else {
            return;
        };
        let Some(repair) = todo.pop() else { return };
        if *era == 0 {
            *era = made;
        }
        // The connection ends with the process to which it was opened.
        let comes_back = protocol.is(Wrong::ConnectionComesBack);
        let era = *era;
        let process = if comes_back { self.process } else { *process };
        let more = self.carry_out(era, repair, process);
        if let Reconciler::Repairing { todo, .. } = &mut self.reconcilers[at] {
            todo.extend(more);
            if todo.is_empty() {
                self.reconcilers[at] = Reconciler::Idle;
            }
        }
    }

    /// Performs a repair and returns the one that must follow it.
    fn carry_out(&mut self, era: u8, repair: Repair, process: u8) -> Option<Repair> {
        match repair {
            Repair::PutBack(person, slot, certain) => {
                self.redis.put_back(era, person, slot, certain);
            }
            Repair::Load => self.redis.load(era, true),
            Repair::Settle => self.redis.settle(era),
            Repair::Move(person, from) => match self.redis.move_person(era, person, from) {
                Moved::To(slot) => {
                    self.admitted.push((person, slot));
                    return Some(Repair::Issue(person, slot));
                }
                Moved::NoneLeft if from > 0 => {
                    self.broken.push((person, from));
                    return Some(Repair::Withdraw(person, from));
                }
                Moved::NoneLeft | Moved::Changed => {}
            },
            Repair::Withdraw(person, from) => self.redis.withdraw(era, person, from),
            Repair::Issue(person, slot) => _ = self.insert((person, slot)),
            Repair::Resolve(person, slot) => {
                if self.row_of(person).is_some() {
                    self.failed.retain(|claim| *claim != (person, slot));
                }
            }
            Repair::Grant => self.gate_open |= self.process == process,
        }
        None
    }
}
