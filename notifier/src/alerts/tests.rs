use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};

use super::*;
use crate::report::{ActionKind, DropReport, Finding, Kind, Numbers, Outcome, Run, Status, Trigger};

const COOLDOWN: TimeDelta = TimeDelta::hours(4);

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_796_104_800 + minutes * 60, 0).unwrap()
}

fn finding(kind: Kind, slot: i64, result: Outcome) -> Finding {
    Finding {
        kind,
        coupon_id: Some(CouponId(1)),
        drop_id: Some(DropId(7)),
        slot: Some(slot),
        user_id: Some(format!("u-{slot}")),
        action: ActionKind::Issue,
        result,
        detail: format!("admitted {slot} s ago"),
        needs_person: false,
    }
}

fn left(kind: Kind, slot: i64) -> Finding {
    Finding { needs_person: true, action: ActionKind::Report, ..finding(kind, slot, Outcome::Skipped) }
}

fn stalled(detail: &str) -> Finding {
    Finding {
        coupon_id: None,
        drop_id: None,
        slot: None,
        user_id: None,
        detail: detail.to_owned(),
        ..left(Kind::Stalled, 0)
    }
}

fn run(status: Status, findings: Vec<Finding>) -> Run {
    let drop = DropReport {
        coupon_id: CouponId(1),
        coupon_name: "Winter coupon".to_owned(),
        drop_id: DropId(7),
        quantity: 100,
        exact: status == Status::Clean,
        sealed: false,
        before: Numbers::default(),
        after: Numbers::default(),
        examined: crate::report::Examined::default(),
        findings,
    };
    Run {
        run_id: "run".to_owned(),
        trigger: Trigger::Cron,
        dry_run: false,
        deep: false,
        partial: false,
        stopped: false,
        status,
        started_at: at(0),
        finished_at: Some(at(0)),
        error: None,
        findings: Vec::new(),
        drops: vec![drop],
    }
}

fn general(status: Status, findings: Vec<Finding>) -> Run {
    Run { findings, ..run(status, Vec::new()) }
}

fn failed(error: &str) -> Run {
    Run { error: Some(error.to_owned()), drops: Vec::new(), ..run(Status::Failed, Vec::new()) }
}

/// The table as passes leave it, and what they said.
#[derive(Default)]
struct Duty {
    memory: AlertMemory,
}

impl Duty {
    /// Judges a run and says what is mailed, in short.
    fn sees(&mut self, minutes: i64, run: &Run) -> String {
        let policy = Policy { cooldown: COOLDOWN };
        let verdict = judge(run, &self.memory, policy, at(minutes));
        for alert in &verdict.alerts {
            self.memory.alerts.insert(alert.fingerprint.clone(), alert.clone());
        }
        let mut said: Vec<String> = Vec::new();
        for told in verdict.problems.iter().chain(&verdict.information) {
            said.push(format!("{} {:?}", told.observation.about.word(), told.reason));
        }
        said.extend(verdict.resolved.iter().map(|alert| format!("{} resolved", alert.kind)));
        said.extend(verdict.repaired.iter().map(|drop| format!("repaired {:?}", drop.map(|d| d.0))));
        said.extend(verdict.earlier.iter().map(|earlier| format!("{} earlier", earlier.repairs)));
        self.count_unmailed(run, &verdict, said.is_empty());
        assert_eq!(verdict.says_something(), !said.is_empty());
        said.join(", ")
    }

    /// As the tables would count them. The tests repair one thing in one drop at a time.
    fn count_unmailed(&mut self, run: &Run, verdict: &AlertVerdict, nothing_said: bool) {
        if !verdict.earlier.is_empty() {
            self.memory.unmailed_repairs.clear();
        }
        if nothing_said && run.status == Status::Repaired {
            *self.memory.unmailed_repairs.entry(Some(DropId(7))).or_default() += 1;
        }
    }

    fn silence(&mut self, until_minutes: i64) {
        self.memory.silenced_until.insert(DropId(7), at(until_minutes));
    }

    fn acknowledge(&mut self, minutes: i64) {
        for alert in self.memory.alerts.values_mut() {
            alert.acknowledged_at = Some(at(minutes));
            alert.acknowledged_by = Some("kim".to_owned());
        }
    }

    fn only(&self) -> &Alert {
        assert_eq!(self.memory.alerts.len(), 1);
        self.memory.alerts.values().next().unwrap()
    }
}

fn clean() -> Run {
    run(Status::Clean, Vec::new())
}

fn one_left() -> Run {
    run(Status::Drift, vec![left(Kind::FailedClaim, 3)])
}

#[test]
fn clean_passes_and_dry_runs_say_nothing() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &clean()), "");
    let everything = vec![left(Kind::FailedClaim, 1), finding(Kind::Unissued, 2, Outcome::Applied)];
    assert_eq!(duty.sees(1, &Run { dry_run: true, ..run(Status::Drift, everything.clone()) }), "");
    assert_eq!(duty.sees(2, &run(Status::Running, everything)), "");
    assert!(duty.memory.alerts.is_empty());
}

#[test]
fn a_repair_is_told_once_and_nothing_fires() {
    let mut duty = Duty::default();
    let repaired = run(Status::Repaired, vec![finding(Kind::Unissued, 3, Outcome::Applied)]);
    assert_eq!(duty.sees(0, &repaired), "repaired Some(7)");
    assert_eq!(duty.sees(1, &clean()), "");
    assert_eq!(duty.only().state, State::Resolved);
    let gate = Finding { result: Outcome::Applied, needs_person: false, kind: Kind::RedisLost, ..stalled("gone") };
    assert_eq!(duty.sees(2, &general(Status::Repaired, vec![gate])), "repaired None");
}

#[test]
fn what_changed_by_itself_is_not_told() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &run(Status::Clean, vec![finding(Kind::Unissued, 3, Outcome::Skipped)])), "");
}

#[test]
fn what_is_left_is_told_once_then_after_the_cooldown_then_once_when_it_is_over() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
    for minutes in [1, 30, 239] {
        assert_eq!(duty.sees(minutes, &one_left()), "", "after {minutes} min");
    }
    assert_eq!(duty.sees(240, &one_left()), "failed_claim Repeat");
    assert_eq!(duty.sees(241, &one_left()), "");
    assert_eq!(duty.sees(480, &one_left()), "failed_claim Repeat");
    assert_eq!(duty.sees(481, &clean()), "failed_claim resolved");
    assert_eq!(duty.sees(482, &clean()), "");
    assert_eq!(duty.only().state, State::Resolved);
}

#[test]
fn a_pass_that_did_not_look_there_ends_nothing() {
    let mut duty = Duty::default();
    duty.sees(0, &one_left());
    let elsewhere = Run { drops: Vec::new(), ..clean() };
    assert_eq!(duty.sees(1, &elsewhere), "");
    assert_eq!(duty.sees(2, &failed("MySQL is away")), "run_failed New");
    assert_eq!(duty.sees(3, &clean()), "run_failed resolved, failed_claim resolved");
}

#[test]
fn a_pass_over_one_coupon_ends_nothing_that_concerns_none() {
    let mut duty = Duty::default();
    let loose = Finding { kind: Kind::FailedClaim, ..stalled("failed claim 12: undecodable") };
    assert_eq!(duty.sees(0, &general(Status::Drift, vec![loose])), "failed_claim New");
    assert_eq!(duty.sees(1, &Run { partial: true, ..clean() }), "");
    assert_eq!(duty.sees(2, &clean()), "failed_claim resolved");
}

#[test]
fn a_claim_that_names_a_drop_nobody_knows_is_over_once_it_is_gone() {
    let mut duty = Duty::default();
    let loose = Finding { drop_id: Some(DropId(99)), ..left(Kind::FailedClaim, 3) };
    assert_eq!(duty.sees(0, &general(Status::Drift, vec![loose])), "failed_claim New");
    assert_eq!(duty.sees(1, &clean()), "failed_claim resolved");
}

#[test]
fn a_failed_pass_is_one_thing_and_one_that_was_told_to_stop_is_none() {
    let mut duty = Duty::default();
    let error = "MySQL cannot be reached: refused";
    let run = Run { findings: vec![stalled(error)], ..failed(error) };
    assert_eq!(duty.sees(0, &run), "run_failed New");
    assert_eq!(duty.sees(1, &clean()), "run_failed resolved");
    let stopped = "the process was told to stop";
    assert_eq!(duty.sees(2, &Run { findings: vec![stalled(stopped)], stopped: true, ..failed(stopped) }), "");
}

#[test]
fn a_change_is_told_at_once_but_ages_are_no_change() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
    let mut older = one_left();
    older.drops[0].findings[0].detail = "admitted 99 s ago".to_owned();
    assert_eq!(duty.sees(1, &older), "");
    let two = run(Status::Drift, vec![left(Kind::FailedClaim, 9), left(Kind::FailedClaim, 3)]);
    assert_eq!(duty.sees(2, &two), "failed_claim Changed");
    let turned = run(Status::Drift, vec![left(Kind::FailedClaim, 3), left(Kind::FailedClaim, 9)]);
    assert_eq!(duty.sees(3, &turned), "", "the order is no change");
}

#[test]
fn what_differs_in_kind_place_or_reason_is_told_apart() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
    let both = vec![left(Kind::FailedClaim, 3), finding(Kind::SlotConflict, 3, Outcome::Failed)];
    assert_eq!(duty.sees(1, &run(Status::Drift, both)), "slot_conflict New");
    let mut elsewhere = one_left();
    elsewhere.drops[0].drop_id = DropId(8);
    assert_eq!(duty.sees(2, &elsewhere), "failed_claim New");
    let lag = |n| stalled(&format!("the consumer's lag stands at {n}"));
    assert_eq!(
        duty.sees(3, &general(Status::Drift, vec![lag(5)])),
        "stalled New, failed_claim resolved, slot_conflict resolved"
    );
    assert_eq!(duty.sees(4, &general(Status::Drift, vec![lag(6)])), "");
    let kafka = stalled("Kafka can't be reached");
    assert_eq!(duty.sees(5, &general(Status::Drift, vec![lag(7), kafka])), "stalled New");
}

#[test]
fn the_brake_is_one_alert_a_drop_and_tells_again_once_it_has_doubled() {
    let mut duty = Duty::default();
    let held = |n: i64| {
        let planned = |slot| finding(Kind::MissingAdmission, slot, Outcome::Planned);
        run(Status::Braked, (1..=n).map(planned).collect())
    };
    assert_eq!(duty.sees(0, &held(70)), "braked New");
    assert_eq!(duty.sees(1, &held(71)), "");
    assert_eq!(duty.sees(2, &held(140)), "braked Changed");
    assert_eq!(duty.only().summary, "140 repairs are held back until a person confirms");
    let confirmed = run(Status::Repaired, vec![finding(Kind::MissingAdmission, 1, Outcome::Applied)]);
    assert_eq!(duty.sees(3, &confirmed), "braked resolved, repaired Some(7)");
    assert_eq!(duty.sees(4, &clean()), "");
}

#[test]
fn an_acknowledged_alert_is_quiet_until_it_changes_or_is_over() {
    let mut duty = Duty::default();
    duty.sees(0, &one_left());
    duty.acknowledge(5);
    assert_eq!(duty.sees(600, &one_left()), "");
    let two = run(Status::Drift, vec![left(Kind::FailedClaim, 3), left(Kind::FailedClaim, 4)]);
    assert_eq!(duty.sees(601, &two), "failed_claim Changed");
    assert_eq!(duty.only().acknowledged_at, None, "whoever took it on took on something else");
    duty.acknowledge(602);
    assert_eq!(duty.sees(2_000, &two), "");
    assert_eq!(duty.sees(2_001, &clean()), "failed_claim resolved");
}

#[test]
fn a_silenced_drop_is_kept_but_not_mailed_until_the_silence_ends() {
    let mut duty = Duty::default();
    duty.silence(60);
    assert_eq!(duty.sees(0, &one_left()), "");
    assert_eq!(duty.only().state, State::Firing);
    let repaired = vec![left(Kind::FailedClaim, 3), finding(Kind::Unissued, 5, Outcome::Applied)];
    assert_eq!(duty.sees(1, &run(Status::Drift, repaired)), "");
    let general = stalled("Kafka can't be reached");
    let both = Run { findings: vec![general], ..one_left() };
    assert_eq!(duty.sees(2, &both), "stalled New", "what is of no drop is not silenced");
    assert_eq!(duty.sees(60, &both), "failed_claim New");
}

#[test]
fn what_was_mailed_before_a_silence_is_mailed_when_it_ends() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
    duty.silence(90);
    assert_eq!(duty.sees(89, &one_left()), "");
    assert_eq!(duty.sees(90, &one_left()), "failed_claim Repeat");
    assert_eq!(duty.sees(91, &one_left()), "");
}

#[test]
fn what_is_over_within_a_silence_is_told_after_it_if_people_know_of_it() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
    duty.silence(90);
    assert_eq!(duty.sees(30, &clean()), "");
    assert_eq!(duty.only().state, State::Resolved);
    assert_eq!(duty.sees(90, &clean()), "failed_claim resolved");
    assert_eq!(duty.sees(91, &clean()), "");

    let mut duty = Duty::default();
    duty.silence(90);
    assert_eq!(duty.sees(0, &one_left()), "");
    assert_eq!(duty.sees(1, &clean()), "");
    assert_eq!(duty.sees(91, &clean()), "", "nobody was told that it fired");
}

#[test]
fn a_flapping_alert_does_not_mail_with_every_pass() {
    let mut duty = Duty::default();
    let mut mails = 0;
    for minute in 0..240 {
        let run = if minute % 2 == 0 { one_left() } else { clean() };
        mails += usize::from(!duty.sees(minute, &run).is_empty());
    }
    assert!((4..=20).contains(&mails), "{mails}");
    assert_eq!(duty.sees(239 + 480, &one_left()), "failed_claim New");
    assert_eq!(duty.sees(239 + 481, &clean()), "failed_claim resolved");
}

#[test]
fn something_that_changes_with_every_pass_does_not_mail_with_every_pass_and_no_change_is_lost() {
    let mut duty = Duty::default();
    let growing = |n: i64| run(Status::Drift, (1..=n).map(|slot| left(Kind::FailedClaim, slot)).collect());
    let mails = (0..240).filter(|minute| !duty.sees(*minute, &growing(minute + 1)).is_empty()).count();
    assert!((5..=15).contains(&mails), "{mails}");
    assert_eq!(duty.sees(600, &growing(240)), "failed_claim Changed");
    assert_eq!(duty.sees(601, &growing(240)), "");
}

#[test]
fn repairs_with_every_pass_are_told_together_ever_less_often_and_none_is_left_out() {
    let mut duty = Duty::default();
    let repaired = run(Status::Repaired, vec![finding(Kind::Unissued, 3, Outcome::Applied)]);
    let said: Vec<String> = (0..120).map(|minute| duty.sees(minute, &repaired)).filter(|s| !s.is_empty()).collect();
    assert_eq!(said[..4], ["repaired Some(7)", "repaired Some(7)", "repaired Some(7)", "repaired Some(7)"]);
    assert!((6..=10).contains(&said.len()), "{said:?}");
    assert!(said[5].starts_with("repaired Some(7), 3 earlier"), "{said:?}");
    let quiet: Vec<String> = (120..900).map(|minute| duty.sees(minute, &clean())).filter(|s| !s.is_empty()).collect();
    assert_eq!(quiet.len(), 1, "what was held back is told once, then nothing: {quiet:?}");
    let told = |said: &String| {
        let earlier = said.split(", ").find_map(|part| part.strip_suffix(" earlier")).map_or(0, |n| n.parse().unwrap());
        earlier + u64::from(said.contains("repaired"))
    };
    assert_eq!(said.iter().chain(&quiet).map(told).sum::<u64>(), 120);
    assert_eq!(duty.sees(2_000, &repaired), "repaired Some(7)", "after a quiet time it is told at once again");
}

#[test]
fn broken_promises_stand_until_they_are_mended() {
    let mut duty = Duty::default();
    let promise = |user: &str| BrokenPromise {
        coupon_id: CouponId(1),
        drop_id: DropId(7),
        user_id: user.to_owned(),
        slot: Some(101),
        reason: "no slot was left".to_owned(),
    };
    duty.memory.broken = vec![promise("u-101")];
    let moved = run(Status::Drift, vec![finding(Kind::OverAdmitted, 101, Outcome::Applied)]);
    assert_eq!(duty.sees(0, &moved), "broken_promise New", "and is not praised as a repair");
    assert_eq!(duty.sees(1, &clean()), "", "the next pass finds nothing, but the promise is still broken");
    duty.memory.broken.push(promise("u-102"));
    assert_eq!(duty.sees(2, &clean()), "broken_promise Changed");
    assert_eq!(duty.sees(300, &clean()), "broken_promise Repeat");
    duty.memory.broken.clear();
    assert_eq!(duty.sees(301, &clean()), "broken_promise resolved");
}

#[test]
fn a_drop_that_closed_below_its_quantity_is_told_once() {
    let mut duty = Duty::default();
    let mut report = finding(Kind::Unfilled, 0, Outcome::Skipped);
    report.action = ActionKind::Report;
    (report.slot, report.user_id) = (None, None);
    report.detail = "closed with 10 of 100 slots left, and nobody waits".to_owned();
    let unfilled = run(Status::Clean, vec![report]);
    assert_eq!(duty.sees(0, &unfilled), "unfilled New");
    assert_eq!(duty.sees(1, &unfilled), "");
    assert_eq!(duty.sees(10_000, &unfilled), "");
    assert_eq!(duty.sees(10_001, &clean()), "");
    assert_eq!(duty.only().state, State::Information);
}

#[test]
fn summaries_hold_no_id_in_full() {
    let mut duty = Duty::default();
    let mut run = one_left();
    run.drops[0].findings[0].user_id = Some("customer-4711".to_owned());
    run.findings = vec![stalled("customer-4711 waits, and so does bob@example.com")];
    duty.sees(0, &run);
    for alert in duty.memory.alerts.values() {
        assert!(!alert.summary.contains("4711") && !alert.summary.contains("bob@"), "{}", alert.summary);
    }
}

#[test]
fn ten_thousand_findings_are_one_alert() {
    let mut duty = Duty::default();
    let many = (1..=10_000).map(|slot| left(Kind::FailedClaim, slot)).collect();
    assert_eq!(duty.sees(0, &run(Status::Drift, many)), "failed_claim New");
    assert_eq!(duty.only().summary, "10,000 unrepaired failed claims");
}
