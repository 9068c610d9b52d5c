//! What is wrong now, from a snapshot. Pure. A store is away if somebody has a problem with it and
//! nobody is fine; it refuses if anybody says so; a coupon is closed if every daemon that knows
//! says so. What nobody says is unknown.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::DropId;
use firstcome_shared::hash::hash64;
use firstcome_shared::mysql::levels::LevelRow;
use firstcome_shared::mysql::processes::{FreshProcess, LockHolder};
use firstcome_shared::process_state::{ConsumerState, ProcessState, StoreState};
use firstcome_shared::report::{AlertKind, Kind};
use serde_json::json;

use crate::condition::{Cases, Condition, Facts, LateRun, ScheduledRun, Seen, StoreProblem};
use crate::levels::LevelFacts;
use crate::queries::alerts::{OpenPromises, RepairsRow};
use crate::times::Source;

/// How late a scheduled run may be.
const LATE: TimeDelta = TimeDelta::minutes(5);

/// How long a pass may run until the next one counts as late.
const HANGS: TimeDelta = TimeDelta::minutes(30);

/// How long repairs count as present.
const REPAIRED: TimeDelta = TimeDelta::hours(1);

/// Everything that alerts are decided from, as of one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// MySQL answers: the rest was read there.
    pub is_read_from_mysql: bool,
    /// The processes that have announced themselves within 25 s.
    pub processes: Vec<FreshProcess>,
    pub levels: Vec<LevelRow>,
    /// The schedules of this process; empty if it has none.
    pub schedules: Vec<SeenSchedule>,
    /// The pass that holds the pass lock.
    pub holder: Option<LockHolder>,
    pub promises: Vec<PromisesOfDrop>,
    /// Repairs of the last hour, and older ones that no mail has named.
    pub repairs: Vec<RepairsRow>,
    /// The last mail about repairs.
    pub repairs_told_at: Option<DateTime<Utc>>,
}

/// A schedule and when it is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeenSchedule {
    pub schedule: ScheduledRun,
    /// The first time after its last run.
    pub due: Option<DateTime<Utc>>,
}

/// The open broken promises of a drop, with a hash of each user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromisesOfDrop {
    pub open: OpenPromises,
    pub cases: Cases,
}

/// Returns what is wrong, the most severe first, and what nobody knows.
pub fn conditions(snapshot: &Snapshot, now: DateTime<Utc>) -> (Vec<Condition>, BTreeSet<Source>) {
    let mut all = Vec::new();
    let mut unknown = BTreeSet::new();
    let mut note = |source, known| match known {
        Observation::Unknown => drop(unknown.insert(source)),
        Observation::Fine => {}
        Observation::Wrong(condition) => all.push(condition),
    };
    for (store, is_read) in [
        (REDIS, false),
        (KAFKA, false),
        (MYSQL, snapshot.is_read_from_mysql),
    ] {
        note(store.source, store_state(snapshot, &store, is_read));
    }
    note(Source::Gates, closed(snapshot));
    note(Source::Consumers, consumers(snapshot));
    match unsafe_settings(snapshot) {
        None => drop(unknown.insert(Source::Settings)),
        Some(found) => all.extend(found),
    }
    if snapshot.schedules.is_empty() {
        unknown.insert(Source::Schedules);
    }
    all.extend(
        snapshot
            .schedules
            .iter()
            .filter_map(|it| late(*it, snapshot, now)),
    );
    all.extend(snapshot.levels.iter().filter_map(of_level));
    all.extend(snapshot.promises.iter().map(of_promises));
    all.extend(repaired(snapshot, now));
    all.sort_by(|a, b| {
        (a.kind.facts().severity, a.kind, &a.name).cmp(&(b.kind.facts().severity, b.kind, &b.name))
    });
    (all, unknown)
}

enum Observation {
    /// Nobody says anything.
    Unknown,
    Fine,
    Wrong(Condition),
}

/// A store, and where its state and its kinds are.
struct WatchedStore {
    name: &'static str,
    source: Source,
    away: AlertKind,
    refuses: AlertKind,
    state: fn(&ProcessState) -> Option<&StoreState>,
}

const REDIS: WatchedStore = WatchedStore {
    name: "redis",
    source: Source::Redis,
    away: AlertKind::RedisUnreachable,
    refuses: AlertKind::RedisRefuses,
    state: |state| state.redis.as_ref(),
};

const KAFKA: WatchedStore = WatchedStore {
    name: "kafka",
    source: Source::Kafka,
    away: AlertKind::KafkaUnreachable,
    refuses: AlertKind::KafkaRefuses,
    state: |state| state.kafka.as_ref(),
};

const MYSQL: WatchedStore = WatchedStore {
    name: "mysql",
    source: Source::Mysql,
    away: AlertKind::MysqlUnreachable,
    refuses: AlertKind::MysqlRefuses,
    state: |state| state.mysql.as_ref(),
};

fn store_state(snapshot: &Snapshot, store: &WatchedStore, is_read: bool) -> Observation {
    let mut refusals = BTreeSet::new();
    let mut away = BTreeSet::new();
    let mut is_partly = false;
    let mut is_fine = is_read;
    for process in &snapshot.processes {
        let Some(state) = (store.state)(&process.state) else {
            continue;
        };
        let (problems, refusal, error) = match state {
            StoreState::Fine => {
                is_fine = true;
                continue;
            }
            StoreState::Refuses { refusal, error } => (&mut refusals, Some(*refusal), error),
            StoreState::Away(error) => (&mut away, None, error),
            StoreState::Partly(error) => {
                is_partly = true;
                (&mut away, None, error)
            }
        };
        problems.insert(StoreProblem {
            refusal,
            error: error.clone(),
        });
    }
    if !refusals.is_empty() {
        Observation::Wrong(of_store(store.name, store.refuses, refusals))
    } else if !away.is_empty() && (is_partly || !is_fine) {
        Observation::Wrong(of_store(store.name, store.away, away))
    } else if is_fine {
        Observation::Fine
    } else {
        Observation::Unknown
    }
}

/// The condition of a store. Its cases are silence and the refusals, not their words.
fn of_store(name: &str, kind: AlertKind, problems: BTreeSet<StoreProblem>) -> Condition {
    let cases = problems
        .iter()
        .map(|problem| hash64(json!([name, problem.refusal]).to_string()).cast_signed());
    Condition {
        cases: Cases::Each(cases.collect()),
        ..now_is(name, kind, Facts::Store(problems.into_iter().collect()))
    }
}

/// A condition without coupon and drop that is so now, with one case.
fn now_is(name: &str, kind: AlertKind, facts: Facts) -> Condition {
    Condition {
        name: name.to_owned(),
        kind,
        coupon: None,
        drop: None,
        cases: Cases::Each([0].into()),
        seen: Seen::Now,
        facts,
    }
}

/// The coupons that every daemon says are closed.
fn closed(snapshot: &Snapshot) -> Observation {
    let mut known = snapshot
        .processes
        .iter()
        .filter_map(|it| it.state.closed.as_ref());
    let Some(first) = known.next() else {
        return Observation::Unknown;
    };
    let closed = known.fold(first.clone(), |all, other| &all & other);
    if closed.is_empty() {
        return Observation::Fine;
    }
    let kind = AlertKind::AdmissionClosed;
    Observation::Wrong(Condition {
        // Each coupon is a case, by its id.
        cases: Cases::from_hashes(closed.iter().map(|coupon| coupon.0)),
        ..now_is(kind.word(), kind, Facts::Closed(closed))
    })
}

fn consumers(snapshot: &Snapshot) -> Observation {
    let mut known = snapshot
        .processes
        .iter()
        .filter_map(|it| it.state.consumers.as_ref());
    let Some(first) = known.next() else {
        return Observation::Unknown;
    };
    let all: Vec<&ConsumerState> = known.chain([first]).collect();
    let stands = all.into_iter().map(|state| match state {
        ConsumerState::Fine => None,
        ConsumerState::Stands(standstill) => Some(standstill),
    });
    // Each sees the same positions: one that sees them move is right.
    let Some(stands) = stands.collect::<Option<Vec<_>>>() else {
        return Observation::Fine;
    };
    let largest = stands.into_iter().max_by_key(|it| it.unread);
    let Some(standstill) = largest.cloned() else {
        return Observation::Unknown;
    };
    let kind = AlertKind::ConsumerStands;
    Observation::Wrong(now_is(kind.word(), kind, Facts::Standstill(standstill)))
}

/// The parts with unsafe settings, or `None` if nobody knows.
fn unsafe_settings(snapshot: &Snapshot) -> Option<Vec<Condition>> {
    let states = snapshot
        .processes
        .iter()
        .map(|it| &it.state.unsafe_settings);
    let known: Vec<_> = states.flatten().collect();
    if known.is_empty() {
        return None;
    }
    let mut by_part: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for setting in known.into_iter().flatten() {
        by_part
            .entry(setting.part)
            .or_default()
            .insert(setting.clone());
    }
    let kind = AlertKind::UnsafeSetting;
    let of_parts = by_part.into_iter().map(|(part, settings)| {
        let name = format!("{}.{}", kind.word(), <&str>::from(part));
        now_is(&name, kind, Facts::Unsafe(settings.into_iter().collect()))
    });
    Some(of_parts.collect())
}

fn late(seen: SeenSchedule, snapshot: &Snapshot, now: DateTime<Utc>) -> Option<Condition> {
    let is_late = seen.due.is_some_and(|due| due + LATE < now);
    let is_run = seen.schedule != ScheduledRun::Digest;
    let holder = snapshot.holder.clone().filter(|_| is_run);
    let is_working = (holder.as_ref()).is_some_and(|holder| now - holder.since < HANGS);
    if !is_late || is_working {
        return None;
    }
    let kind = AlertKind::RunMissed;
    let schedule = seen.schedule;
    let name = format!("{}.{}", kind.word(), schedule.setting());
    Some(now_is(
        &name,
        kind,
        Facts::Late(LateRun { schedule, holder }),
    ))
}

fn of_level(level: &LevelRow) -> Option<Condition> {
    if level.given_up {
        return None;
    }
    Some(Condition {
        name: level.name.clone(),
        kind: AlertKind::from_word(&level.kind)?,
        coupon: level.coupon_id,
        drop: level.drop_id,
        cases: Cases::from_bytes(level.number, level.cases.as_deref()),
        seen: Seen::Looks {
            first: level.first_at,
            last: level.last_at,
        },
        facts: match serde_json::from_str(&level.facts) {
            Ok(LevelFacts::Failing { cause, error }) => Facts::Failing { cause, error },
            // A later version may write others.
            Ok(LevelFacts::Found) | Err(_) => Facts::Found {
                run_id: level.run_id.clone(),
            },
        },
    })
}

fn of_promises(promises: &PromisesOfDrop) -> Condition {
    let OpenPromises { coupon, drop, .. } = promises.open;
    let kind = AlertKind::Left(Kind::BrokenPromise);
    let name = format!("{}.{coupon}.{drop}", kind.word());
    Condition {
        coupon: Some(coupon),
        drop: Some(drop),
        cases: promises.cases.clone(),
        ..now_is(&name, kind, Facts::Promises)
    }
}

/// Repairs are present for an hour, or until a mail has named them.
fn repaired(snapshot: &Snapshot, now: DateTime<Utc>) -> Option<Condition> {
    let told_at = snapshot.repairs_told_at;

    let last = snapshot.repairs.last()?;
    let news = snapshot
        .repairs
        .iter()
        .filter(|row| told_at.is_none_or(|at| row.repaired_at > at));
    let untold: Vec<RepairsRow> = news.cloned().collect();
    let is_recent = now - last.repaired_at < REPAIRED;
    if untold.is_empty() && !is_recent {
        return None;
    }
    let kind = AlertKind::Repaired;
    let cases = Cases::from_hashes(snapshot.repairs.iter().map(|row| {
        let RepairsRow {
            run_id,
            drop_id,
            kind,
            ..
        } = row;
        hash64(format!("{run_id} {drop_id} {kind}")).cast_signed()
    }));
    Some(Condition {
        cases,
        ..now_is(kind.word(), kind, Facts::Repairs(untold))
    })
}

/// A hash of a user who is owed a slot.
pub(crate) fn promise_case(drop: DropId, user: &str) -> i64 {
    hash64(format!("{drop} {user}")).cast_signed()
}
