//! Random timelines of eight hours: conditions that come and go, looks that judge only some of
//! them, sources that nobody knows about, MySQL away, several daemons that evaluate one after the
//! other, acknowledgements, a mail server that is away. The oracle checks each evaluation.
//!
//! `TIMELINES=10000 cargo test -p firstcome-notifier timelines` plays more of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::report::{FailureCause, Kind};
use proptest::prelude::*;

use super::oracle::{self, Broken, Moment, Most, Oracle};
use super::*;
use crate::condition::{Facts, ScheduledRun};

const HOURS: i64 = 8;

/// Seconds between two evaluations if something changes, and if nothing does.
const TICK: i64 = 5;
const IDLE: i64 = 60;

/// A small generator of random numbers, so that a timeline is its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.roll() % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        let at = self.below(of.len() as u64);
        of[usize::try_from(at).unwrap()]
    }

    /// Once in `seconds`, on average, if it is asked at each tick.
    fn once_in(&mut self, seconds: i64) -> bool {
        self.below(seconds.unsigned_abs()) < TICK.unsigned_abs()
    }
}

/// A mistake that a law must notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mutant {
    /// What is explained is taken for absent.
    ExplainedIsAbsent,
    /// What nobody knows is taken for absent.
    UnknownIsAbsent,
    /// What nobody knows is taken for what was known before.
    UnknownIsAsBefore,
    /// An end is told as soon as a condition is away, however often it came back.
    ForgetsReturns,
    /// The state stays in the process, and a restart loses it.
    ForgetsTold,
    /// A look counts again and again.
    OneLookIsEnough,
    /// The budget has no exception, and what is due is lost.
    DropsWhatIsDue,
    /// There is no budget.
    NoBudget,
    /// An acknowledgement is not read.
    NotAcknowledged,
    /// The evaluators have their own copies.
    TwoCopies,
    /// Nothing is ever told again.
    NoNews,
}

/// Something that may be wrong.
struct Trouble {
    condition: Condition,
    source: Source,
    /// Seconds between its changes.
    flap: i64,
    is_on: bool,
    cases: BTreeSet<i64>,
    /// What the last look that judged it saw.
    level: Option<Condition>,
}

struct World {
    dice: Dice,
    troubles: Vec<Trouble>,
    looks: i64,
    next_look: i64,
    unknown_until: BTreeMap<Source, i64>,
    mysql_away_until: i64,
    mail_away_until: i64,
    daemons: u64,
    rows: Alerts,
    budget: Budget,
    /// Something is different since the last evaluation.
    has_changed: bool,
    /// Conditions of the last time that their source was known.
    before: Vec<Condition>,
}

/// The kinds of a timeline, and the seconds after which they come and go.
const KINDS: [(AlertKind, bool); 16] = [
    (AlertKind::RedisUnreachable, false),
    (AlertKind::KafkaUnreachable, false),
    (AlertKind::MysqlRefuses, false),
    (AlertKind::AdmissionClosed, false),
    (AlertKind::UnsafeSetting, false),
    (AlertKind::ConsumerStands, false),
    (AlertKind::RunMissed, false),
    (AlertKind::Repaired, false),
    (AlertKind::Left(Kind::BrokenPromise), true),
    (AlertKind::Left(Kind::RedisLost), true),
    (AlertKind::Left(Kind::Unissued), true),
    (AlertKind::Left(Kind::FailedClaim), true),
    (AlertKind::Braked, true),
    (AlertKind::RunFailed, false),
    (AlertKind::TheirsDatabase, false),
    (AlertKind::TheirsQueue, true),
];

impl Trouble {
    fn new(at: usize, dice: &mut Dice) -> Self {
        let (kind, of_coupon) = if at < 2 {
            KINDS[at]
        } else {
            dice.pick(&KINDS[2..])
        };
        let number = i64::try_from(at).unwrap();
        let source = source(kind);
        let coupon = of_coupon.then_some(CouponId(number % 5 + 1));
        let cause = dice.pick(&[
            FailureCause::Redis,
            FailureCause::Kafka,
            FailureCause::Other,
        ]);
        let facts = match kind {
            AlertKind::RunFailed => Facts::Failing {
                cause,
                error: String::new(),
            },
            AlertKind::RunMissed => Facts::Late {
                schedule: ScheduledRun::Reconcile,
                holder: None,
            },
            _ => Facts::Store(Vec::new()),
        };
        let name = match (source, kind) {
            (Source::Redis, _) => "redis".to_owned(),
            (Source::Kafka, _) => "kafka".to_owned(),
            (Source::Mysql, _) => "mysql".to_owned(),
            _ if of_coupon => format!("{}.{number}", kind.word()),
            _ => kind.word().to_owned(),
        };
        let condition = Condition {
            name,
            coupon,
            drop: coupon.map(|coupon| DropId(coupon.0)),
            facts,
            ..super::condition(kind, &[])
        };
        Self {
            condition,
            source,
            flap: dice.pick(&[300, 1_800, 1_800, 7_200, 7_200]),
            is_on: false,
            cases: BTreeSet::new(),
            level: None,
        }
    }

    /// Cases of a store are its answers, and those of a closure coupons.
    fn more_cases(&mut self, dice: &mut Dice) {
        let most = match self.source {
            // It does not answer, or refuses.
            Source::Redis | Source::Kafka | Source::Mysql => 2,
            Source::Gates => 6,
            _ => 100_000,
        };
        let case = dice.below(most) + 1;
        self.cases.insert(i64::try_from(case).unwrap());
    }

    /// Returns whether it is different now.
    fn change(&mut self, dice: &mut Dice) -> bool {
        if dice.once_in(self.flap) {
            self.is_on = !self.is_on;
            self.cases.clear();
            for _ in 0..=dice.below(3) {
                self.more_cases(dice);
            }
            return true;
        }
        let has_more = self.is_on && dice.once_in(1_800);
        if has_more {
            self.more_cases(dice);
        }
        has_more
    }

    fn now(&self) -> Condition {
        Condition {
            cases: Cases::from_hashes(self.cases.iter().copied()),
            ..self.condition.clone()
        }
    }

    /// A look judges it.
    fn judge(&mut self, second: i64) {
        let now = super::at(second);
        let first = match self.level.as_ref().map(|level| level.seen) {
            Some(Seen::Looks { first, .. }) => first,
            Some(Seen::Now) | None => now,
        };
        let level = Condition {
            seen: Seen::Looks { first, last: now },
            ..self.now()
        };
        self.level = Some(level).filter(|_| self.is_on);
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let number = dice.pick(&[6, 6, 6, 6, 6, 12, 12, 12, 12, 40]);
        let mut troubles: Vec<Trouble> = Vec::new();
        for at in 0..number {
            let new = Trouble::new(at, &mut dice);
            if troubles
                .iter()
                .all(|it| it.condition.name != new.condition.name)
            {
                troubles.push(new);
            }
        }
        // One comes and goes all the time.
        let at = dice.below(troubles.len() as u64);
        troubles[usize::try_from(at).unwrap()].flap = dice.pick(&[20, 60]);
        troubles.sort_by_key(|it| it.condition.kind.facts().severity);
        Self {
            troubles,
            looks: dice.pick(&[30, 60, 600]),
            next_look: 0,
            unknown_until: BTreeMap::new(),
            mysql_away_until: 0,
            mail_away_until: 0,
            daemons: dice.below(3) + 1,
            rows: Alerts::default(),
            budget: Budget::default(),
            has_changed: true,
            before: Vec::new(),
            dice,
        }
    }

    /// Lets time pass until `second`.
    fn pass(&mut self, second: i64) {
        for trouble in &mut self.troubles {
            let has_changed = trouble.change(&mut self.dice);
            self.has_changed |= has_changed && trouble.source != Source::Looks;
        }
        let has_mysql = second >= self.mysql_away_until;
        if second >= self.next_look {
            self.next_look = second + self.looks;
            for trouble in self
                .troubles
                .iter_mut()
                .filter(|it| it.source == Source::Looks)
            {
                // A look leaves something unjudged now and then.
                if has_mysql && self.dice.below(10) > 0 {
                    self.has_changed |= trouble.is_on || trouble.level.is_some();
                    trouble.judge(second);
                }
            }
        }
        for source in [
            Source::Redis,
            Source::Kafka,
            Source::Mysql,
            Source::Gates,
            Source::Consumers,
            Source::Settings,
        ] {
            if self.dice.once_in(3_600) {
                let ends = second + self.dice.pick(&[10, 60, 600]);
                self.unknown_until.insert(source, ends);
                self.has_changed = true;
            }
        }
        self.has_changed |= self.unknown_until.values().any(|ends| *ends == second);
        if has_mysql && self.dice.once_in(4 * 3_600) {
            self.mysql_away_until = second + self.dice.pick(&[20, 120, 1_200]);
        }
        if self.dice.once_in(4 * 3_600) {
            self.mail_away_until = second + self.dice.pick(&[60, 6_000]);
        }
    }

    fn unknown(&self, second: i64) -> BTreeSet<Source> {
        let until = self.unknown_until.iter();
        let unknown = until.filter(|(_, until)| second < **until);
        unknown.map(|(source, _)| *source).collect()
    }

    fn seen(&self, unknown: &BTreeSet<Source>) -> Vec<Condition> {
        let mut seen = Vec::new();
        for trouble in &self.troubles {
            match trouble.source {
                Source::Looks => seen.extend(trouble.level.clone()),
                source if unknown.contains(&source) => {}
                _ if trouble.is_on => seen.push(trouble.now()),
                _ => {}
            }
        }
        seen
    }

    /// Every daemon evaluates, one after the other. Returns what they tell.
    fn evaluate(
        &mut self,
        second: i64,
        seen: &[Condition],
        unknown: &BTreeSet<Source>,
        mutant: Option<Mutant>,
    ) -> Result<Vec<Decision>, Broken> {
        let now = super::at(second);
        let copy = Some(&self.rows)
            .filter(|_| mutant == Some(Mutant::TwoCopies))
            .cloned();
        let mut told = Vec::new();
        // Now and then all daemons evaluate at the same time.
        let all = self.dice.below(8) == 0 || mutant == Some(Mutant::TwoCopies);
        let daemons = if all { self.daemons } else { 1 };
        for daemon in 0..daemons {
            // The state is what the tables have: a restart at any time changes nothing.
            let known = match mutant {
                Some(Mutant::TwoCopies) => copy.clone().unwrap_or_default(),
                _ if all => stored(&self.rows, now),
                _ => self.rows.clone(),
            };
            let is_full = self.budget.is_full(now) && mutant != Some(Mutant::NoBudget);
            let decisions = mutated(mutant, now, seen, unknown, &self.before, &known, is_full);
            for decision in &decisions {
                self.rows.put(decision.alert.clone());
            }
            let is_told = |decision: &Decision| decision.reason.is_some();
            let own: Vec<Decision> = decisions.into_iter().filter(is_told).collect();
            if daemon > 0 && !own.is_empty() && mutant.is_none() {
                let what = format!("{second} s: a second evaluator tells {own:?}");
                return Err(Broken { law: 6, what });
            }
            if !own.is_empty() {
                self.budget.count(now);
                if second < self.mail_away_until {
                    self.rows.unsent_since.get_or_insert(now);
                }
            }
            told.extend(own);
        }
        if mutant == Some(Mutant::ForgetsTold) && self.dice.once_in(1_800) {
            self.rows = Alerts::default();
        }
        Ok(told)
    }

    /// Sends what waits in the outbox, and lets an operator acknowledge something.
    fn operate(&mut self, second: i64, oracle: &mut Oracle) {
        if second >= self.mail_away_until {
            self.rows.unsent_since = None;
        }
        if second % 60 == 0 && self.dice.below(60) == 0 {
            let mut told: Vec<ToldRow> = self
                .rows
                .all_open()
                .filter(|it| it.told_at.is_some())
                .cloned()
                .collect();
            told.sort_by(|a, b| a.name.cmp(&b.name));
            if told.is_empty() {
                return;
            }
            let at = self.dice.below(told.len() as u64);
            let mut alert = told.swap_remove(usize::try_from(at).unwrap());
            oracle.acknowledged(&alert.name);
            alert.acknowledged_at = Some(super::at(second));
            self.rows.put(alert);
        }
    }
}

/// Alerts in the order of their ids: an episode after the one before.
fn in_order(all: impl Iterator<Item = ToldRow>) -> Vec<ToldRow> {
    let mut all: Vec<ToldRow> = all.collect();
    all.sort_by_key(|alert| alert.ended_at.is_none());
    all
}

/// The alerts as they are read from the table again.
fn stored(rows: &Alerts, now: DateTime<Utc>) -> Alerts {
    with_rows(rows, rows.all().cloned(), now)
}

fn with_rows(rows: &Alerts, all: impl Iterator<Item = ToldRow>, now: DateTime<Utc>) -> Alerts {
    let mut stored = Alerts::new(in_order(all), now);
    stored.unsent_since = rows.unsent_since;
    stored
}

/// `decide`, or a mutant of it.
fn mutated(
    mutant: Option<Mutant>,
    now: DateTime<Utc>,
    seen: &[Condition],
    unknown: &BTreeSet<Source>,
    before: &[Condition],
    known: &Alerts,
    is_full: bool,
) -> Vec<Decision> {
    let none = BTreeSet::new();
    let with =
        |seen: &[Condition], known: &Alerts| decide(now, seen, unknown, known, &POLICY, is_full);
    match mutant {
        Some(Mutant::ExplainedIsAbsent) => {
            let is_explained = |it: &Condition| {
                seen.iter()
                    .any(|cause| oracle::hides(cause.kind, it.kind, &it.facts))
            };
            let left: Vec<Condition> = seen
                .iter()
                .filter(|it| !is_explained(it))
                .cloned()
                .collect();
            with(&left, known)
        }
        Some(Mutant::UnknownIsAbsent) => decide(now, seen, &none, known, &POLICY, is_full),
        Some(Mutant::UnknownIsAsBefore) => decide(now, before, &none, known, &POLICY, is_full),
        Some(Mutant::ForgetsReturns) => {
            let all = known.all().map(|it| ToldRow {
                returns: 0,
                ..it.clone()
            });
            with(seen, &with_rows(known, all, now))
        }
        Some(Mutant::OneLookIsEnough) => {
            let seen: Vec<Condition> = (seen.iter().cloned())
                .map(|it| Condition {
                    seen: Seen::Now,
                    ..it
                })
                .collect();
            with(&seen, known)
        }
        Some(Mutant::DropsWhatIsDue) => {
            let mut decisions = decide(now, seen, unknown, known, &POLICY, false);
            let told = decisions.iter_mut().filter(|it| it.reason.is_some());
            for decision in told.skip(usize::from(!is_full)) {
                decision.reason = None;
            }
            decisions
        }
        Some(Mutant::NotAcknowledged) => {
            let all = known.all().map(|it| ToldRow {
                acknowledged_at: None,
                ..it.clone()
            });
            with(seen, &with_rows(known, all, now))
        }
        Some(Mutant::NoNews) => {
            let mut decisions = with(seen, known);
            for decision in &mut decisions {
                decision.reason = decision.reason.filter(|reason| *reason != Reason::Changed);
            }
            decisions
        }
        None | Some(Mutant::ForgetsTold | Mutant::NoBudget | Mutant::TwoCopies) => {
            with(seen, known)
        }
    }
}

/// Plays a timeline. Returns the number of evaluations that told something.
fn play(seed: u64, mutant: Option<Mutant>) -> Result<usize, Broken> {
    let mut world = World::new(seed);
    let mut oracle = Oracle::default();
    let mut mails = 0;
    let mut last = 0;
    for second in (0..HOURS * 3_600).step_by(5) {
        world.pass(second);
        // No daemon evaluates now and then, or MySQL is away.
        if second < world.mysql_away_until || world.dice.below(10) == 0 {
            oracle.skip(TICK);
            continue;
        }
        if !std::mem::take(&mut world.has_changed) && second - last < IDLE {
            world.operate(second, &mut oracle);
            continue;
        }
        last = second;
        let unknown = world.unknown(second);
        let seen = world.seen(&unknown);
        let told = world.evaluate(second, &seen, &unknown, mutant)?;
        mails += usize::from(!told.is_empty());
        let open = world.rows.all_open();
        let open = open.map(|it| (it.name.clone(), AlertKind::from_word(&it.kind).unwrap()));
        let open = open.collect();
        oracle.check(&Moment {
            second,
            seen: &seen,
            unknown: &unknown,
            source: &source,
            patience: &|kind| POLICY.patience(kind).num_seconds(),
            looks: world.looks,
            open: &open,
            told: &told,
        })?;
        world.operate(second, &mut oracle);
        world.before = seen;
    }
    let Most { of_one, of_all } = oracle.most;
    MOST_OF_ONE.fetch_max(of_one, Ordering::Relaxed);
    MOST_OF_ALL.fetch_max(of_all, Ordering::Relaxed);
    Ok(mails)
}

/// The most mails in an hour of all timelines so far, for who asks for many of them.
static MOST_OF_ONE: AtomicUsize = AtomicUsize::new(0);
static MOST_OF_ALL: AtomicUsize = AtomicUsize::new(0);

fn timelines() -> u32 {
    let asked = std::env::var("TIMELINES").ok();
    asked.and_then(|number| number.parse().ok()).unwrap_or(50)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: timelines(), failure_persistence: None, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn laws_of_alerts_hold_in_random_timelines(seed in any::<u64>()) {
        if let Err(Broken { law, what }) = play(seed, None) {
            return Err(TestCaseError::fail(format!("law {law}, seed {seed}: {what}")));
        }
        let [one, all] = [&MOST_OF_ONE, &MOST_OF_ALL].map(|most| most.load(Ordering::Relaxed));
        eprintln!("most mails in an hour: {one} about one alert, {all} in all");
    }
}

/// A law that nothing can break would prove nothing. The search for a timeline that shows a mutant
/// begins at a seed which did so, because each that does not costs a seventh of a second.
#[test]
fn each_law_notices_its_mutant() {
    for (mutant, first, laws) in [
        (Mutant::ExplainedIsAbsent, 3, &[1][..]),
        (Mutant::UnknownIsAbsent, 0, &[3, 1]),
        (Mutant::UnknownIsAsBefore, 0, &[3, 1]),
        (Mutant::ForgetsReturns, 0, &[5]),
        (Mutant::ForgetsTold, 86, &[2, 4, 5]),
        (Mutant::OneLookIsEnough, 2, &[9]),
        (Mutant::DropsWhatIsDue, 0, &[1, 2, 4]),
        (Mutant::NoBudget, 0, &[5]),
        (Mutant::NotAcknowledged, 0, &[8]),
        (Mutant::TwoCopies, 0, &[2, 5]),
        (Mutant::NoNews, 0, &[4]),
    ] {
        let noticed = (first..first + 200).find_map(|seed| play(seed, Some(mutant)).err());
        let law = noticed.as_ref().map(|broken| broken.law);
        assert!(
            law.is_some_and(|law| laws.contains(&law)),
            "{mutant:?}: {noticed:?}"
        );
    }
}

/// What hides something hides what that hides, and nothing hides itself. What hides a critical kind
/// is critical, or a store.
#[test]
fn explanations_are_a_partial_order_without_less_severe_causes() {
    let facts = [
        FailureCause::Redis,
        FailureCause::Kafka,
        FailureCause::Mysql,
        FailureCause::Other,
    ]
    .map(|cause| Facts::Failing {
        cause,
        error: String::new(),
    });
    let all: Vec<AlertKind> = AlertKind::all().collect();
    for facts in &facts {
        for cause in &all {
            assert!(!crate::explain::hides(*cause, *cause, facts), "{cause:?}");
            for kind in &all {
                let hides = crate::explain::hides(*cause, *kind, facts);
                assert_eq!(
                    hides,
                    oracle::hides(*cause, *kind, facts),
                    "{cause:?} {kind:?}"
                );
                if !hides {
                    continue;
                }
                let is_store = source(*cause).is_store();
                assert!(is_store || cause.facts().severity <= kind.facts().severity);
                for hidden in &all {
                    let follows = crate::explain::hides(*kind, *hidden, facts);
                    let direct = crate::explain::hides(*cause, *hidden, facts);
                    assert!(!follows || direct, "{cause:?} {kind:?} {hidden:?}");
                }
            }
        }
    }
}
