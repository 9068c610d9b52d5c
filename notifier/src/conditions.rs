//! What is wrong now, from a snapshot. Pure. A store is away if somebody has a problem with it and
//! nobody is fine; it refuses if anybody says so; a coupon is closed if every daemon that knows says
//! so. What nobody says is unknown.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::hash::hash64;
use firstcome_shared::mysql::alerts::{OpenPromises, RepairsRow};
use firstcome_shared::process_state::{ConsumerState, ProcessState, StoreState};
use serde_json::json;

use crate::condition::{
    Cases, Condition, Facts, LateRun, PassHolder, ScheduledRun, Seen, StoreProblem,
};
use crate::levels::{Level, LevelFacts};
use crate::report::{AlertKind, FailureCause, Kind, StoreRefusal};
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
    /// The processes that have announced themselves within 25 s.
    pub processes: Vec<SeenProcess>,
    pub levels: Vec<Level>,
    /// The schedules of this process; empty if it has none.
    pub schedules: Vec<SeenSchedule>,
    pub holder: Option<PassHolder>,
    pub promises: Vec<PromisesOfDrop>,
    /// Repairs of the last hour, and older ones that no mail has named.
    pub repairs: Vec<RepairsRow>,
    /// The last mail about repairs.
    pub repairs_told_at: Option<DateTime<Utc>>,
}

/// A process and what it knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenProcess {
    /// Its role and owner, for people.
    pub host: String,
    pub state: ProcessState,
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
    for store in STORES {
        match store_state(snapshot, &store) {
            Known::Unknown => drop(unknown.insert(store.source)),
            Known::Fine => {}
            Known::Wrong(condition) => all.push(condition),
        }
    }
    match closed(snapshot) {
        Known::Unknown => drop(unknown.insert(Source::Gates)),
        Known::Fine => {}
        Known::Wrong(condition) => all.push(condition),
    }
    match consumers(snapshot) {
        Known::Unknown => drop(unknown.insert(Source::Consumers)),
        Known::Fine => {}
        Known::Wrong(condition) => all.push(condition),
    }
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

enum Known {
    /// Nobody says anything.
    Unknown,
    Fine,
    Wrong(Condition),
}

/// A store, and where its state and its kinds are.
struct WatchedStore {
    name: &'static str,
    cause: FailureCause,
    source: Source,
    away: AlertKind,
    refuses: AlertKind,
    state: fn(&ProcessState) -> Option<&StoreState>,
    /// Whether the snapshot itself shows that it answers.
    is_read: bool,
}

const STORES: [WatchedStore; 3] = [
    WatchedStore {
        name: "redis",
        cause: FailureCause::Redis,
        source: Source::Redis,
        away: AlertKind::RedisUnreachable,
        refuses: AlertKind::RedisRefuses,
        state: |state| state.redis.as_ref(),
        is_read: false,
    },
    WatchedStore {
        name: "kafka",
        cause: FailureCause::Kafka,
        source: Source::Kafka,
        away: AlertKind::KafkaUnreachable,
        refuses: AlertKind::KafkaRefuses,
        state: |state| state.kafka.as_ref(),
        is_read: false,
    },
    WatchedStore {
        name: "mysql",
        cause: FailureCause::Mysql,
        source: Source::Mysql,
        away: AlertKind::MysqlUnreachable,
        refuses: AlertKind::MysqlRefuses,
        state: |state| state.mysql.as_ref(),
        is_read: true,
    },
];

fn store_state(snapshot: &Snapshot, store: &WatchedStore) -> Known {
    let mut refusals: BTreeMap<String, StoreProblem> = BTreeMap::new();
    let mut away: BTreeMap<String, StoreProblem> = BTreeMap::new();
    let mut is_partly = false;
    let mut is_fine = store.is_read;
    let mut is_known = store.is_read;
    for process in &snapshot.processes {
        let Some(state) = (store.state)(&process.state) else {
            continue;
        };
        is_known = true;
        let (problems, error) = match state {
            StoreState::Fine => {
                is_fine = true;
                continue;
            }
            StoreState::Refuses(error) => (&mut refusals, error),
            StoreState::Away(error) => (&mut away, error),
            StoreState::Partly(error) => {
                is_partly = true;
                (&mut away, error)
            }
        };
        let problem = problems
            .entry(error.clone())
            .or_insert_with(|| StoreProblem {
                refusal: StoreRefusal::from_error(store.cause, error),
                error: error.clone(),
                hosts: Vec::new(),
            });
        problem.hosts.push(process.host.clone());
    }
    let (kind, problems) = if !refusals.is_empty() {
        (store.refuses, refusals)
    } else if !away.is_empty() && (is_partly || !is_fine) {
        (store.away, away)
    } else if is_known {
        return Known::Fine;
    } else {
        return Known::Unknown;
    };
    Known::Wrong(of_store(store.name, kind, problems.into_values().collect()))
}

/// The condition of a store. Its cases are silence and the refusals, not their words.
pub(crate) fn of_store(name: &str, kind: AlertKind, problems: Vec<StoreProblem>) -> Condition {
    let case =
        |problem: &StoreProblem| hash64(json!([name, problem.refusal]).to_string()).cast_signed();
    let cases: BTreeSet<i64> = problems.iter().map(case).collect();
    Condition {
        cases: Cases::Each(cases),
        ..now_is(name, kind, Facts::Store(problems))
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
fn closed(snapshot: &Snapshot) -> Known {
    let mut known = snapshot
        .processes
        .iter()
        .filter_map(|it| it.state.closed.as_ref());
    let Some(first) = known.next() else {
        return Known::Unknown;
    };
    let closed = known.fold(first.clone(), |all, other| &all & other);
    of_closed(closed).map_or(Known::Fine, Known::Wrong)
}

/// The condition of these closed coupons: each is a case, by its id.
pub(crate) fn of_closed(closed: BTreeSet<CouponId>) -> Option<Condition> {
    let kind = AlertKind::AdmissionClosed;
    let cases = Cases::from_hashes(closed.iter().map(|coupon| coupon.0));
    (!closed.is_empty()).then(|| Condition {
        cases,
        ..now_is(kind.word(), kind, Facts::Closed(closed))
    })
}

fn consumers(snapshot: &Snapshot) -> Known {
    let mut known = snapshot
        .processes
        .iter()
        .filter_map(|it| it.state.consumers.as_ref());
    let Some(first) = known.next() else {
        return Known::Unknown;
    };
    let all: Vec<&ConsumerState> = known.chain([first]).collect();
    let stands = all.into_iter().map(|state| match state {
        ConsumerState::Fine => None,
        ConsumerState::Stands(standstill) => Some(standstill),
    });
    // Each sees the same positions: one that sees them move is right.
    let Some(stands) = stands.collect::<Option<Vec<_>>>() else {
        return Known::Fine;
    };
    let largest = stands.into_iter().max_by_key(|it| it.unread);
    let Some(standstill) = largest.cloned() else {
        return Known::Unknown;
    };
    let kind = AlertKind::ConsumerStands;
    Known::Wrong(now_is(kind.word(), kind, Facts::Standstill(standstill)))
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
    let of_part = |(part, settings): (_, BTreeSet<_>)| {
        let name = format!("{}.{}", kind.word(), <&str>::from(part));
        now_is(&name, kind, Facts::Unsafe(settings.into_iter().collect()))
    };
    Some(by_part.into_iter().map(of_part).collect())
}

fn late(seen: SeenSchedule, snapshot: &Snapshot, now: DateTime<Utc>) -> Option<Condition> {
    let due = seen.due.filter(|due| *due + LATE < now)?;
    let is_working = |holder: &PassHolder| now - holder.since < HANGS;
    let runs = seen.schedule != ScheduledRun::Digest;
    if runs && snapshot.holder.as_ref().is_some_and(is_working) {
        return None;
    }
    let kind = AlertKind::RunMissed;
    let name = format!("{}.{}", kind.word(), seen.schedule.setting());
    let late = LateRun {
        schedule: seen.schedule,
        due,
        holder: snapshot.holder.clone().filter(|_| runs),
    };
    Some(now_is(&name, kind, Facts::Late(late)))
}

fn of_level(level: &Level) -> Option<Condition> {
    if level.given_up {
        return None;
    }
    Some(Condition {
        name: level.name.clone(),
        kind: AlertKind::from_word(&level.kind)?,
        coupon: level.coupon,
        drop: level.drop,
        cases: level.cases.clone(),
        seen: Seen::Looks {
            first: level.first_at,
            last: level.last_at,
        },
        facts: match &level.facts {
            LevelFacts::Found => Facts::Found {
                run_id: level.run_id.clone(),
            },
            LevelFacts::Failing { cause, error } => Facts::Failing {
                cause: *cause,
                error: error.clone(),
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
    let is_untold = |row: &&RepairsRow| told_at.is_none_or(|at| row.repaired_at > at);
    let last = snapshot.repairs.last()?;
    let untold: Vec<RepairsRow> = snapshot.repairs.iter().filter(is_untold).cloned().collect();
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
