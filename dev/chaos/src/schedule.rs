//! Draws one schedule per seed: the crowd, its coupons, and the time of each fault.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use firstcome_shared::crash::Point;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::fault::{COUPON_KEYS, DROP_KEYS, Fault, FaultyStore, ProcessRole, TABLES};
use crate::fault::{Garbage, WireFault};

/// The most processes of each kind in a drawn schedule.
const EACH: usize = 2;

/// Settings that make processes give up early, so that a short schedule covers these cases.
pub const IMPATIENT: [(&str, &str); 5] = [
    ("STORE_TIMEOUT_MS", "1000"),
    ("PUBLISH_DEADLINE_MS", "500"),
    ("FIRSTCOME_TEST_BACKUP_DEADLINE_MS", "500"),
    ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "1500"),
    ("FIRSTCOME_TEST_KAFKA_SESSION_MS", "2000"),
];

/// An expectation besides an exact result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// Every claim gets `unavailable` while a fault is active.
    Unavailable,
    /// Every claim gets `unavailable` or `sold_out` while a fault is active.
    NoPromise,
    /// Some claims get `unavailable`.
    Refusals,
    /// No user is admitted while a fault is active, and every refusal with a status below 500 has
    /// this code.
    Refused(String),
    /// Users are admitted while a fault is active, and Kafka acknowledges each of their claims in
    /// time. No claim gets a 5xx or no answer.
    Queued,
    /// Users are admitted while a fault is active, and Kafka acknowledges none of their claims in
    /// time. No claim gets a 5xx or no answer.
    Unqueued,
    /// At least one claim was admitted although its answer was lost or negative. Its retry gets
    /// `already_claimed`.
    AdmittedUnheard,
    /// The consumer wrote every row, and no claim failed.
    ByConsumer,
    /// The log of a process contains this text.
    Logged(String),
}

/// A run: its crowd, coupons, processes, faults and expectations. Times are in milliseconds since
/// its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultSchedule {
    /// The seed from which the schedule was drawn.
    pub seed: u64,
    /// Number of coupons, each with one open drop.
    pub coupons: u32,
    /// When a second drop of each coupon opens: the first one closes then. `None` if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_day_ms: Option<u64>,
    /// Number of slots in each drop.
    pub quantity: u32,
    /// Number of places on the waiting list.
    pub waiting_list: u32,
    pub once_per: String,
    /// Number of users who claim each coupon.
    pub people: u32,
    /// Whether user IDs are plain numbers, as from an auto-increment column. Otherwise they are
    /// `u-1`, `u-2`, ….
    pub numeric_ids: bool,
    /// The period in which users arrive.
    pub crowd_ms: u64,
    /// Percentage of users who claim again as soon as they get an answer.
    pub repeat_percent: u32,
    /// Percentage of users who, if they get a slot or wait for one, give it back or are revoked by
    /// an operator. Their number is limited, so that more users than slots remain.
    pub revoke_percent: u32,
    /// Number of users who are on the allow list of the first coupon from the start. 0 means that
    /// it has no allow list, like the other coupons.
    pub listed: u32,
    /// Whether an operator keeps adding users to that list and removing others.
    pub relisted: bool,
    /// Number of processes of each kind. At least two daemons run, unless a fault targets the
    /// daemon.
    pub processes: usize,
    /// Number of operators who keep changing the coupons.
    pub operators: u32,
    /// Number of users who keep looking up their claims.
    pub pollers: u32,
    /// Number of shops that use codes and undo uses.
    #[serde(default)]
    pub shops: u32,
    /// Additional settings of the processes in this schedule.
    pub settings: BTreeMap<String, String>,
    /// The faults, in order of time.
    pub faults: Vec<Timed>,
    /// Expectations besides an exact result.
    pub expect: Vec<Expect>,
}

/// A fault, its start time, and the coupon that it affects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// Milliseconds since the start.
    pub at_ms: u64,
    /// Index of the drop, for faults of one coupon: the first drops of all coupons, then their
    /// second ones. (They are numbered from 0.)
    pub coupon: usize,
    #[serde(flatten)]
    pub fault: Fault,
}

fn one_of<T: Clone>(rng: &mut StdRng, all: &[T]) -> T {
    all[rng.random_range(0..all.len())].clone()
}

impl FaultSchedule {
    /// Draws the schedule for a seed. A third of the schedules have one fault. For the others two
    /// to six are drawn, and those that could delete the last copy of a promise are left out. Half
    /// of all schedules have two processes of each kind, half have operators, half have shops. A
    /// fifth limit how fast rows are inserted. In a third, the next day begins amid the crowd.
    pub fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let coupons = rng.random_range(1..=3);
        let quantity = rng.random_range(30..=200) / coupons;
        let people = quantity * rng.random_range(13..=25) / 10;
        let crowd_ms = rng.random_range(3_000..=6_000);
        let alone = rng.random_bool(0.33);
        let number = if alone { 1 } else { rng.random_range(2..=6) };
        // Later faults would have little effect, because everything is sold. Some faults take a
        // while to begin.
        let latest = crowd_ms * u64::from(quantity) / u64::from(people) * 2 / 3;
        let mut timed = || Timed {
            at_ms: rng.random_range(200..latest),
            coupon: rng.random_range(0..coupons as usize),
            fault: fault(&mut rng),
        };
        let mut faults: Vec<Timed> = (0..number).map(|_| timed()).collect();
        // If Redis may lose an admission, a fault that also loses its row or message would delete
        // every copy.
        if faults.iter().any(|hit| hit.fault.forgets_admissions()) {
            faults.retain(|hit| !hit.fault.forgets_rows());
        }
        faults.sort_by_key(|timed| timed.at_ms);
        // A quarter of the seeds has an allow list. Some lists are too short for the quantity.
        let percent = one_of(&mut rng, &[40, 67, 90]);
        let is_listed = rng.random_bool(0.25);
        // If MySQL has forgotten a change of the list, no store shows whether it was made.
        let goes_back = |hit: &Timed| matches!(hit.fault, Fault::OldDatabase { .. });
        let may_change = is_listed && !faults.iter().any(goes_back);
        let schedule = Self {
            seed,
            coupons,
            next_day_ms: None,
            quantity,
            waiting_list: quantity / 4 * u32::from(rng.random_bool(0.3)),
            once_per: one_of(&mut rng, &["coupon", "drop"]).into(),
            people,
            numeric_ids: seed.is_multiple_of(2),
            crowd_ms,
            repeat_percent: rng.random_range(0..=30),
            // Low enough that more users claim than there are slots and revocations.
            revoke_percent: rng.random_range(2..=15) * u32::from(rng.random_bool(0.7)),
            listed: people * percent / 100 * u32::from(is_listed),
            relisted: may_change && rng.random_bool(0.6),
            // As they start, processes use most of the CPU time of a schedule.
            processes: rng.random_range(1..=EACH),
            operators: one_of(&mut rng, &[0, 2]),
            pollers: one_of(&mut rng, &[0, 2, 10]),
            shops: one_of(&mut rng, &[0, 2]),
            settings: pace(&mut rng),
            faults,
            expect: Vec::new(),
        };
        if rng.random_bool(0.34) {
            schedule.over_two_days(&mut rng)
        } else {
            schedule
        }
    }

    /// Divides the quantity between two days, so that the crowd is large enough for both. Each fault
    /// affects one of them, and garbage one that is still open, because nobody reads the keys of a
    /// sealed drop.
    fn over_two_days(mut self, rng: &mut StdRng) -> Self {
        let begins_ms = self.crowd_ms * rng.random_range(25..=60) / 100;
        for timed in &mut self.faults {
            let is_garbage = matches!(timed.fault, Fault::WrongType { .. });
            let is_second = rng.random_bool(0.5) || is_garbage && timed.at_ms + 1_000 > begins_ms;
            timed.coupon += self.coupons as usize * usize::from(is_second);
        }
        Self {
            next_day_ms: Some(begins_ms),
            quantity: self.quantity / 2,
            waiting_list: self.waiting_list / 2,
            ..self
        }
    }

    /// Creates a short schedule of these faults, with one API and one consumer.
    pub fn of(faults: Vec<Timed>, expect: Vec<Expect>) -> Self {
        let settings = IMPATIENT.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Self {
            seed: 0,
            coupons: 1,
            next_day_ms: None,
            quantity: 80,
            waiting_list: 0,
            once_per: "coupon".into(),
            people: 100,
            numeric_ids: false,
            crowd_ms: 4_000,
            repeat_percent: 20,
            revoke_percent: 0,
            listed: 0,
            relisted: false,
            processes: 1,
            operators: 0,
            pollers: 0,
            shops: 0,
            settings: settings.into(),
            faults,
            expect,
        }
    }

    /// Returns the number of drops of each coupon.
    pub fn days(&self) -> u32 {
        1 + u32::from(self.next_day_ms.is_some())
    }

    /// Returns the highest quantity that an operator sets. It is below the number of users who
    /// claim on each day.
    pub fn most(&self) -> u32 {
        self.quantity + (self.people / self.days() - self.quantity) / 2
    }

    pub(crate) fn has(&self, fits: impl Fn(&Fault) -> bool) -> bool {
        self.faults.iter().any(|timed| fits(&timed.fault))
    }

    /// Returns how far Redis's clock goes ahead. If the message of a claim from that period is
    /// lost, the claim becomes a row only once the clock has reached the claim's time.
    pub(crate) fn clock_lead(&self) -> Duration {
        let lead = |timed: &Timed| match timed.fault {
            Fault::RedisClock { shift_ms, .. } => u64::try_from(shift_ms).unwrap_or_default(),
            _ => 0,
        };
        Duration::from_millis(self.faults.iter().map(lead).max().unwrap_or_default())
    }

    /// Returns the user ID of a user.
    pub fn user_id(&self, number: u32) -> String {
        if self.numeric_ids {
            (number + 1).to_string()
        } else {
            format!("u-{number}")
        }
    }

    /// Returns the initial allow list: the users with the lowest numbers, who arrive in random
    /// order.
    pub fn listed_people(&self) -> Vec<String> {
        (0..self.listed)
            .map(|number| self.user_id(number))
            .collect()
    }

    /// Returns an estimate of when the last fault ends at the latest, in milliseconds since the
    /// start: 20 s for each fault, because faults of one server wait for each other.
    pub fn ends_ms(&self) -> u64 {
        self.crowd_ms + 20_000 * self.faults.len() as u64
    }
}

/// Draws a limit for a fifth of the schedules. It is below the rate at which users get slots, and the
/// rows of the largest schedule are still inserted in a quarter of the time limit of a recovery.
fn pace(rng: &mut StdRng) -> BTreeMap<String, String> {
    let rows_per_second: u32 = rng.random_range(20..=50);
    let is_limited = rng.random_bool(0.2);
    let limit = is_limited.then(|| ("ROWS_PER_SECOND".to_owned(), rows_per_second.to_string()));
    limit.into_iter().collect()
}

fn role(rng: &mut StdRng) -> ProcessRole {
    one_of(rng, &ProcessRole::ALL)
}

fn number(rng: &mut StdRng) -> usize {
    rng.random_range(0..EACH)
}

fn store(rng: &mut StdRng) -> FaultyStore {
    one_of(rng, &FaultyStore::ALL)
}

/// Draws the age of a copy, in milliseconds.
fn age(rng: &mut StdRng) -> u64 {
    rng.random_range(200..=2_500)
}

fn key(rng: &mut StdRng) -> String {
    one_of(rng, &[DROP_KEYS, COUPON_KEYS].concat()).to_owned()
}

/// Extends a duration in half of the cases.
fn longer(rng: &mut StdRng, ms: u64, by: u64) -> u64 {
    ms + by * u64::from(rng.random_bool(0.5))
}

/// A function that draws one fault. It gets a duration of 0.2 to 3 s.
type Draw = fn(&mut StdRng, u64) -> Fault;

/// The faults, with their relative frequencies.
#[rustfmt::skip]
const WEIGHTS: &[(u32, Draw)] = &[
    (3, |rng, ms| Fault::Kill { role: role(rng), number: number(rng), ms }),
    // A consumer frozen for longer than its session loses its partitions, and then continues with a
    // batch that it has already read.
    (2, |rng, ms| Fault::Freeze { role: role(rng), number: number(rng), ms: longer(rng, ms, 6_000) }),
    (4, crash),
    (1, |rng, ms| Fault::Clock { role: role(rng), number: number(rng),
        seconds: one_of(rng, &[-7_200, -90, -10, 10, 90, 7_200]), ms }),
    (1, |rng, ms| Fault::ColdStart { store: store(rng), ms: ms + 1_000 }),
    (2, |rng, ms| Fault::KillServer { store: store(rng), ms }),
    // Most of these pauses are longer than the publishing deadline.
    (2, |rng, ms| Fault::FreezeServer { store: store(rng), ms: longer(rng, ms, 2_000) }),
    (3, |rng, ms| Fault::Wire { store: store(rng), wire: one_of(rng, &[WireFault::Delay,
        WireFault::Cut, WireFault::BlackHole, WireFault::DropReplies, WireFault::HalfClose]), ms }),
    // Longer than any timeout of the processes, including a consumer's session.
    (3, |rng, ms| Fault::Silent { store: store(rng), process: rng.random_bool(0.5), ms: ms + 6_000 }),
    (1, |rng, _| Fault::TruncatedAof { percent: rng.random_range(5..=100) }),
    (1, |_, _| Fault::Flush),
    (1, |rng, _| Fault::OldCopy { age_ms: age(rng) }),
    (1, |rng, _| Fault::StaleReplica { lag_ms: age(rng) }),
    (1, |rng, _| Fault::Demotion { lag_ms: age(rng) }),
    // A step of two hours moves the clock out of the windows, which end in half an hour.
    (1, |rng, ms| Fault::RedisClock { ms: ms + 1_000,
        shift_ms: one_of(rng, &[-7_200_000, -7_200_000, -90_000, 90_000, 90_000, 90_000]) }),
    // Steps that are shorter than a lease.
    (1, |rng, ms| Fault::RedisClock { shift_ms: one_of(rng, &[-150, -30, 30, 150]), ms }),
    (1, |rng, ms| one_of(rng, &[Fault::RedisDiskFull { ms }, Fault::RedisMemory { ms }])),
    (1, |_, ms| Fault::RedisSnapshotFails { ms }),
    (3, |rng, _| Fault::KeyLost { key: key(rng) }),
    (1, |_, _| Fault::DropKeysLost),
    (2, |rng, ms| Fault::WrongType { key: key(rng), ms: ms + 2_000 }),
    (1, |rng, _| Fault::RestoredKeys { age_ms: age(rng) }),
    (1, |_, ms| Fault::MysqlReadOnly { ms }),
    (1, |rng, ms| one_of(rng, &[Fault::MysqlLocks { ms }, Fault::MysqlDeadlocks { ms }])),
    (2, |rng, ms| Fault::MysqlHangs { writes: rng.random_bool(0.5), ms: longer(rng, ms, 5_000) }),
    (1, |_, ms| Fault::MysqlDiskFull { ms }),
    (1, |rng, _| Fault::OldRows { age_ms: age(rng) }),
    (2, |rng, _| Fault::OldDatabase { age_ms: age(rng) }),
    (2, |rng, _| Fault::TableLost { table: one_of(rng, &TABLES).into() }),
    (1, |rng, _| Fault::PositionsMoved { by: one_of(rng, &[-20, -3, 3, 1_000]) }),
    (1, |_, _| Fault::TopicRecreated),
    (1, |rng, _| Fault::MorePartitions { partitions: rng.random_range(4..=9) }),
    (1, |_, ms| Fault::Garbage { garbage: Garbage::Garbled, ms }),
    (2, |rng, ms| Fault::Garbage { garbage: one_of(rng, &[Garbage::Messages, Garbage::DeadLetters,
        Garbage::Forged, Garbage::Oversized]), ms }),
    (1, |_, ms| Fault::MailsRefused { ms: ms + 2_000 }),
    (1, |_, _| Fault::BlindConfirm),
];

fn fault(rng: &mut StdRng) -> Fault {
    let mut at = rng.random_range(0..WEIGHTS.iter().map(|(weight, _)| weight).sum());
    let ms = rng.random_range(200..=3_000);
    for (weight, draw) in WEIGHTS {
        if at < *weight {
            return draw(rng, ms);
        }
        at -= weight;
    }
    Fault::Flush
}

/// Returns the kind of process that dies at a crash point in drawn schedules. `None` if no schedule
/// reaches the point.
fn dying_role(point: Point) -> Option<ProcessRole> {
    match point {
        Point::ClaimAsked
        | Point::ClaimAdmitted
        | Point::ClaimSent
        | Point::ClaimPublished
        | Point::ClaimKept
        | Point::RevocationWritten
        | Point::RevocationReleased
        | Point::RevocationEnded
        | Point::ListWritten
        | Point::ListFollowed => Some(ProcessRole::Api),
        Point::RowsBegun | Point::RowsInserted | Point::FallbackInserted | Point::RowsCommitted => {
            Some(ProcessRole::Consumer)
        }
        Point::RunBegun
        | Point::EraBegun
        | Point::RepairBegun
        | Point::DropLoaded
        | Point::PeopleRebuilt
        | Point::PersonPromoted
        | Point::BrokenListed
        | Point::RowReissued
        | Point::GateDue
        | Point::GateOpened
        | Point::RunDone
        | Point::RunRecorded
        | Point::MailDue
        | Point::MailSent => Some(ProcessRole::Reconciler),
        // Schedules configure no webhook.
        Point::WebhookDue | Point::WebhookSent => None,
    }
}

fn crash(rng: &mut StdRng, ms: u64) -> Fault {
    let role = role(rng);
    let points = Point::ALL.iter().copied();
    let points: Vec<Point> = points
        .filter(|point| dying_role(*point) == Some(role))
        .collect();
    let point = one_of(rng, &points).name();
    // An API dies the first, second or third time that it reaches the point. A consumer reaches it
    // only once the group has noticed that its predecessor is dead.
    let (nth, patience) = match role {
        ProcessRole::Api => (rng.random_range(1..=3), 2_000),
        _ => (1, 9_000),
    };
    Fault::Crash {
        role,
        number: number(rng),
        point: format!("{point}:{nth}"),
        ms: ms + patience,
    }
}

impl fmt::Display for FaultSchedule {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "seed {}: {} × {} users for {} in {} ms, one each per {}; {} may wait, {} % give it back \
             or are revoked, {} on an allow list (changing: {}), {} operators, {} poll, {} shops",
            self.seed,
            self.coupons,
            self.people,
            self.quantity,
            self.crowd_ms,
            self.once_per,
            self.waiting_list,
            self.revoke_percent,
            self.listed,
            self.relisted,
            self.operators,
            self.pollers,
            self.shops
        )?;
        if let Some(ms) = self.next_day_ms {
            write!(out, ", the next day begins at {ms} ms")?;
        }
        for (name, value) in &self.settings {
            write!(out, "\n  {name}={value}")?;
        }
        let mut faults = self.faults.iter();
        faults.try_for_each(|it| write!(out, "\n  {:>5} ms  {}", it.at_ms, it.fault))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;
    use crate::run::DEADLINE;

    #[test]
    fn each_seed_always_draws_one_useful_schedule_which_survives_json() {
        for seed in 0..200 {
            let schedule = FaultSchedule::draw(seed);
            assert_eq!(schedule, FaultSchedule::draw(seed));
            let text = serde_json::to_string(&schedule).unwrap();
            assert_eq!(schedule, serde_json::from_str(&text).unwrap());
            let is_useful = schedule.people > schedule.quantity * schedule.days()
                && !schedule.faults.is_empty();
            assert!(is_useful, "{schedule}");
        }
    }

    #[test]
    fn a_fifth_of_the_seeds_limits_the_pace_of_rows_so_that_they_come_in_time() {
        let schedules: Vec<_> = (1..=1_000).map(FaultSchedule::draw).collect();
        let pace = |schedule: &FaultSchedule| {
            let limit = schedule.settings.get("ROWS_PER_SECOND")?;
            Some(limit.parse::<u64>().unwrap())
        };
        let paced = schedules.iter().filter(|it| pace(it).is_some()).count();
        assert!((150..=250).contains(&paced), "{paced}");
        for schedule in &schedules {
            let rows = u64::from(schedule.coupons * schedule.days() * schedule.most());
            let seconds = pace(schedule).map_or(0, |limit| rows / limit);
            assert!(seconds <= DEADLINE.as_secs() / 4, "{schedule}");
        }
    }

    #[test]
    fn a_third_of_the_seeds_has_two_days_each_with_enough_users_and_faults() {
        let all = || (1..=1_000).map(FaultSchedule::draw);
        let two: Vec<_> = all().filter(|it| it.days() == 2).collect();
        assert!((290..=390).contains(&two.len()), "{}", two.len());
        assert!(two.iter().all(|it| it.people > 2 * it.most()));
        let is_of_day = |it: &FaultSchedule, day: usize| {
            let day_of = |timed: &Timed| timed.coupon / it.coupons as usize;
            it.faults.iter().any(|timed| day_of(timed) == day)
        };
        for day in [0, 1] {
            assert!(two.iter().filter(|it| is_of_day(it, day)).count() > 200);
        }
        assert!(all().all(|it| !is_of_day(&it, it.days() as usize)));
    }

    /// Counts each kind of fault together with each of its targets.
    #[test]
    fn a_thousand_seeds_draw_each_weighted_fault_on_each_of_its_targets() {
        let all = (1..=1_000).flat_map(|seed| FaultSchedule::draw(seed).faults);
        let drawn: BTreeSet<String> = all.map(|timed| timed.fault.name()).collect();
        // Faults of processes, crash points, faults of servers, Redis, MySQL, Kafka, garbage, and
        // others.
        let points = Point::ALL.len() - 2;
        let kinds = 9 + points + 31 + 34 + 12 + 3 + 5 + 2;
        assert_eq!(drawn.len(), kinds, "{drawn:#?}");
    }

    #[test]
    fn each_crash_point_is_drawn_for_its_process_except_those_of_webhooks() {
        let all = (1..=1_000).flat_map(|seed| FaultSchedule::draw(seed).faults);
        let drawn: HashSet<Point> = all.filter_map(|timed| timed.fault.crash_point()).collect();
        let missing = Point::ALL.iter().filter(|point| !drawn.contains(point));
        let missing: Vec<_> = missing.copied().collect();
        assert_eq!(missing, [Point::WebhookDue, Point::WebhookSent]);
    }
}
