use super::*;
use crate::condition::Facts;

const POLICY: Policy = Policy {
    repeat: TimeDelta::hours(4),
    patience: TimeDelta::seconds(30),
    is_last: false,
};

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

/// Evaluates every five seconds before `end`. Returns the alerts afterwards, and what was told.
fn evaluate(end: i64, seen: impl Fn(i64) -> Condition) -> (Alerts, Vec<Reason>) {
    let mut known = Alerts::default();
    let mut told = Vec::new();
    let unknown = BTreeSet::new();
    for second in (0..end).step_by(5) {
        let seen = [seen(second)];
        for decision in decide(at(second), &seen, &unknown, &known, &POLICY, false) {
            told.extend(decision.reason);
            known.put(decision.alert);
        }
    }
    (known, told)
}

/// MySQL that answers again for a moment is neither another outage nor another end.
#[test]
fn store_is_over_as_what_was_told_about_it() {
    let (known, _) = evaluate(120, |second| {
        let kind = if second <= 60 {
            AlertKind::MysqlUnreachable
        } else {
            AlertKind::MysqlRefuses
        };
        Condition {
            name: "mysql".to_owned(),
            ..condition(kind, &[1])
        }
    });
    assert_eq!(known.open("mysql").unwrap().kind, "mysql_unreachable");
}

#[test]
fn repairs_are_not_repeated() {
    let (_, told) = evaluate(30_000, |_| condition(AlertKind::Repaired, &[1]));
    assert_eq!(told, [Reason::New]);
}

mod oracle;
mod timelines;
