//! Plays a situation: folds looks into levels, derives conditions from them and from what processes
//! say, and decides. Time goes in ticks of five seconds.
//!
//! The words of a step say what is so during it:
//! - `d`, `d2`, `api`: a process that is fine; `d:redis+closed1`: one with these problems; `d:new`:
//!   one that knows nothing yet.
//! - `L1`: a look at drop 1 of coupon 1 every 30 s that judges all but deep kinds.
//!   `L1:unissued=1+2` finds these cases, `L1:unissued*70` only their number; `1..40` are many,
//!   `1..*` one more each minute, and `~` is found by every second look. `L1/only-braked`,
//!   `L1/but-unissued`, `L1/deep` judge other kinds, `L1/gone` gives all of them up.
//! - `F`, `T`: a whole pass, of our system or an attached one; `F:kafka`, `T:mysql`: it lacks this
//!   store.
//! - `fix`: a repair every 30 s, `fix:300` every 300 s. `promise1=1`: a broken promise of drop 1.
//! - `late.deep`: this run is due since then. `holds`: a pass holds the lock.
//! - `ack`: an operator acknowledges everything at the end of the step. `slow`, `cron`: ticks of 20
//!   s and 300 s. `forget`: MySQL lost what the last tick wrote. `back`: the clock was set back by an
//!   hour. `last`: the process ends after each evaluation. `unsent`: no mail leaves the outbox.
//!   `later`: there is an alert of a kind that a later version wrote.
//! - A `!` at the end of a word: only at the first tick of the step.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_notifier::condition::{Cases, ScheduledRun};
use firstcome_notifier::conditions::{PromisesOfDrop, SeenSchedule, Snapshot, conditions};
use firstcome_notifier::decide::{Alerts, Budget, Reason, decide};
use firstcome_notifier::levels::{Levels, fold};
use firstcome_notifier::queries::alerts::{OpenPromises, RepairsRow, ToldRow};
use firstcome_notifier::times::Policy;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::processes::{FreshProcess, LockHolder};
use firstcome_shared::process_state::{
    ConsumerState, ProcessState, Standstill, StoreState, UnsafeSetting,
};
use firstcome_shared::report::{
    ActionKind, AlertKind, Cause, DropReport, FailureCause, Finding, Judged, Kind, Kinds, Outcome,
    Run, Status, Trigger, UnsafePart,
};
use firstcome_shared::subject::Subject;

use super::situations::Step;
use super::{POLICY, at};

/// A row of a process is fresh for this long.
const FRESH: i64 = 25;

#[derive(Default)]
struct Player {
    levels: Levels,
    /// When each process wrote its row, and what it says.
    processes: BTreeMap<String, (i64, ProcessState)>,
    known: Alerts,
    /// What was known before the last tick.
    known_before: Alerts,
    budget: Budget,
    repairs: Vec<RepairsRow>,
    /// Since when runs are due.
    late: BTreeMap<String, i64>,
    told: Vec<String>,
}

/// A tick of a step.
struct Tick<'a> {
    second: i64,
    /// When the step began.
    begun: i64,
    words: &'a [&'a str],
}

/// Returns what is told: second, reason and name, in order.
pub(crate) fn play(steps: &[Step]) -> String {
    let mut player = Player::default();
    let mut begun = 0;
    for (seconds, words) in steps {
        let words: Vec<&str> = words.split_whitespace().collect();
        if words.contains(&"back") {
            begun -= 3_600;
        }
        let pause = if words.contains(&"cron") {
            300
        } else if words.contains(&"slow") {
            20
        } else {
            5
        };
        for second in (begun..begun + seconds).step_by(pause) {
            player.tick(&Tick {
                second,
                begun,
                words: &words,
            });
        }
        begun += seconds;
        if words.contains(&"ack") {
            player.acknowledge(begun);
        }
    }
    player.told.join(", ")
}

impl Player {
    fn tick(&mut self, tick: &Tick<'_>) {
        let second = tick.second;
        let is_first = second == tick.begun;
        if is_first && tick.words.contains(&"forget") {
            self.known = self.known_before.clone();
        }
        self.late
            .retain(|word, _| tick.words.contains(&word.as_str()));
        for word in tick.words {
            let is_once = word.ends_with('!');
            let word = word.trim_end_matches('!');
            if is_once && !is_first {
                continue;
            }
            self.observe(word, tick);
        }
        self.processes
            .retain(|_, (seen_at, _)| second - *seen_at <= FRESH);
        self.evaluate(tick);
    }

    fn observe(&mut self, word: &str, tick: &Tick<'_>) {
        let second = tick.second;
        let age = second - tick.begun;
        let (name, says) = word.split_once(':').unwrap_or((word, ""));
        match name {
            "d" | "d2" | "api" => {
                let state = process(says);
                self.processes.insert(name.to_owned(), (second, state));
            }
            "fix" => {
                let pause = says.parse().unwrap_or(30);
                if age % pause == 0 {
                    self.repairs.push(RepairsRow {
                        run_id: format!("run-{second}"),
                        drop_id: 1,
                        kind: Kind::Unissued.as_str().to_owned(),
                        number: 1,
                        repaired_at: at(second),
                        told: false,
                    });
                }
            }
            "later" => self.known.put(ToldRow {
                name: "later".to_owned(),
                kind: "later".to_owned(),
                told_at: Some(at(second)),
                ..ToldRow::default()
            }),
            "late.reconcile" | "late.deep" | "late.digest" => {
                self.late.entry(name.to_owned()).or_insert(second);
            }
            _ if age % 30 > 0 => {}
            "F" => self.look(&whole_pass(says, FailureCause::Other, second), second),
            "T" => self.look(&attached_pass(says, second), second),
            look if look.starts_with('L') => {
                self.look(&look_at_drop(look, says, second, age), second);
            }
            _ => {}
        }
    }

    fn look(&mut self, run: &Run, second: i64) {
        self.levels = fold(&self.levels, run, Subject::Drop, at(second));
    }

    fn snapshot(&self, tick: &Tick<'_>) -> Snapshot {
        let now = at(tick.second);
        let begun = at(tick.begun);
        let schedules = [
            (ScheduledRun::Reconcile, "late.reconcile"),
            (ScheduledRun::Deep, "late.deep"),
            (ScheduledRun::Digest, "late.digest"),
        ];
        let schedules = schedules.map(|(schedule, word)| SeenSchedule {
            schedule,
            due: self.late.get(word).map(|since| at(*since)),
        });
        Snapshot {
            is_read_from_mysql: true,
            processes: self
                .processes
                .iter()
                .map(|(owner, (_, state))| FreshProcess {
                    owner: owner.clone(),
                    state: state.clone(),
                    ..FreshProcess::default()
                })
                .collect(),
            levels: self.levels.values().cloned().collect(),
            schedules: schedules.to_vec(),
            holder: tick.words.contains(&"holds").then(|| LockHolder {
                run_id: "run".to_owned(),
                owner: "host".to_owned(),
                since: begun,
            }),
            promises: tick
                .words
                .iter()
                .filter_map(|word| word.strip_prefix("promise"))
                .map(|word| promises(word, begun))
                .collect(),
            repairs: self
                .repairs
                .iter()
                .filter(|row| !row.told || now - row.repaired_at <= TimeDelta::hours(1))
                .cloned()
                .collect(),
        }
    }

    fn evaluate(&mut self, tick: &Tick<'_>) {
        let now = at(tick.second);
        // They are read from the table each time: an episode after the one before.
        let mut told: Vec<ToldRow> = self.known.all().cloned().collect();
        told.sort_by_key(|alert| alert.ended_at.is_none());
        self.known = Alerts::new(told, now);
        let is_unsent = tick.words.contains(&"unsent");
        self.known.unsent_since = is_unsent.then(|| at(tick.begun));
        let policy = Policy {
            is_last: tick.words.contains(&"last"),
            ..POLICY
        };
        let (seen, unknown) = conditions(&self.snapshot(tick), now);
        let is_full = self.budget.is_full(now);
        let decisions = decide(now, &seen, &unknown, &self.known, &policy, is_full);
        self.known_before = self.known.clone();
        if decisions.iter().any(|it| it.reason.is_some()) {
            self.budget.count(now);
        }
        for decision in decisions {
            self.known.put(decision.alert.clone());
            let Some(reason) = decision.reason else {
                continue;
            };
            if decision.alert.kind == AlertKind::Repaired.word() {
                self.repairs.iter_mut().for_each(|row| row.told = true);
            }
            let name = decision.alert.name;
            let level = self.levels.get(&name);
            let is_given_up = level.is_some_and(|level| level.given_up);
            let end = if reason == Reason::Over && is_given_up {
                self.levels.remove(&name);
                " (given up)"
            } else {
                ""
            };
            let second = tick.second;
            self.told.push(format!("{second} {reason:?} {name}{end}"));
        }
        let (seen, unknown) = conditions(&self.snapshot(tick), now);
        let again = decide(now, &seen, &unknown, &self.known, &policy, is_full);
        let again: Vec<Reason> = again.iter().filter_map(|it| it.reason).collect();
        assert_eq!(again, [], "at {}", tick.second);
    }

    fn acknowledge(&mut self, second: i64) {
        let open: Vec<ToldRow> = self.known.all_open().cloned().collect();
        for alert in open {
            self.known.put(ToldRow {
                acknowledged_at: Some(at(second) - TimeDelta::seconds(1)),
                ..alert
            });
        }
    }
}

fn process(says: &str) -> ProcessState {
    let away = |error: &str| Some(StoreState::Away(error.to_owned()));
    let refuses = |store, error: &str| Some(StoreState::from_error(store, error));
    let mut state = ProcessState {
        redis: Some(StoreState::Fine),
        kafka: Some(StoreState::Fine),
        mysql: Some(StoreState::Fine),
        closed: Some([].into()),
        consumers: Some(ConsumerState::Fine),
        unsafe_settings: Some(Vec::new()),
        campaigns: [].into(),
    };
    for problem in says.split('+').filter(|it| !it.is_empty()) {
        match problem {
            "new" => state = ProcessState::default(),
            "redis" => {
                state.redis = away("Connection refused");
                state.closed = None;
            }
            "kafka" => state.kafka = away("BrokerTransportFailure"),
            "partly" => {
                let error = "10.0.0.7:6379 does not answer".to_owned();
                state.redis = Some(StoreState::Partly(error));
            }
            "oom" => {
                let error = "OOM command not allowed when used memory > 'maxmemory'.";
                state.redis = refuses(FailureCause::Redis, error);
            }
            "wrongpass" => {
                let error = "WRONGPASS invalid username-password pair";
                state.redis = refuses(FailureCause::Redis, error);
            }
            "clients" => {
                let error = "ERR max number of clients reached";
                state.redis = refuses(FailureCause::Redis, error);
            }
            "few" => {
                let error = "NotEnoughReplicas (Broker: Not enough in-sync replicas)";
                state.kafka = refuses(FailureCause::Kafka, error);
            }
            "stands" => {
                state.consumers = Some(ConsumerState::Stands(Standstill {
                    unread: 10,
                    partitions: Vec::new(),
                }));
            }
            "unsafe" => {
                state.unsafe_settings = Some(vec![UnsafeSetting {
                    part: UnsafePart::Redis,
                    error: "maxmemory-policy".to_owned(),
                }]);
            }
            other => {
                let coupons = other.strip_prefix("closed").unwrap();
                let coupons = match coupons.split_once("..") {
                    Some((from, to)) => (from.parse().unwrap()..=to.parse().unwrap()).collect(),
                    None => coupons
                        .split('-')
                        .map(|id| id.parse().unwrap())
                        .collect::<Vec<i64>>(),
                };
                state.closed = Some(coupons.into_iter().map(CouponId).collect());
            }
        }
    }
    state
}

fn begun(second: i64) -> Run {
    Run {
        status: Status::Drift,
        ..Run::begun(&format!("run-{second}"), Trigger::Cron, at(second))
    }
}

/// A pass over everything: it fails by a store, or judges everything.
fn whole_pass(fails_by: &str, other: FailureCause, second: i64) -> Run {
    let cause = match fails_by {
        "redis" => FailureCause::Redis,
        "kafka" => FailureCause::Kafka,
        "mysql" => FailureCause::Mysql,
        _ => other,
    };
    let mut run = begun(second);
    if fails_by.is_empty() {
        run.judged.whole = Judged::of(Kinds::All);
        return run;
    }
    run.status = Status::Failed;
    run.findings.push(Finding {
        cause: Cause::RunFailed(cause),
        ..Finding::report(Kind::Stalled, "it did not answer")
    });
    run
}

/// A pass over an attached system without one of its stores, or with all of them.
fn attached_pass(lacks: &str, second: i64) -> Run {
    let mut run = whole_pass("", FailureCause::Other, second);
    if !lacks.is_empty() {
        run.findings.push(Finding {
            cause: Cause::Away(FailureCause::Mysql),
            ..Finding::report(Kind::Stalled, "it did not answer")
        });
    }
    run
}

/// A look at one drop.
fn look_at_drop(look: &str, finds: &str, second: i64, age: i64) -> Run {
    let (drop, judged) = look[1..].split_once('/').unwrap_or((&look[1..], ""));
    let number: i64 = drop.parse().unwrap();
    let is_of_campaign = finds.starts_with("queue");
    let coupon = if is_of_campaign {
        CouponId::of_campaign(drop)
    } else {
        CouponId(number)
    };
    let mut report = DropReport::begun(coupon, DropId(number), 100);
    let kind = |word: &str| match word {
        "braked" => AlertKind::Braked,
        other => AlertKind::from_word(other).unwrap(),
    };
    report.judged = match judged.split_once('-') {
        Some(("only", word)) => Judged::of(Kinds::only([kind(word)])),
        Some(("but", word)) => Judged::of(Kinds::all_but([kind(word)])),
        _ if judged == "deep" => Judged::of(Kinds::All),
        _ if judged == "gone" => Judged {
            given_up: Kinds::All,
            ..Judged::default()
        },
        _ => Judged::of(Kinds::all_but([AlertKind::Left(Kind::BadUse)])),
    };
    report.findings = found(finds, age);
    if is_of_campaign {
        for finding in &mut report.findings {
            finding.coupon_id = Some(coupon);
        }
    }
    Run {
        drops: vec![report],
        ..begun(second)
    }
}

fn found(finds: &str, age: i64) -> Vec<Finding> {
    if finds.is_empty() || finds.ends_with('~') && age / 30 % 2 == 1 {
        return Vec::new();
    }
    let finds = finds.trim_end_matches('~');
    if let Some((word, number)) = finds
        .split_once('*')
        .filter(|(word, _)| !word.contains('='))
    {
        let more = Cause::MoreLeft(number.parse().unwrap());
        return vec![finding(word, &more, None)];
    }
    let (word, cases) = finds.split_once('=').unwrap();
    let plain = |slot: i64| finding(word, &Cause::Plain, Some(slot));
    match (word, cases) {
        ("stalled", "compare" | "lost") => vec![finding(word, &Cause::NotCompared, None)],
        ("stalled", _) => vec![finding(word, &Cause::StatementRefused(1290), None)],
        ("queue", _) => vec![finding("stalled", &Cause::ConsumerStands, None)],
        ("left_to_others", _) => vec![Finding::new(
            Kind::RedisLost,
            ActionKind::Open,
            Outcome::Skipped,
            "another process works on it",
        )],
        (_, "1..*") => (1..=age / 60 + 2).map(plain).collect(),
        (_, many) => match many.split_once("..") {
            Some((from, to)) => (from.parse().unwrap()..=to.parse().unwrap())
                .map(plain)
                .collect(),
            None => many
                .split('+')
                .map(|slot| plain(slot.parse().unwrap()))
                .collect(),
        },
    }
}

fn finding(word: &str, cause: &Cause, slot: Option<i64>) -> Finding {
    let found = |kind| Finding {
        cause: cause.clone(),
        slot,
        ..Finding::report(kind, "")
    };
    match word {
        "braked" => Finding {
            result: Outcome::Planned,
            needs_person: false,
            ..found(Kind::MissingAdmission)
        },
        other => found(other.parse().unwrap()),
    }
}

/// The open promises of a drop, such as `1=1+2`.
fn promises(word: &str, begun: DateTime<Utc>) -> PromisesOfDrop {
    let (drop, cases) = word.split_once('=').unwrap();
    let drop: i64 = drop.parse().unwrap();
    let cases = Cases::from_hashes(cases.split('+').map(|case| case.parse().unwrap()));
    PromisesOfDrop {
        open: OpenPromises {
            coupon: CouponId(drop),
            drop: DropId(drop),
            number: cases.number(),
            last_at: begun,
        },
        cases,
    }
}
