//! What is wrong now, from a snapshot. Pure. A store is away if somebody has a problem with it and
//! nobody is fine; it refuses if anybody says so; a coupon is closed if every daemon that knows
//! says so. What nobody says is unknown.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::DropId;
use firstcome_shared::hash::hash64;
use firstcome_shared::mysql::processes::{FreshProcess, LockHolder};
use firstcome_shared::process_state::{ConsumerState, ProcessState, StoreState};
use firstcome_shared::report::{AlertKind, Kind};
use serde_json::json;

use crate::condition::{Cases, Condition, Facts, ScheduledRun, Seen, StoreProblem};
use crate::queries::alerts::{OpenPromises, RepairsRow};
use crate::queries::levels::LevelRow;
use crate::times::Source;

/// How late a scheduled run may be.
const LATE: TimeDelta = TimeDelta::minutes(5);

/// How long a pass may run until the next one counts as late.
const HANGS: TimeDelta = TimeDelta::minutes(30);

/// How long repairs count as present.
pub(crate) const REPAIRED: TimeDelta = TimeDelta::hours(1);

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
    let mut note = |source, known: Option<Vec<Condition>>| match known {
        Some(found) => all.extend(found),
        None => drop(unknown.insert(source)),
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
    note(Source::Settings, unsafe_settings(snapshot));
    note(Source::Schedules, late(snapshot, now));
    all.extend(snapshot.levels.iter().filter_map(of_level));
    all.extend(snapshot.promises.iter().map(of_promises));
    all.extend(repaired(snapshot, now));
    all.sort_by(|a, b| {
        (a.kind.facts().severity, a.kind, &a.name).cmp(&(b.kind.facts().severity, b.kind, &b.name))
    });
    (all, unknown)
}

impl Snapshot {
    /// What the processes say of one thing, without those that do not know it. `None` if none does.
    fn says<'a, T: 'a>(
        &'a self,
        of: impl Fn(&'a ProcessState) -> Option<&'a T>,
    ) -> Option<Vec<&'a T>> {
        let all = self.processes.iter().filter_map(|it| of(&it.state));
        Some(all.collect::<Vec<_>>()).filter(|all| !all.is_empty())
    }
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

/// What is wrong with a store. `None` if nobody says anything.
fn store_state(snapshot: &Snapshot, store: &WatchedStore, is_read: bool) -> Option<Vec<Condition>> {
    let mut refusals = BTreeSet::new();
    let mut away = BTreeSet::new();
    let mut is_partly = false;
    let mut is_fine = is_read;
    for state in snapshot.says(store.state).unwrap_or_default() {
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
        Some(vec![of_store(store.name, store.refuses, refusals)])
    } else if !away.is_empty() && (is_partly || !is_fine) {
        Some(vec![of_store(store.name, store.away, away)])
    } else {
        is_fine.then(Vec::new)
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
fn closed(snapshot: &Snapshot) -> Option<Vec<Condition>> {
    let known = snapshot.says(|state| state.closed.as_ref())?.into_iter();
    let closed = known.cloned().reduce(|all, other| &all & &other)?;
    if closed.is_empty() {
        return Some(Vec::new());
    }
    let kind = AlertKind::AdmissionClosed;
    Some(vec![Condition {
        // Each coupon is a case, by its id.
        cases: Cases::from_hashes(closed.iter().map(|coupon| coupon.0)),
        ..now_is(kind.word(), kind, Facts::Closed(closed))
    }])
}

fn consumers(snapshot: &Snapshot) -> Option<Vec<Condition>> {
    let known = snapshot.says(|state| state.consumers.as_ref())?;
    let stands = known.into_iter().map(|state| match state {
        ConsumerState::Fine => None,
        ConsumerState::Stands(standstill) => Some(standstill),
    });
    // Each sees the same positions: one that sees them move is right.
    let Some(stands) = stands.collect::<Option<Vec<_>>>() else {
        return Some(Vec::new());
    };
    let largest = stands.into_iter().max_by_key(|it| it.unread)?.clone();
    let kind = AlertKind::ConsumerStands;
    Some(vec![now_is(kind.word(), kind, Facts::Standstill(largest))])
}

/// The parts with unsafe settings.
fn unsafe_settings(snapshot: &Snapshot) -> Option<Vec<Condition>> {
    let known = snapshot.says(|state| state.unsafe_settings.as_ref())?;
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

/// The schedules that are late. `None` if this process has none.
fn late(snapshot: &Snapshot, now: DateTime<Utc>) -> Option<Vec<Condition>> {
    let late = snapshot.schedules.iter().filter_map(|seen| {
        let due = seen.due.filter(|due| *due + LATE < now)?;
        let schedule = seen.schedule;
        let is_run = schedule != ScheduledRun::Digest;
        let holder = snapshot.holder.clone().filter(|_| is_run);
        if (holder.as_ref()).is_some_and(|holder| now - holder.since < HANGS) {
            return None;
        }
        let kind = AlertKind::RunMissed;
        let name = format!("{}.{}", kind.word(), schedule.setting());
        Some(Condition {
            seen: Seen::Looks {
                first: due,
                last: now,
            },
            ..now_is(&name, kind, Facts::Late { schedule, holder })
        })
    });
    (!snapshot.schedules.is_empty()).then(|| late.collect())
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
            Ok(Some((cause, error))) => Facts::Failing { cause, error },
            // A later version may write others.
            Ok(None) | Err(_) => Facts::Found {
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
    let last = snapshot.repairs.last()?;
    let news = snapshot.repairs.iter().filter(|row| !row.told);
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
