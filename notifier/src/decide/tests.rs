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

/// MySQL that answers again for a moment is neither another outage nor another end.
#[test]
fn store_is_over_as_what_was_told_about_it() {
    let mut known = Alerts::default();
    for second in (0..120).step_by(5) {
        let kind = if second <= 60 {
            AlertKind::MysqlUnreachable
        } else {
            AlertKind::MysqlRefuses
        };
        let mysql = Condition {
            name: "mysql".to_owned(),
            ..condition(kind, &[1])
        };
        let unknown = BTreeSet::new();
        for decision in decide(at(second), &[mysql], &unknown, &known, &POLICY, false) {
            known.put(decision.alert);
        }
    }
    assert_eq!(known.open("mysql").unwrap().kind, "mysql_unreachable");
}

#[test]
fn repairs_are_not_repeated() {
    let mut known = Alerts::default();
    let mut told = Vec::new();
    for second in (0..30_000).step_by(5) {
        let repaired = condition(AlertKind::Repaired, &[1]);
        let unknown = BTreeSet::new();
        for decision in decide(at(second), &[repaired], &unknown, &known, &POLICY, false) {
            told.extend(decision.reason);
            known.put(decision.alert);
        }
    }
    assert_eq!(told, [Reason::New]);
}

mod oracle;
mod timelines;
