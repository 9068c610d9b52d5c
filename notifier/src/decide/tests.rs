use firstcome_shared::domain::CouponId;
use firstcome_shared::report::{FailureCause, Kind};

use super::*;
use crate::condition::Facts;

const POLICY: Policy = Policy {
    repeat: TimeDelta::hours(4),
    patience: TimeDelta::seconds(30),
    is_last: false,
};

/// An evaluation every five seconds, without looks in between.
#[derive(Default)]
struct Timeline {
    known: Alerts,
    budget: Budget,
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
}

fn condition(kind: AlertKind, cases: &[i64]) -> Condition {
    Condition {
        name: kind.word().to_owned(),
        kind,
        coupon: None,
        drop: None,
        cases: Cases::from_hashes(cases.iter().copied()),
        seen: Seen::Now,
        facts: Facts::Store(Vec::new()),
    }
}

fn look(kind: AlertKind, cases: &[i64], first: i64, last: i64) -> Condition {
    Condition {
        seen: Seen::Looks {
            first: at(first),
            last: at(last),
        },
        facts: Facts::Found {
            run_id: String::new(),
        },
        ..condition(kind, cases)
    }
}

fn redis() -> Condition {
    condition(AlertKind::RedisUnreachable, &[1])
}

fn unissued(cases: &[i64]) -> Condition {
    condition(AlertKind::Left(Kind::Unissued), cases)
}

impl Timeline {
    fn evaluate(&mut self, second: i64, seen: &[Condition], unknown: &[Source]) -> Vec<Reason> {
        let now = at(second);
        let unknown: BTreeSet<Source> = unknown.iter().copied().collect();
        let is_full = self.budget.is_full(now);
        let decisions = decide(now, seen, &unknown, &self.known, &POLICY, is_full);
        let told: Vec<Reason> = decisions.iter().filter_map(|it| it.reason).collect();
        for decision in decisions {
            self.known.put(decision.alert);
        }
        if !told.is_empty() {
            self.budget.count(now);
        }
        let is_full = self.budget.is_full(now);
        let again = decide(now, seen, &unknown, &self.known, &POLICY, is_full);
        assert_eq!(again, [], "the same call decides nothing");
        told
    }

    /// Evaluates until `to`, and returns what was told, with the seconds.
    fn tells(&mut self, from: i64, to: i64, seen: &[Condition]) -> Vec<(i64, Reason)> {
        let mut told = Vec::new();
        for second in (from..=to).step_by(5) {
            let reasons = self.evaluate(second, seen, &[]);
            told.extend(reasons.into_iter().map(|reason| (second, reason)));
        }
        told
    }
}

#[test]
fn outage_is_told_once_it_lasts_and_over_once_it_stays_away() {
    let mut line = Timeline::default();
    assert_eq!(line.tells(0, 100, &[redis()]), [(30, Reason::New)]);
    assert_eq!(line.tells(105, 200, &[]), [(165, Reason::Over)]);
    assert_eq!(line.tells(1_000, 1_020, &[redis()]), [], "a restart");
    assert_eq!(line.tells(1_025, 2_000, &[]), []);
}

#[test]
fn condition_that_lasts_is_told_after_4_8_16_and_32_hours() {
    let mut line = Timeline::default();
    let told = line.tells(0, 33 * 3_600, &[unissued(&[1])]);
    let hours: Vec<i64> = told.iter().map(|(second, _)| second / 3_600).collect();
    assert_eq!(hours, [0, 4, 8, 16, 32]);
}

#[test]
fn look_that_is_not_repeated_is_no_patience() {
    let mut line = Timeline::default();
    let once = look(AlertKind::TheirsMysql, &[1], 0, 0);
    assert_eq!(line.tells(0, 600, &[once]), [], "seen by one look");
    let twice = look(AlertKind::TheirsMysql, &[1], 0, 605);
    let told = line.tells(605, 30_000, &[twice]);
    assert_eq!(told, [(605, Reason::New)], "no look saw it since");
    let told = line.tells(30_005, 30_010, &[]);
    assert_eq!(told, [(30_005, Reason::Over)], "a look proves it");
}

#[test]
fn what_nobody_knows_neither_begins_nor_ends_and_still_explains() {
    let mut line = Timeline::default();
    let closed = condition(AlertKind::AdmissionClosed, &[1]);
    let unknown = [Source::Redis];
    assert_eq!(line.evaluate(0, &[redis()], &unknown), []);
    assert_eq!(line.tells(5, 60, &[redis()]), [(35, Reason::New)]);
    for second in (65..600).step_by(5) {
        let told = line.evaluate(second, std::slice::from_ref(&closed), &unknown);
        assert_eq!(told, [], "{second}");
    }
    let told = line.tells(600, 800, &[closed]);
    assert_eq!(told, [(660, Reason::Over), (690, Reason::New)]);
}

#[test]
fn explained_condition_that_was_told_is_present_and_its_end_is_told() {
    let mut line = Timeline::default();
    let closed = condition(AlertKind::AdmissionClosed, &[1]);
    let first = line.tells(0, 300, std::slice::from_ref(&closed));
    assert_eq!(first, [(30, Reason::New)]);
    let both = line.tells(305, 600, &[redis(), closed.clone()]);
    assert_eq!(both, [(335, Reason::New)]);
    let closure = line.known.open("admission_closed").unwrap();
    assert_eq!(closure.explained_by.as_deref(), Some("redis_unreachable"));
    let ends = line.tells(610, 800, &[]);
    assert_eq!(ends, [(670, Reason::Over), (670, Reason::Over)]);
}

#[test]
fn failed_passes_are_hidden_only_by_the_store_that_makes_them_fail() {
    let failing = |cause| Condition {
        facts: Facts::Failing {
            cause,
            error: String::new(),
        },
        ..look(AlertKind::RunFailed, &[1], 0, 100)
    };
    let told = |seen: &[Condition]| Timeline::default().tells(100, 110, seen);
    assert_eq!(told(&[redis(), failing(FailureCause::Redis)]), []);
    let other = told(&[redis(), failing(FailureCause::Kafka)]);
    assert_eq!(other, [(100, Reason::New)]);
    assert_eq!(told(&[failing(FailureCause::Redis)]), [(100, Reason::New)]);
}

#[test]
fn coupons_with_repairs_that_wait_are_no_news_as_closed_ones() {
    let braked = Condition {
        coupon: Some(CouponId(1)),
        ..condition(AlertKind::Braked, &[7])
    };
    let mut line = Timeline::default();
    let closed = condition(AlertKind::AdmissionClosed, &[1]);
    let told = line.tells(0, 600, &[braked.clone(), closed]);
    assert_eq!(told, [(0, Reason::New)]);
    let both = condition(AlertKind::AdmissionClosed, &[1, 2]);
    let told = line.tells(605, 900, &[braked, both.clone()]);
    assert_eq!(told, [(635, Reason::New)]);
    let told = line.tells(905, 1_500, &[both]);
    assert_eq!(told, [(905, Reason::Over), (965, Reason::Changed)]);
}

#[test]
fn few_new_cases_are_told_one_by_one_and_many_when_they_have_doubled() {
    let told = |kind, before: i64, more: i64| {
        let mut line = Timeline::default();
        let cases: Vec<i64> = (0..before + more).collect();
        let known: Vec<i64> = (0..before).collect();
        line.evaluate(0, &[condition(kind, &known)], &[]);
        line.evaluate(7_200, &[condition(kind, &cases)], &[]).len()
    };
    let [warning, critical] = [Kind::FailedClaim, Kind::Unissued].map(AlertKind::Left);
    assert_eq!([told(warning, 3, 1), told(warning, 70, 1)], [1, 0]);
    assert_eq!([told(warning, 70, 70), told(critical, 70, 1)], [1, 1]);
    let mut line = Timeline::default();
    line.evaluate(0, &[unissued(&[1, 2])], &[]);
    line.evaluate(3_600, &[unissued(&[1])], &[]);
    let told = line.evaluate(7_200, &[unissued(&[1, 2])], &[]);
    assert_eq!(told, [Reason::Changed], "one that was repaired is back");
}

#[test]
fn acknowledgement_covers_the_cases_it_saw_and_leaves_one_mail_an_hour() {
    let mut line = Timeline::default();
    line.evaluate(0, &[unissued(&[1, 2])], &[]);
    let acknowledge = |line: &mut Timeline, second| {
        let mut alert = line.known.open("unissued").unwrap().clone();
        alert.acknowledged_at = Some(at(second));
        line.known.put(alert);
    };
    acknowledge(&mut line, 5);
    assert_eq!(line.tells(10, 86_400, &[unissued(&[2])]), [], "repaired");
    assert_eq!(
        line.tells(86_405, 86_500, &[unissued(&[2, 3])]),
        [(86_405, Reason::Changed)]
    );
    acknowledge(&mut line, 86_600);
    let more = line.tells(86_605, 90_100, &[unissued(&[2, 3, 4])]);
    assert_eq!(more, [(90_005, Reason::Changed)]);
    let more = line.tells(90_105, 93_700, &[unissued(&[2, 3, 4, 5])]);
    assert_eq!(more, [(93_605, Reason::Changed)], "still one an hour");
}

#[test]
fn what_comes_and_goes_is_told_less_and_less() {
    let mut line = Timeline::default();
    let mut told = Vec::new();
    for cycle in 0..240 {
        let begin = cycle * 60;
        told.extend(line.tells(begin, begin + 25, &[unissued(&[1])]));
        told.extend(line.tells(begin + 30, begin + 55, &[]));
    }
    assert_eq!(
        told,
        [(0, Reason::New), (30, Reason::Over), (60, Reason::New)],
        "then one alert that lasts"
    );
}

/// Each promise is kept within half a minute.
#[test]
fn patience_begins_anew_when_a_condition_was_gone() {
    let mut line = Timeline::default();
    let broken = [condition(AlertKind::Left(Kind::BrokenPromise), &[1])];
    for cycle in 0..60 {
        let begin = cycle * 60;
        assert_eq!(line.tells(begin, begin + 25, &broken), [], "{cycle}");
        assert_eq!(line.tells(begin + 30, begin + 55, &[]), [], "{cycle}");
    }
    let told = line.tells(3_600, 3_700, &broken);
    assert_eq!(told, [(3_630, Reason::New)]);
}

#[test]
fn last_evaluation_tells_what_is_so_now_and_waits_for_another_look() {
    let policy = Policy {
        is_last: true,
        ..POLICY
    };
    let known = Alerts::default();
    let told = |condition| {
        let decisions = decide(
            at(0),
            &[condition],
            &BTreeSet::new(),
            &known,
            &policy,
            false,
        );
        decisions[0].reason
    };
    let broken = condition(AlertKind::Left(Kind::BrokenPromise), &[1]);
    assert_eq!(told(broken), Some(Reason::New));
    assert_eq!(told(look(AlertKind::TheirsMysql, &[1], 0, 0)), None);
}

/// A store is gone only once it has answered for a minute.
#[test]
fn outage_lasts_over_answers_of_less_than_a_minute() {
    let mut line = Timeline::default();
    assert_eq!(line.tells(0, 20, &[redis()]), []);
    assert_eq!(line.tells(25, 70, &[]), []);
    assert_eq!(line.tells(75, 80, &[redis()]), [(75, Reason::New)]);
    let mut line = Timeline::default();
    for cycle in 0..60 {
        let begin = cycle * 120;
        assert_eq!(line.tells(begin, begin + 20, &[redis()]), [], "{cycle}");
        assert_eq!(line.tells(begin + 25, begin + 115, &[]), [], "{cycle}");
    }
}

#[test]
fn eleventh_mail_of_an_hour_waits_unless_a_store_takes_it_along() {
    let mut line = Timeline::default();
    let drops: Vec<Condition> = (0..12)
        .map(|n| Condition {
            name: format!("unissued.{n}"),
            ..unissued(&[1])
        })
        .collect();
    for (at, last) in (0..).step_by(5).zip(1..=12) {
        line.evaluate(at, &drops[..last], &[]);
    }
    let untold = |line: &Timeline| {
        let all = line.known.all_open();
        all.filter(|alert| alert.told_at.is_none()).count()
    };
    assert_eq!(untold(&line), 2);
    let with_redis: Vec<Condition> = drops.iter().cloned().chain([redis()]).collect();
    line.tells(60, 100, &with_redis);
    assert_eq!(untold(&line), 0);
}

#[test]
fn end_of_an_outage_waits_for_its_turn_and_a_new_outage_does_not() {
    let mut line = Timeline::default();
    assert_eq!(line.tells(0, 60, &[redis()]), [(30, Reason::New)]);
    let mut seen = vec![redis()];
    for (second, n) in (65..110).step_by(5).zip(1..) {
        let name = format!("unissued.{n}");
        let drop = Condition {
            name,
            ..unissued(&[1])
        };
        seen.push(drop);
        assert_eq!(line.evaluate(second, &seen, &[]), [Reason::New]);
    }
    seen.remove(0);
    let told = line.tells(110, 710, &seen);
    assert_eq!(
        told,
        [(705, Reason::Over)],
        "ten minutes after the tenth mail"
    );
    seen.push(condition(AlertKind::KafkaUnreachable, &[1]));
    assert_eq!(line.tells(715, 800, &seen), [(745, Reason::New)]);
}

/// After a failover to a MySQL whose clock is behind.
#[test]
fn times_ahead_of_the_clock_count_as_now() {
    let mut line = Timeline::default();
    line.evaluate(3_600, &[redis()], &[]);
    assert_eq!(line.evaluate(3_630, &[redis()], &[]), [Reason::New]);
    assert_eq!(line.evaluate(3_635, &[], &[]), []);
    line.known = Alerts::new(line.known.all().cloned(), at(0));
    assert_eq!(line.tells(0, 100, &[]), [(60, Reason::Over)]);
}

/// MySQL that answers again for a moment is neither another outage nor another end.
#[test]
fn store_is_over_as_what_was_told_about_it() {
    let mysql = |kind| Condition {
        name: "mysql".to_owned(),
        ..condition(kind, &[1])
    };
    let mut line = Timeline::default();
    line.tells(0, 60, &[mysql(AlertKind::MysqlUnreachable)]);
    line.tells(65, 120, &[mysql(AlertKind::MysqlRefuses)]);
    let mut kinds = line.known.all_open().map(|alert| alert.kind.as_str());
    assert_eq!(kinds.next(), Some("mysql_unreachable"));
}

#[test]
fn mail_that_waits_in_the_outbox_is_not_repeated() {
    let mut line = Timeline::default();
    let lasting = [unissued(&[1])];
    assert_eq!(line.evaluate(0, &lasting, &[]), [Reason::New]);
    line.known.unsent_since = Some(at(0));
    assert_eq!(line.tells(5, 20_000, &lasting), []);
    line.known.unsent_since = None;
    assert_eq!(line.evaluate(20_005, &lasting, &[]), [Reason::Repeat]);
}

#[test]
fn repairs_are_not_repeated() {
    let mut line = Timeline::default();
    let repaired = [condition(AlertKind::Repaired, &[1])];
    assert_eq!(line.tells(0, 30_000, &repaired), [(0, Reason::New)]);
}

#[test]
fn alert_of_a_kind_that_a_later_version_wrote_does_not_end() {
    let mut line = Timeline::default();
    line.known.put(ToldRow {
        name: "later".to_owned(),
        kind: "later".to_owned(),
        told_at: Some(at(0)),
        ..ToldRow::default()
    });
    assert_eq!(line.tells(5, 600, &[]), []);
    assert!(line.known.open("later").is_some());
}

#[test]
fn what_hides_a_critical_kind_is_critical_or_a_store() {
    let facts = Facts::Failing {
        cause: FailureCause::Kafka,
        error: String::new(),
    };
    for cause in AlertKind::all() {
        assert!(!hides_any(cause, cause));
        for kind in AlertKind::all().filter(|kind| explain_hides(cause, *kind, &facts)) {
            let is_fit = is_critical(cause) || POLICY.times(cause).is_store || !is_critical(kind);
            assert!(is_fit, "{cause:?} hides {kind:?}");
            assert!(!explain_hides(kind, cause, &facts), "a circle");
        }
    }
}

fn explain_hides(cause: AlertKind, kind: AlertKind, facts: &Facts) -> bool {
    crate::explain::hides(cause, kind, facts)
}

fn hides_any(cause: AlertKind, kind: AlertKind) -> bool {
    [
        FailureCause::Redis,
        FailureCause::Mysql,
        FailureCause::Kafka,
    ]
    .into_iter()
    .any(|store| {
        let facts = Facts::Failing {
            cause: store,
            error: String::new(),
        };
        explain_hides(cause, kind, &facts)
    })
}

mod oracle;
mod timelines;
