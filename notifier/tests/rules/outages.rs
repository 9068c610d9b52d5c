//! A model of processes that restart, crash in a loop, hang in their check of a store, or are cut
//! off alone, in hours with outages of that store. Every outage that lasts is told soon, nothing is
//! told without one, and no end comes before the store is back.

use firstcome_notifier::conditions::{Snapshot, conditions};
use firstcome_notifier::decide::{Alerts, Reason, decide};
use firstcome_shared::mysql::processes::FreshProcess;
use firstcome_shared::process_state::{ProcessState, StoreState};

use super::{POLICY, at};

const HOURS: i64 = 3;

/// An outage that lasts this long must be told within `SOON`.
const LONG: i64 = 130;
const SOON: i64 = 100;

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: i64) -> i64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        i64::try_from(self.0 >> 33).unwrap() % n
    }

    fn between(&mut self, from: i64, to: i64) -> i64 {
        from + self.below(to - from + 1)
    }
}

/// A process, and its row.
#[derive(Clone)]
struct Process {
    born: i64,
    dies: i64,
    first_check: i64,
    checked: Option<i64>,
    state: Option<StoreState>,
    next_beat: i64,
    hangs: bool,
    cut_until: i64,
    row: Option<(i64, Option<StoreState>)>,
}

impl Process {
    fn start(second: i64, lives: i64, dice: &mut Dice) -> Self {
        Self {
            born: second,
            dies: second + lives,
            first_check: second + dice.between(1, 6),
            checked: None,
            state: None,
            next_beat: second,
            hangs: false,
            cut_until: 0,
            row: None,
        }
    }

    fn pass(&mut self, second: i64, store_is_up: bool) {
        let reaches = store_is_up && second >= self.cut_until;
        if !self.hangs && second >= self.first_check {
            let state = if reaches {
                StoreState::Fine
            } else {
                StoreState::Away("refused".to_owned())
            };
            if self.state.as_ref() != Some(&state) {
                self.next_beat = second;
            }
            self.state = Some(state);
            self.checked = Some(second);
        }
        // A check without an answer for ten seconds is a problem.
        let since = self.checked.or((self.hangs).then_some(self.born));
        let hangs = self.hangs && since.is_some_and(|at| second - at > 10);
        let said = if hangs {
            Some(StoreState::Away("no answer".to_owned()))
        } else {
            self.state.clone()
        };
        if second >= self.next_beat || hangs && self.row.as_ref().is_some_and(|(_, it)| *it != said)
        {
            self.row = Some((second, said));
            self.next_beat = second + 10;
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Judgement {
    outages: usize,
    missed: usize,
    late: usize,
    ended_too_soon: usize,
    told_without: usize,
}

fn play(seed: u64) -> Judgement {
    let mut dice = Dice(seed.wrapping_mul(977).wrapping_add(13));
    let forever = 1_000_000;
    let number = dice.between(1, 4);
    let mut processes: Vec<Process> = (0..number)
        .map(|_| Process::start(0, forever, &mut dice))
        .collect();
    let mut gone: Vec<(i64, Option<StoreState>)> = Vec::new();
    let mut is_up = true;
    let mut next = dice.between(600, 2_000);
    let mut flips = Vec::new();
    let mut known = Alerts::default();
    let mut told = Vec::new();
    let mut all_cut_until = 0;
    for second in 0..HOURS * 3_600 {
        if second >= next {
            is_up = !is_up;
            flips.push((second, is_up));
            next = second
                + if is_up {
                    dice.between(600, 2_000)
                } else {
                    dice.between(100, 900)
                };
            let mode = dice.below(3);
            for process in &mut processes {
                process.hangs = !is_up && mode == 1 && dice.below(2) == 0;
                if !is_up && mode == 2 {
                    process.dies = second + dice.between(1, 20);
                }
            }
        }
        if is_up && processes.len() > 1 && dice.below(2_000) == 0 {
            let one = usize::try_from(dice.below(number)).unwrap();
            processes[one].cut_until = second + dice.between(40, 600);
        }
        for process in &mut processes {
            if second >= process.dies {
                gone.extend(process.row.take());
                // A loop of crashes goes on until the store is back.
                let lives = if is_up { forever } else { dice.between(8, 50) };
                *process = Process::start(second, lives, &mut dice);
            }
            process.pass(second, is_up);
        }
        if processes.iter().all(|it| second < it.cut_until) {
            all_cut_until = second + 100;
        }
        if second % 5 > 0 {
            continue;
        }
        gone.retain(|(at, _)| second - at <= 25);
        let rows = processes
            .iter()
            .filter_map(|it| it.row.clone())
            .chain(gone.iter().cloned());
        let fresh = rows.filter(|(at, _)| second - at <= 25);
        let snapshot = Snapshot {
            processes: fresh
                .map(|(_, redis)| FreshProcess {
                    state: ProcessState {
                        redis,
                        ..ProcessState::default()
                    },
                    ..FreshProcess::default()
                })
                .collect(),
            ..Snapshot::default()
        };
        let (seen, unknown) = conditions(&snapshot, at(second));
        let decisions = decide(at(second), &seen, &unknown, &known, &POLICY, false);
        for decision in decisions {
            known.put(decision.alert);
            if let Some(reason) = decision.reason {
                told.push((second, reason, is_up || second < all_cut_until));
            }
        }
    }
    judge(&flips, &told)
}

fn judge(flips: &[(i64, bool)], told: &[(i64, Reason, bool)]) -> Judgement {
    let mut judged = Judgement::default();
    let end = HOURS * 3_600;
    for (n, (from, _)) in flips.iter().enumerate().filter(|(_, (_, is_up))| !is_up) {
        judged.outages += 1;
        let to = flips.get(n + 1).map_or(end, |(second, _)| *second);
        let is_open = told.iter().rev().find(|(second, ..)| second < from);
        let is_open = is_open.is_some_and(|(_, reason, _)| *reason != Reason::Over);
        let first = told
            .iter()
            .find(|(second, reason, _)| *reason != Reason::Over && (*from..=to).contains(second));
        if to - from < LONG || is_open {
            continue;
        }
        match first {
            None => judged.missed += 1,
            Some((second, ..)) => judged.late += usize::from(second - from > SOON),
        }
    }
    let is_down_at = |second: i64| {
        let last = flips.iter().rev().find(|(at, _)| *at <= second);
        last.is_some_and(|(_, is_up)| !is_up)
    };
    for (second, reason, may_be_cut) in told {
        match reason {
            Reason::Over => judged.ended_too_soon += usize::from(is_down_at(*second)),
            Reason::New => {
                let was_down = (0..45).any(|ago| is_down_at(second - ago));
                judged.told_without += usize::from(!was_down && !may_be_cut);
            }
            Reason::Changed | Reason::Repeat => {}
        }
    }
    judged
}

/// The paper model of these rules had 365 outages in 60 timelines.
#[test]
fn every_outage_that_lasts_is_told_and_no_end_comes_before_the_store_is_back() {
    let mut all = Judgement::default();
    for seed in 0..90 {
        let judged = play(seed);
        all.outages += judged.outages;
        all.missed += judged.missed;
        all.late += judged.late;
        all.ended_too_soon += judged.ended_too_soon;
        all.told_without += judged.told_without;
    }
    assert!(all.outages >= 365, "{all:?}");
    let right = Judgement {
        outages: all.outages,
        ..Judgement::default()
    };
    assert_eq!(all, right);
}
