//! The oracle of the timelines: it keeps what was so and what was told, and checks the laws of
//! alerts afterwards. It decides nothing, and shares no code with `decide`.

use std::collections::{BTreeMap, BTreeSet};

use firstcome_shared::report::{FailureCause, Kind, Severity};

use super::{AlertKind, Condition, Decision, Reason, Seen, Source};
use crate::condition::{Cases, Facts};

/// The most mails about one alert in an hour.
const OF_ONE: usize = 10;

/// The most mails in an hour that are not about a new outage: ten at once, and one in ten minutes.
const OF_OTHERS: usize = 16;

/// The most mails in an hour: those, and seven about new outages of three stores.
const OF_ALL: usize = 23;

const HOUR: i64 = 3_600;

/// The most mails in an hour: about one alert, and in all.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Most {
    pub(super) of_one: usize,
    pub(super) of_all: usize,
}

/// A law that does not hold, and what happened.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) law: u8,
    pub(super) what: String,
}

/// What everybody may know at one moment.
pub(super) struct Moment<'a> {
    pub(super) second: i64,
    /// What is wrong, also if its source is unknown.
    pub(super) seen: &'a [Condition],
    pub(super) unknown: &'a BTreeSet<Source>,
    pub(super) source: &'a dyn Fn(AlertKind) -> Source,
    pub(super) patience: &'a dyn Fn(AlertKind) -> i64,
    /// The time between two looks.
    pub(super) looks: i64,
    /// The alerts that are open afterwards, by name.
    pub(super) open: &'a BTreeMap<String, AlertKind>,
    pub(super) told: &'a [Decision],
}

/// What the oracle remembers about one name.
#[derive(Default)]
struct Story {
    is_told: bool,
    told_cases: BTreeSet<i64>,
    tells: Vec<i64>,
    acknowledged: bool,
    /// Since when it is present, known and unexplained, with the looks at that time.
    due_since: Option<(i64, i64)>,
    /// The same for each case that was not told.
    cases_since: BTreeMap<i64, i64>,
}

#[derive(Default)]
pub(super) struct Oracle {
    stories: BTreeMap<String, Story>,
    /// When each kind was last present: the causes. Those of one coupon, with their coupon.
    causes: BTreeMap<(AlertKind, Option<i64>), i64>,
    /// Some coupons are closed now.
    has_closure: bool,
    mails: Vec<i64>,
    /// Those that are not about a new outage.
    others: Vec<i64>,
    /// The most mails in an hour so far.
    pub(super) most: Most,
    /// Seconds without an evaluation.
    missed: i64,
    last: Option<i64>,
}

type Law = Result<(), Broken>;

fn broken(law: u8, what: String) -> Law {
    Err(Broken { law, what })
}

fn each(cases: &Cases) -> BTreeSet<i64> {
    match cases {
        Cases::Each(each) => each.clone(),
        Cases::Number(_) => BTreeSet::new(),
    }
}

/// The mail about a new outage does not wait for the budget.
fn is_new_outage(decision: &Decision, moment: &Moment<'_>) -> bool {
    let kind = AlertKind::from_word(&decision.alert.kind).unwrap();
    let source = (moment.source)(kind);
    let is_store = matches!(source, Source::Redis | Source::Kafka | Source::Mysql);
    is_store && decision.reason == Some(Reason::New)
}

/// What hides what, as docs/OPERATIONS.md has it: cause, hidden kind.
pub(super) fn hides(cause: AlertKind, kind: AlertKind, facts: &Facts) -> bool {
    use AlertKind as K;
    let failed_by = match facts {
        Facts::Failing { cause, .. } => Some(*cause),
        _ => None,
    };
    let store = match cause {
        K::RedisUnreachable | K::RedisRefuses => Some(FailureCause::Redis),
        K::KafkaUnreachable | K::KafkaRefuses => Some(FailureCause::Kafka),
        K::MysqlUnreachable | K::MysqlRefuses => Some(FailureCause::Mysql),
        _ => None,
    };
    #[allow(clippy::match_same_arms, reason = "one arm for each line of the table")]
    match (store, cause, kind) {
        (Some(store), _, K::RunFailed) => failed_by == Some(store),
        (Some(_), _, K::RunMissed | K::Repaired) => true,
        (Some(FailureCause::Redis), _, K::AdmissionClosed | K::Left(Kind::RedisLost)) => true,
        (Some(FailureCause::Kafka | FailureCause::Mysql), _, K::ConsumerStands) => true,
        (_, K::RunFailed, K::RunMissed) => true,
        (
            _,
            K::ConsumerStands
            | K::TheirsRedis
            | K::TheirsDatabase
            | K::TheirsKafka
            | K::TheirsQueue,
            K::Repaired,
        ) => true,
        _ => false,
    }
}

/// How long after its cause a condition is still explained.
const SETTLES: i64 = 60;

impl Oracle {
    /// Notes that nobody evaluated at this time.
    pub(super) fn skip(&mut self, seconds: i64) {
        self.missed += seconds;
    }

    pub(super) fn acknowledged(&mut self, name: &str) {
        self.stories
            .entry(name.to_owned())
            .or_default()
            .acknowledged = true;
    }

    /// Checks one evaluation.
    pub(super) fn check(&mut self, moment: &Moment<'_>) -> Law {
        let is_known = |kind| !moment.unknown.contains(&(moment.source)(kind));
        let here: Vec<&Condition> = (moment.seen.iter())
            .filter(|it| is_known(it.kind))
            .collect();
        self.note_causes(moment, &here);
        if !moment.told.is_empty() {
            self.mails.push(moment.second);
            if !moment.told.iter().any(|it| is_new_outage(it, moment)) {
                self.others.push(moment.second);
            }
        }
        for told in moment.told {
            self.check_told(told, moment, &here)?;
        }
        self.check_budget(moment.second)?;
        for condition in &here {
            self.check_silence(condition, moment)?;
        }
        // What is absent, or what nobody knows about, is not due.
        for (name, story) in &mut self.stories {
            if here.iter().all(|it| it.name != *name) {
                story.due_since = None;
                story.cases_since.clear();
            }
            if !moment.open.contains_key(name) {
                *story = Story {
                    tells: std::mem::take(&mut story.tells),
                    ..Story::default()
                };
            }
        }
        self.last = Some(moment.second);
        Ok(())
    }

    fn note_causes(&mut self, moment: &Moment<'_>, here: &[&Condition]) {
        self.has_closure = (here.iter()).any(|it| it.kind == AlertKind::AdmissionClosed);
        // What has just gone is noticed now.
        for last in self.causes.values_mut() {
            if Some(*last) == self.last {
                *last = moment.second - 1;
            }
        }
        for condition in here {
            let coupon = condition.coupon.map(|coupon| coupon.0);
            self.causes.insert((condition.kind, None), moment.second);
            self.causes.insert((condition.kind, coupon), moment.second);
            if condition.kind == AlertKind::AdmissionClosed {
                for coupon in each(&condition.cases) {
                    let closed = (AlertKind::AdmissionClosed, Some(coupon));
                    self.causes.insert(closed, moment.second);
                }
            }
        }
        // Nobody knows whether these last.
        for ((kind, _), last) in &mut self.causes {
            let is_unknown = moment.unknown.contains(&(moment.source)(*kind));
            if is_unknown && moment.open.values().any(|open| open == kind) {
                *last = moment.second;
            }
        }
    }

    /// Whether something explains it, or may.
    fn is_explained(&self, condition: &Condition, second: i64, margin: i64) -> bool {
        let recent = |last: i64| second - last <= SETTLES + margin;
        let coupon = condition.coupon.map(|coupon| coupon.0);
        let has = |kind, coupon| {
            self.causes
                .get(&(kind, coupon))
                .copied()
                .is_some_and(recent)
        };
        let by_kind = self.causes.iter().any(|((cause, _), last)| {
            recent(*last) && hides(*cause, condition.kind, &condition.facts)
        });
        let is_lost = condition.kind == AlertKind::Left(Kind::RedisLost);
        // Which coupons are closed is not known, or they have just opened.
        let all_closed = !self.has_closure && has(AlertKind::AdmissionClosed, None);
        let is_closed = all_closed || has(AlertKind::AdmissionClosed, coupon);
        let by_coupon = is_lost && (is_closed || has(AlertKind::Braked, coupon));
        let is_closure = condition.kind == AlertKind::AdmissionClosed;
        let braked = |case: &i64| has(AlertKind::Braked, Some(*case));
        let by_brake = is_closure && each(&condition.cases).iter().any(braked);
        by_kind || by_coupon || by_brake
    }

    /// The cases that nothing else explains: closed coupons without a plan that waits.
    fn own_cases(&self, condition: &Condition, second: i64) -> BTreeSet<i64> {
        let mut cases = each(&condition.cases);
        if condition.kind == AlertKind::AdmissionClosed {
            let braked = |case: i64| self.causes.get(&(AlertKind::Braked, Some(case)));
            cases.retain(|case| braked(*case).is_none_or(|last| second - last > 2 * SETTLES + 10));
        }
        cases
    }

    fn check_told(&mut self, told: &Decision, moment: &Moment<'_>, here: &[&Condition]) -> Law {
        let name = &told.alert.name;
        let reason = told.reason.unwrap();
        let second = moment.second;
        let condition = here.iter().find(|it| it.name == *name);
        let cases = condition.map(|condition| self.own_cases(condition, second));
        let story = self.stories.entry(name.clone()).or_default();
        let kind = AlertKind::from_word(&told.alert.kind).unwrap();
        let what = || format!("{second} s: {reason:?} {name}");
        if moment.unknown.contains(&(moment.source)(kind)) {
            return broken(3, format!("{}: nobody knows", what()));
        }
        match reason {
            Reason::Over if condition.is_some() => {
                return broken(1, format!("{}: it is here", what()));
            }
            Reason::Over if !story.is_told => return broken(1, format!("{}: untold", what())),
            Reason::New if story.is_told => return broken(2, format!("{}: twice", what())),
            Reason::Changed | Reason::Repeat if !story.is_told => {
                return broken(2, format!("{}: before it is new", what()));
            }
            _ => {}
        }
        if reason == Reason::Over {
            *story = Story {
                tells: std::mem::take(&mut story.tells),
                ..Story::default()
            };
            story.tells.push(second);
            return Ok(());
        }
        let Some(condition) = condition else {
            return broken(1, format!("{}: it is not here", what()));
        };
        if reason == Reason::New
            && let Seen::Looks { first, last } = condition.seen
            && (last - first).num_seconds() < (moment.patience)(kind)
        {
            return broken(9, format!("{}: one look", what()));
        }
        let cases = cases.unwrap_or_default();
        if story.acknowledged {
            let has_news = !each(&condition.cases).is_subset(&story.told_cases);
            let since = story.tells.last().map_or(HOUR, |last| second - last);
            if reason == Reason::Repeat || !has_news || since < HOUR {
                let told = &story.told_cases;
                let what = what();
                return broken(
                    8,
                    format!("{what}: acknowledged {since} s ago, {cases:?} after {told:?}"),
                );
            }
            story.acknowledged = false;
        }
        story.is_told = true;
        story.told_cases = cases;
        story.cases_since.clear();
        story.tells.push(second);
        Ok(())
    }

    fn check_budget(&mut self, second: i64) -> Law {
        let in_hour = |times: &mut Vec<i64>| {
            times.retain(|at| second - at < HOUR);
            times.len()
        };
        for (name, story) in &mut self.stories {
            let number = in_hour(&mut story.tells);
            self.most.of_one = self.most.of_one.max(number);
            if number > OF_ONE {
                let tells = &story.tells;
                return broken(
                    5,
                    format!("{second} s: more than {OF_ONE} mails about {name}: {tells:?}"),
                );
            }
        }
        let in_last_hour = self.mails.iter().filter(|at| second - **at < HOUR).count();
        self.most.of_all = self.most.of_all.max(in_last_hour);
        if in_last_hour > OF_ALL {
            return broken(5, format!("{second} s: {in_last_hour} mails in an hour"));
        }
        if in_hour(&mut self.others) > OF_OTHERS {
            let what = format!("{second} s: more than {OF_OTHERS} mails, not of new outages");
            return broken(5, what);
        }
        Ok(())
    }

    /// What is present, known and unexplained for long enough was told, and so was each of its
    /// cases if it is critical.
    fn check_silence(&mut self, condition: &Condition, moment: &Moment<'_>) -> Law {
        let second = moment.second;
        let step = second - self.last.unwrap_or(second);
        let may_be_explained = self.is_explained(condition, second, step + 5);
        let hour = self.mails.iter().filter(|at| second - **at < HOUR);
        let waits_for_budget = hour.count() >= 9;
        let missed = self.missed;
        let patience = (moment.patience)(condition.kind);
        let is_looked_at = matches!(condition.seen, Seen::Looks { .. });
        let looks = if is_looked_at { 4 * moment.looks } else { 0 };
        let budget = if waits_for_budget { 620 } else { 0 };
        // An evaluation may come a minute late, before and after its patience.
        let limit = patience + looks + budget + 210;
        let story = self.stories.entry(condition.name.clone()).or_default();
        // A case that was repaired and comes back is a new one.
        let cases = each(&condition.cases);
        story.told_cases.retain(|case| cases.contains(case));
        if may_be_explained {
            story.due_since = None;
            story.cases_since.clear();
            return Ok(());
        }
        let (since, missed_then) = *story.due_since.get_or_insert((second, missed));
        let waited = second - since - (missed - missed_then);
        if waited > limit && !story.is_told {
            let name = &condition.name;
            return broken(4, format!("{second} s: {name} is untold for {waited} s"));
        }
        if condition.kind.facts().severity != Severity::Critical {
            return Ok(());
        }
        story.cases_since.retain(|case, _| cases.contains(case));
        for case in cases.difference(&story.told_cases) {
            let since = *story.cases_since.entry(*case).or_insert(second - missed);
            let waited = second - missed - since;
            if waited > limit + HOUR + 1_200 {
                let name = &condition.name;
                return broken(
                    4,
                    format!("{second} s: a case of {name} is untold for {waited} s"),
                );
            }
        }
        Ok(())
    }
}
