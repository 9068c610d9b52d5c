//! Tests alerts over histories of passes: which mails are sent, and how often.

use super::*;
use crate::report::{DropReport, Trigger, Unproven, UnsafePart};
use chrono::{DateTime, TimeDelta, Utc};

fn at(minutes: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_796_104_800 + minutes * 60, 0).unwrap()
}

fn finding(kind: Kind, slot: i64, result: Outcome) -> Finding {
    Finding {
        coupon_id: Some(CouponId(1)),
        drop_id: Some(DropId(7)),
        slot: Some(slot),
        user_id: Some(format!("u-{slot}")),
        ..Finding::new(kind, ActionKind::Issue, result, format!("{slot} s ago"))
    }
}

fn left(kind: Kind, slot: i64) -> Finding {
    Finding {
        needs_person: true,
        action: ActionKind::Report,
        ..finding(kind, slot, Outcome::Skipped)
    }
}

fn stalled(detail: &str) -> Finding {
    Finding::report(Kind::Stalled, detail)
}

fn run(status: Status, findings: Vec<Finding>) -> Run {
    let drop = DropReport {
        coupon_name: "Winter coupon".to_owned(),
        exact: status == Status::Clean,
        findings,
        ..DropReport::begun(CouponId(1), DropId(7), 100)
    };
    Run {
        status,
        finished_at: Some(at(0)),
        drops: vec![drop],
        ..Run::begun("run", Trigger::Cron, at(0))
    }
}

fn general(status: Status, findings: Vec<Finding>) -> Run {
    Run {
        findings,
        ..run(status, Vec::new())
    }
}

fn failed(cause: FailureCause, error: &str) -> Run {
    let cause = Cause::RunFailed(cause);
    Run {
        error: Some(error.to_owned()),
        findings: vec![Finding {
            cause,
            ..stalled(error)
        }],
        drops: Vec::new(),
        ..run(Status::Failed, Vec::new())
    }
}

fn clean() -> Run {
    run(Status::Clean, Vec::new())
}

/// Returns a pass that left failed claims of these slots.
fn left_on(slots: impl IntoIterator<Item = i64>) -> Run {
    let left = |slot| left(Kind::FailedClaim, slot);
    run(Status::Drift, slots.into_iter().map(left).collect())
}

fn one_left() -> Run {
    left_on([3])
}

fn redis_is_away() -> Run {
    failed(
        FailureCause::Redis,
        "Redis cannot be reached: Connection refused",
    )
}

/// The alerts as earlier passes stored them.
#[derive(Default)]
struct Duty {
    memory: AlertMemory,
    patience: TimeDelta,
}

impl Duty {
    /// Judges a run and returns a summary of the mails.
    fn sees(&mut self, minutes: i64, run: &Run) -> String {
        let policy = MailPolicy {
            cooldown: TimeDelta::hours(4),
            patience: self.patience,
        };
        let verdict = judge(run, &self.memory, policy, at(minutes));
        self.keep(&verdict)
    }

    /// Judges what the watch over Redis sees.
    fn watches(&mut self, minutes: i64, problem: Problem) -> String {
        let policy = MailPolicy {
            cooldown: TimeDelta::hours(4),
            patience: TimeDelta::zero(),
        };
        let mut verdict = Verdict::default();
        observe(problem, &self.memory, policy, at(minutes), &mut verdict);
        self.keep(&verdict)
    }

    /// Stores the alerts and returns a summary of the mails.
    fn keep(&mut self, verdict: &Verdict) -> String {
        for alert in &verdict.alerts {
            self.memory.alerts.insert(alert.name.clone(), alert.clone());
        }
        let problems = verdict.problems.iter();
        let problems = problems.map(|it| format!("{} {:?}", it.problem.kind.word(), it.reason));
        let resolved = verdict.resolved.iter();
        let resolved = resolved.map(|alert| format!("{} over", alert.kind));
        problems.chain(resolved).collect::<Vec<_>>().join(", ")
    }

    fn acknowledge(&mut self, minutes: i64) {
        for alert in self.memory.alerts.values_mut() {
            alert.acknowledged_at = Some(at(minutes));
        }
    }

    fn only(&self) -> &Alert {
        assert_eq!(self.memory.alerts.len(), 1);
        self.memory.alerts.values().next().unwrap()
    }
}

#[test]
fn clean_passes_repairs_and_dry_runs_raise_no_alert() {
    let mut duty = Duty::default();
    let found = vec![left(Kind::FailedClaim, 1)];
    let dry = Run {
        dry_run: true,
        ..run(Status::Drift, found.clone())
    };
    let repaired = finding(Kind::Unissued, 3, Outcome::Applied);
    let not_needed = finding(Kind::Unissued, 3, Outcome::Skipped);
    for run in [
        clean(),
        dry,
        run(Status::Running, found),
        run(Status::Repaired, vec![repaired]),
        run(Status::Clean, vec![not_needed]),
    ] {
        assert_eq!(duty.sees(0, &run), "");
    }
    assert!(duty.memory.alerts.is_empty());
}

#[test]
fn problem_is_mailed_once_then_after_4_hours_doubling_and_when_over() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
    let repeats: Vec<i64> = (1..4_000)
        .filter(|minute| duty.sees(*minute, &one_left()) == "failed_claim Repeat")
        .collect();
    assert_eq!(repeats, [240, 480, 960, 1_920, 3_840]);
    assert_eq!(duty.sees(4_000, &clean()), "failed_claim over");
    assert_eq!(duty.sees(4_001, &clean()), "");
    assert_eq!(duty.only().state, AlertState::Resolved);
}

#[test]
fn pass_ends_only_alerts_of_what_it_examined() {
    let mut duty = Duty::default();
    duty.sees(0, &one_left());
    let elsewhere = Run {
        drops: Vec::new(),
        ..clean()
    };
    assert_eq!(duty.sees(1, &elsewhere), "");
    assert_eq!(duty.sees(2, &redis_is_away()), "redis_unreachable New");
    let partial = Run {
        partial: true,
        ..elsewhere
    };
    assert_eq!(duty.sees(3, &partial), "");
    assert_eq!(
        duty.sees(4, &clean()),
        "redis_unreachable over, failed_claim over"
    );
}

#[test]
fn alert_of_a_kind_that_only_a_later_version_knows_does_not_end() {
    let mut duty = Duty::default();
    duty.sees(0, &one_left());
    duty.sees(0, &redis_is_away());
    for alert in duty.memory.alerts.values_mut() {
        alert.kind = "of_tomorrow".to_owned();
    }
    assert_eq!(duty.sees(1, &clean()), "");
}

#[test]
fn drop_keeps_its_alerts_when_its_repairs_are_held_back_or_fail() {
    let whole = Finding {
        slot: None,
        user_id: None,
        ..finding(Kind::CountMismatch, 0, Outcome::Failed)
    };
    let held = finding(Kind::SlotConflict, 9, Outcome::Planned);
    for (not_compared, says) in [
        (run(Status::Braked, vec![held]), "braked New"),
        (run(Status::Drift, vec![whole]), "count_mismatch New"),
    ] {
        let mut duty = Duty::default();
        assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
        assert_eq!(duty.sees(1, &not_compared), says);
        assert!(duty.sees(2, &clean()).contains("failed_claim over"));
    }
}

#[test]
fn outage_is_identified_by_its_store_and_mailed_once_whatever_the_error_says() {
    let mut duty = Duty::default();
    let kafka = "the topic cannot be read: Meta data fetch error: BrokerTransportFailure";
    for (minute, run, says) in [
        (
            0,
            failed(FailureCause::Kafka, kafka),
            "kafka_unreachable New",
        ),
        (
            1,
            failed(FailureCause::Kafka, "Kafka cannot be reached: timed out"),
            "",
        ),
        (2, redis_is_away(), "redis_unreachable New"),
        (3, failed(FailureCause::Kafka, kafka), ""),
        (
            4,
            failed(FailureCause::Mysql, "MySQL: write rows: Table is full"),
            "run_failed New",
        ),
        (5, redis_is_away(), ""),
        (
            6,
            clean(),
            "redis_unreachable over, kafka_unreachable over, run_failed over",
        ),
    ] {
        assert_eq!(duty.sees(minute, &run), says, "{minute}");
    }
    let stopped = Run {
        stopped: true,
        ..failed(FailureCause::Other, "the process was told to stop")
    };
    assert_eq!(duty.sees(7, &stopped), "");
}

#[test]
fn redis_outage_goes_on_while_coupons_stay_closed_and_they_get_no_separate_mail() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &redis_is_away()), "redis_unreachable New");
    let closed = Finding {
        coupon_id: Some(CouponId(1)),
        action: ActionKind::Open,
        result: Outcome::Failed,
        ..Finding::report(Kind::RedisLost, "the coupon stays closed")
    };
    let closed = general(Status::Drift, vec![closed]);
    for minute in 1..60 {
        assert_eq!(duty.sees(minute, &closed), "");
    }
    assert_eq!(duty.sees(60, &clean()), "redis_unreachable over");
    assert_eq!(
        duty.sees(61, &closed),
        "redis_lost New",
        "without an outage"
    );
}

#[test]
fn restart_of_a_store_is_not_mailed_but_repeated_failures_are() {
    let mut duty = Duty {
        patience: TimeDelta::minutes(2),
        ..Duty::default()
    };
    for (minute, run, says) in [
        (0, redis_is_away(), ""),
        (1, clean(), ""),
        (30, redis_is_away(), ""),
        (31, redis_is_away(), ""),
        (32, redis_is_away(), "redis_unreachable New"),
        (33, clean(), "redis_unreachable over"),
        // Every other pass fails.
        (1_000, redis_is_away(), ""),
        (1_001, clean(), ""),
        (1_002, redis_is_away(), "redis_unreachable New"),
        (1_003, clean(), "redis_unreachable over"),
        // Problems of users are mailed at once.
        (2_000, one_left(), "failed_claim New"),
    ] {
        assert_eq!(duty.sees(minute, &run), says, "{minute}");
    }
}

/// After a mail that says "over", operators do nothing until the next mail.
#[test]
fn each_outage_is_mailed_within_minutes_however_many_came_before() {
    let mut duty = Duty {
        patience: TimeDelta::minutes(2),
        ..Duty::default()
    };
    for began in (0..60).step_by(6) {
        assert_eq!(duty.sees(began, &redis_is_away()), "", "{began}");
        let says = duty.sees(began + 3, &redis_is_away());
        assert_eq!(says, "redis_unreachable New", "{began}");
        assert_eq!(duty.sees(began + 5, &clean()), "redis_unreachable over");
    }
}

#[test]
fn more_or_other_cases_are_mailed_at_once_but_older_reordered_or_fewer_are_not() {
    let mut duty = Duty::default();
    let mut older = one_left();
    older.drops[0].findings[0].detail = "99 s ago".to_owned();
    for (minute, run, says) in [
        (0, one_left(), "failed_claim New"),
        (1, older, ""),
        (2, left_on([9, 3]), "failed_claim Changed"),
        (3, left_on([3, 9]), ""),
        (4, left_on([9]), ""),
        (200, left_on([12]), "failed_claim Changed"),
    ] {
        assert_eq!(duty.sees(minute, &run), says, "{minute}");
    }
}

#[test]
fn problem_of_each_kind_drop_and_reason_has_its_own_alert() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
    let both = vec![
        left(Kind::FailedClaim, 3),
        finding(Kind::SlotConflict, 3, Outcome::Failed),
    ];
    assert_eq!(duty.sees(1, &run(Status::Drift, both)), "slot_conflict New");
    let mut elsewhere = one_left();
    elsewhere.drops[0].drop_id = DropId(8);
    assert_eq!(duty.sees(2, &elsewhere), "failed_claim New");
    let with = |cause, detail: &str| Finding {
        cause,
        ..stalled(detail)
    };
    let stands = |detail| with(Cause::ConsumerStands, detail);
    let redis = |detail| with(Cause::Unsafe(UnsafePart::Redis), detail);
    let says = "unsafe_setting New, stalled New, failed_claim over, slot_conflict over";
    let lag = general(Status::Drift, vec![stands("lag 5"), redis("evicts")]);
    assert_eq!(duty.sees(3, &lag), says);
    let lag = general(
        Status::Drift,
        vec![
            stands("lag 6"),
            redis("verdrängt"),
            with(Cause::NotCompared, "a batch"),
        ],
    );
    assert_eq!(duty.sees(4, &lag), "stalled New", "of the batch");
}

#[test]
fn forged_messages_have_a_separate_alert() {
    let forged = || Finding {
        cause: Cause::Forged,
        ..Finding::report(Kind::FailedClaim, "the message has no signature")
    };
    let other = Finding {
        dead_letter: Some(4),
        ..Finding::report(Kind::FailedClaim, "it names no drop")
    };
    let run = general(Status::Drift, vec![forged(), forged(), other]);
    let found = problems(&run, &[]);
    let found = found.iter().map(|it| (it.kind, it.summary.as_str()));
    assert_eq!(
        found.collect::<Vec<_>>(),
        [
            (
                AlertKind::Forged,
                "messages without our signature on the topic"
            ),
            (
                AlertKind::Left(Kind::FailedClaim),
                "failed claim 4: it names no drop"
            ),
        ]
    );
}

#[test]
fn held_back_repairs_are_one_alert_per_drop_mailed_again_when_doubled() {
    let mut duty = Duty::default();
    let held = |n: i64| {
        let planned = |slot| finding(Kind::MissingAdmission, slot, Outcome::Planned);
        run(Status::Braked, (1..=n).map(planned).collect())
    };
    assert_eq!(duty.sees(0, &held(70)), "braked New");
    assert_eq!(duty.sees(1, &held(71)), "");
    assert_eq!(duty.sees(2, &held(140)), "braked Changed");
    assert_eq!(
        duty.only().summary,
        "140 repairs that wait for a confirmation"
    );
    assert_eq!(duty.sees(3, &clean()), "braked over");
}

#[test]
fn broken_promises_keep_firing_until_they_are_resolved() {
    let mut duty = Duty::default();
    let promise = |user: &str| BrokenPromise {
        coupon_id: CouponId(1),
        drop_id: DropId(7),
        user_id: user.to_owned(),
        slot: Some(101),
        reason: "no slot was left".to_owned(),
    };
    duty.memory.broken = vec![promise("u-101")];
    let moved = run(
        Status::Drift,
        vec![finding(Kind::OverAdmitted, 101, Outcome::Applied)],
    );
    assert!(repairs(&moved, &duty.memory.broken).is_empty());
    assert_eq!(duty.sees(0, &moved), "broken_promise New");
    assert_eq!(duty.sees(1, &clean()), "", "the promise is still broken");
    duty.memory.broken.push(promise("u-102"));
    assert_eq!(duty.sees(2, &clean()), "broken_promise Changed");
    assert_eq!(duty.sees(300, &clean()), "broken_promise Repeat");
    duty.memory.broken.clear();
    assert_eq!(duty.sees(301, &clean()), "broken_promise over");
}

#[test]
fn summary_names_coupon_and_drop_only_of_general_findings_and_never_a_user() {
    let summary = |run: Run| {
        let mut duty = Duty::default();
        duty.sees(0, &run);
        duty.only().summary.clone()
    };
    let few = Finding {
        coupon_id: Some(CouponId(3)),
        drop_id: Some(DropId(7)),
        result: Outcome::Failed,
        ..Finding::report(Kind::CountMismatch, "rows are missing")
    };
    let few = general(Status::Drift, vec![few]);
    assert_eq!(summary(few), "drop 7 of coupon 3: rows are missing");
    let of_drop = Finding {
        slot: None,
        user_id: None,
        ..left(Kind::CountMismatch, 0)
    };
    let of_drop = run(Status::Drift, vec![of_drop]);
    assert_eq!(summary(of_drop), "0 s ago", "the mail names the drop");
    let mut one = one_left();
    one.drops[0].findings[0].user_id = Some("customer-4711".to_owned());
    assert_eq!(summary(one), "1 unrepaired failed claim");
}

#[test]
fn acknowledged_alert_is_not_mailed_until_it_changes_or_ends() {
    let mut duty = Duty::default();
    duty.sees(0, &one_left());
    duty.acknowledge(5);
    assert_eq!(duty.sees(600, &one_left()), "");
    assert_eq!(duty.sees(601, &left_on([3, 4])), "failed_claim Changed");
    assert_eq!(
        duty.only().acknowledged_at,
        None,
        "others were acknowledged"
    );
    duty.acknowledge(602);
    assert_eq!(duty.sees(2_000, &left_on([3, 4])), "");
    assert_eq!(duty.sees(2_001, &clean()), "failed_claim over");
}

#[test]
fn clock_that_is_set_back_silences_no_alert() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(7_200, &one_left()), "failed_claim New");
    assert_eq!(duty.sees(0, &left_on([3, 4])), "failed_claim Changed");
    assert_eq!(duty.sees(1, &left_on([3, 4])), "", "mailed once");
    assert_eq!(duty.sees(2, &clean()), "failed_claim over");
}

/// Two daemons pass in turn, and the clock of one is an hour ahead.
#[test]
fn clock_of_another_host_that_is_ahead_repeats_no_mail() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(60, &one_left()), "failed_claim New");
    for minute in 0..30 {
        assert_eq!(duty.sees(minute, &one_left()), "");
        assert_eq!(duty.sees(minute + 60, &one_left()), "");
    }
    assert_eq!(duty.sees(300, &one_left()), "failed_claim Repeat");
}

#[test]
fn stall_ends_only_when_no_pass_has_seen_it_for_a_while() {
    let mut duty = Duty {
        patience: TimeDelta::minutes(1),
        ..Duty::default()
    };
    let stands = general(Status::Drift, vec![stalled("the consumer has not moved")]);
    assert_eq!(duty.sees(0, &stands), "stalled New");
    assert_eq!(
        duty.sees(1, &clean()),
        "",
        "a process that has just begun to watch"
    );
    assert_eq!(duty.sees(2, &stands), "");
    assert_eq!(duty.sees(4, &clean()), "stalled over");
}

#[test]
fn flapping_alert_is_not_mailed_by_every_pass() {
    let mut duty = Duty::default();
    let mut mails = 0;
    for minute in 0..240 {
        let run = if minute % 2 == 0 { one_left() } else { clean() };
        mails += usize::from(!duty.sees(minute, &run).is_empty());
    }
    assert!((4..=20).contains(&mails), "{mails}");
    assert_eq!(duty.sees(239 + 480, &one_left()), "failed_claim New");
    assert_eq!(duty.sees(239 + 481, &clean()), "failed_claim over");
}

#[test]
fn alert_of_a_sealed_drop_ends_with_a_deep_pass_that_does_not_report_it() {
    let mut duty = Duty::default();
    let mut deep = one_left();
    deep.deep = true;
    deep.drops[0].sealed = true;
    assert_eq!(duty.sees(0, &deep), "failed_claim New");
    deep.drops.clear();
    let pass = Run {
        deep: false,
        ..deep.clone()
    };
    assert_eq!(duty.sees(1, &pass), "");
    assert_eq!(duty.sees(2, &deep), "failed_claim over");
}

#[test]
fn alert_of_an_attached_drop_ends_with_a_pass_that_no_longer_compares_it() {
    let mut duty = Duty {
        patience: TimeDelta::minutes(1),
        ..Duty::default()
    };
    let mut pass = one_left();
    pass.drops[0].drop_id = DropId::of_campaign("Winter", None);
    assert_eq!(duty.sees(0, &pass), "failed_claim New");
    let left_out = general(Status::Drift, vec![stalled("no table \"coupon\"")]);
    assert_eq!(duty.sees(1, &left_out), "stalled New");
    assert_eq!(duty.sees(2, &clean()), "failed_claim over");
    let mut alerts = duty.memory.alerts.values();
    let says = "(not repaired, no longer compared)";
    assert!(alerts.any(|it| it.summary.ends_with(says)));
}

fn not_compared(campaign: &str) -> Finding {
    Finding {
        coupon_id: Some(CouponId::of_campaign(campaign)),
        ..stalled(&format!("campaign {campaign:?}: no table \"coupon\""))
    }
}

fn away(store: FailureCause) -> Run {
    let finding = Finding {
        cause: Cause::Away(store),
        ..stalled("their store: no answer")
    };
    Run {
        partial: true,
        drops: Vec::new(),
        ..general(Status::Drift, vec![finding])
    }
}

#[test]
fn acknowledged_alert_of_a_campaign_hides_no_other_campaign_and_no_store() {
    let mut duty = Duty::default();
    let old = general(Status::Drift, vec![not_compared("Old")]);
    assert_eq!(duty.sees(0, &old), "stalled New");
    duty.acknowledge(1);
    assert_eq!(duty.sees(2, &old), "");
    let both = general(
        Status::Drift,
        vec![not_compared("Old"), not_compared("Winter")],
    );
    assert_eq!(duty.sees(3, &both), "stalled New");
    duty.acknowledge(4);
    for (minutes, store, expected) in [
        (5, FailureCause::Mysql, "mysql_unreachable New"),
        (6, FailureCause::Redis, "redis_unreachable New"),
        (7, FailureCause::Kafka, "kafka_unreachable New"),
    ] {
        let run = away(store);
        assert_eq!(duty.sees(minutes, &run), expected);
        let again = duty.sees(minutes, &run);
        assert_eq!(again, "", "one alert an outage");
    }
    // The outage of our own MySQL is another one.
    let ours = failed(FailureCause::Mysql, "Connection refused (os error 111)");
    assert_eq!(duty.sees(8, &ours), "mysql_unreachable New");
    let over = duty.sees(90, &old);
    for word in ["mysql", "redis", "kafka"] {
        let ended = format!("{word}_unreachable over");
        assert!(over.contains(&ended), "{over}");
    }
    assert!(!over.contains("New"), "{over}");
}

#[test]
fn outage_of_another_teams_store_is_mailed_only_if_it_lasts() {
    let mut duty = Duty {
        patience: TimeDelta::minutes(1),
        ..Duty::default()
    };
    let down = away(FailureCause::Redis);
    assert_eq!(duty.sees(0, &down), "");
    assert_eq!(duty.sees(2, &down), "redis_unreachable New");
}

#[test]
fn doubt_is_the_headline_and_all_its_findings_share_one_alert() {
    let doubted = |kind, slot, doubt| Finding {
        cause: Cause::Doubted(doubt),
        ..left(kind, slot)
    };
    let mut observed = run(
        Status::Drift,
        vec![
            doubted(Kind::OverAdmitted, 1, Doubt::Disjoint),
            doubted(Kind::MissingAdmission, 2, Doubt::Disjoint),
        ],
    );
    let found = problems(&observed, &[]);
    let [problem] = found.as_slice() else {
        panic!("{found:?}");
    };
    assert_eq!(problem.kind, AlertKind::Doubtful);
    let says = "no user in Redis has a row: 2 differences";
    assert_eq!(problem.summary, says);
    // A sale that a repair would open again is a real difference.
    let opens = run(
        Status::Drift,
        vec![doubted(Kind::Unfilled, 1, Doubt::Opens)],
    );
    let left = problems(&opens, &[]);
    assert_eq!(left[0].kind, AlertKind::Left(Kind::Unfilled));
    for finding in &mut observed.drops[0].findings {
        finding.result = Outcome::Planned;
    }
    // The gravest of several doubts is the headline.
    observed.drops[0].findings[0].cause = Cause::Doubted(Doubt::Untrusted);
    let held = problems(&observed, &[]);
    let says = "no user in Redis has a row: 2 repairs wait";
    assert_eq!((held[0].kind, &*held[0].summary), (AlertKind::Braked, says));
}

#[test]
fn alert_about_a_second_row_of_a_user_advises_to_delete_it() {
    let without = Finding {
        cause: Cause::SecondRow,
        ..left(Kind::OverAdmitted, 1)
    };
    let found = problems(&run(Status::Drift, vec![without]), &[]);
    assert_eq!(found[0].kind, AlertKind::SecondRow);
    let to_do = found[0].kind.facts_for(Subject::Campaign).to_do;
    assert!(to_do.starts_with("Delete the second row"), "{to_do}");
}

#[test]
fn alert_of_a_campaign_stays_while_it_cannot_be_compared() {
    let mut duty = Duty::default();
    let coupon = CouponId::of_campaign("Winter");
    let mut pass = one_left();
    pass.drops[0].coupon_id = coupon;
    pass.drops[0].drop_id = DropId::of_campaign("Winter", None);
    assert_eq!(duty.sees(0, &pass), "failed_claim New");
    let mut kafka = away(FailureCause::Kafka);
    kafka.partial = false;
    assert_eq!(duty.sees(1, &kafka), "kafka_unreachable New");
    let mut misfit = general(Status::Drift, vec![not_compared("Winter")]);
    misfit.drops.clear();
    assert_eq!(duty.sees(2, &misfit), "stalled New, kafka_unreachable over");
    // Another campaign that cannot be compared does not matter.
    let mut other = general(Status::Drift, vec![not_compared("Old")]);
    other.drops.clear();
    let over = duty.sees(3, &other);
    assert!(over.contains("failed_claim over"), "{over}");
}

#[test]
fn alert_of_a_campaign_ends_while_repairs_of_another_kind_are_held_back() {
    let campaign = |findings| {
        let mut pass = run(Status::Braked, findings);
        pass.drops[0].drop_id = DropId::of_campaign("Winter", None);
        pass
    };
    let held = |kind| finding(kind, 9, Outcome::Planned);
    let mut duty = Duty::default();
    let left = campaign(vec![left(Kind::FailedClaim, 3), held(Kind::Unissued)]);
    assert_eq!(duty.sees(0, &left), "braked New, failed_claim New");
    let same_kind = campaign(vec![held(Kind::FailedClaim)]);
    assert!(!duty.sees(1, &same_kind).contains("over"));
    let other_kind = campaign(vec![held(Kind::Unissued)]);
    assert!(duty.sees(2, &other_kind).contains("failed_claim over"));
    // A store that could not be written does not hide the rest either.
    assert!(duty.sees(3, &left).contains("failed_claim New"));
    let counter = Finding {
        slot: None,
        user_id: None,
        ..finding(Kind::CountMismatch, 0, Outcome::Failed)
    };
    let failed = campaign(vec![counter]);
    assert!(duty.sees(4, &failed).contains("failed_claim over"));
}

#[test]
fn alert_of_a_campaign_stays_while_a_sale_hides_its_reason() {
    let campaign = |finding| {
        let mut pass = run(Status::Drift, vec![finding]);
        pass.drops[0].drop_id = DropId::of_campaign("Winter", None);
        pass
    };
    let mut duty = Duty::default();
    let differs = left(Kind::CountMismatch, 0);
    let sold = Finding {
        needs_person: false,
        ..finding(Kind::CountMismatch, 0, Outcome::Skipped)
    };
    let other = finding(Kind::Unissued, 1, Outcome::Skipped);
    assert_eq!(duty.sees(0, &campaign(differs)), "count_mismatch New");
    assert_eq!(duty.sees(1, &campaign(sold)), "");
    assert!(
        duty.sees(2, &campaign(other))
            .contains("count_mismatch over")
    );
}

fn of_campaign(status: Status, findings: Vec<Finding>) -> Run {
    let mut pass = run(status, findings);
    pass.drops[0].drop_id = DropId::of_campaign("Winter", None);
    pass
}

#[test]
fn alert_of_a_campaign_stays_while_a_sale_shows_its_reason_as_another_kind() {
    let mut doubted = left(Kind::CountMismatch, 0);
    doubted.cause = Cause::Doubted(Doubt::Disjoint);
    let mut second_row = left(Kind::OverAdmitted, 0);
    second_row.cause = Cause::SecondRow;
    let held = finding(Kind::CountMismatch, 0, Outcome::Planned);
    let one_too_many = left(Kind::OverAdmitted, 0);
    for (before, hidden_as, alert) in [
        (doubted, Kind::CountMismatch, "doubtful"),
        (held, Kind::CountMismatch, "braked"),
        (second_row, Kind::Unissued, "second_row"),
        (one_too_many, Kind::Unissued, "over_admitted"),
        (
            left(Kind::CountMismatch, 0),
            Kind::Unfilled,
            "count_mismatch",
        ),
    ] {
        let mut duty = Duty::default();
        let differs = of_campaign(Status::Drift, vec![before]);
        assert_eq!(duty.sees(0, &differs), format!("{alert} New"));
        let mut waits = finding(hidden_as, 0, Outcome::Skipped);
        waits.needs_person = false;
        let sold = of_campaign(Status::Drift, vec![waits]);
        assert_eq!(duty.sees(1, &sold), "", "{alert}");
        let repaired = of_campaign(Status::Clean, Vec::new());
        assert_eq!(duty.sees(2, &repaired), format!("{alert} over"));
    }
}

/// While coupons are sold, a counter that is too high is no finding at all.
#[test]
fn alert_about_a_count_stays_while_the_pass_cannot_tell_whether_it_is_right() {
    let mut doubted = left(Kind::CountMismatch, 0);
    doubted.cause = Cause::Doubted(Doubt::Disjoint);
    for (before, alert) in [
        (left(Kind::CountMismatch, 0), "count_mismatch"),
        (left(Kind::Unfilled, 0), "unfilled"),
        (finding(Kind::CountMismatch, 0, Outcome::Planned), "braked"),
        (doubted, "doubtful"),
    ] {
        let mut duty = Duty::default();
        let event = left(Kind::FailedClaim, 1);
        let differs = of_campaign(Status::Drift, vec![before, event]);
        assert!(duty.sees(0, &differs).contains(&format!("{alert} New")));
        let mut sold = of_campaign(Status::Clean, Vec::new());
        sold.drops[0].counts_unclear = true;
        assert_eq!(duty.sees(1, &sold), "failed_claim over", "{alert}");
        let at_rest = of_campaign(Status::Clean, Vec::new());
        assert_eq!(duty.sees(2, &at_rest), format!("{alert} over"));
    }
}

/// The keys of a campaign expire after its end, and users without a row are no longer seen.
#[test]
fn alert_about_users_ends_as_not_repaired_after_the_keys_have_expired() {
    for (kind, alert, is_compared) in [
        (Kind::Unissued, "unissued", false),
        (Kind::OverAdmitted, "over_admitted", false),
        (Kind::CountMismatch, "count_mismatch", false),
        (Kind::DuplicateRow, "duplicate_row", true),
        (Kind::Stalled, "stalled", true),
    ] {
        let mut duty = Duty::default();
        let differs = of_campaign(Status::Drift, vec![left(kind, 0)]);
        assert_eq!(duty.sees(0, &differs), format!("{alert} New"));
        let mut expired = of_campaign(Status::Clean, Vec::new());
        expired.drops[0].unproven = Some(Unproven::KeysExpired);
        assert_eq!(duty.sees(1, &expired), format!("{alert} over"));
        let mut alerts = duty.memory.alerts.values();
        let says = "(not repaired, no longer compared)";
        let is_said = alerts.any(|it| it.summary.ends_with(says));
        assert_eq!(is_said, !is_compared, "{alert}");
    }
}

/// The users' key is still there, and the counter has expired.
#[test]
fn alert_ends_as_repaired_if_the_pass_repairs_all_its_cases_after_a_key_has_expired() {
    for (repaired, says_so) in [(2, true), (1, false)] {
        let mut duty = Duty::default();
        let two = [0, 1].map(|slot| left(Kind::Unissued, slot));
        let differs = of_campaign(Status::Drift, two.into());
        assert_eq!(duty.sees(0, &differs), "unissued New");
        let done = (0..repaired).map(|slot| finding(Kind::Unissued, slot, Outcome::Applied));
        let mut confirmed = of_campaign(Status::Repaired, done.collect());
        confirmed.drops[0].unproven = Some(Unproven::KeysExpired);
        assert!(duty.sees(1, &confirmed).contains("unissued over"));
        let mut alerts = duty.memory.alerts.values();
        let is_repaired = alerts.all(|it| !it.summary.contains("not repaired"));
        assert_eq!(is_repaired, says_so, "{repaired}");
    }
}

#[test]
fn repair_of_another_kind_does_not_count_as_a_repair_of_the_cases_of_an_alert() {
    let held = finding(Kind::SlotConflict, 0, Outcome::Planned);
    for (found, alert) in [
        (held, "braked"),
        (left(Kind::CountMismatch, 0), "count_mismatch"),
    ] {
        let mut duty = Duty::default();
        let differs = of_campaign(Status::Drift, vec![found]);
        assert_eq!(duty.sees(0, &differs), format!("{alert} New"));
        let other = finding(Kind::Unfilled, 0, Outcome::Applied);
        let mut repaired = of_campaign(Status::Repaired, vec![other]);
        repaired.drops[0].unproven = Some(Unproven::KeysExpired);
        assert_eq!(duty.sees(1, &repaired), format!("{alert} over"));
        let says = "(not repaired, no longer compared)";
        assert!(duty.only().summary.ends_with(says), "{alert}");
    }
}

#[test]
fn doubt_about_a_campaign_is_over_while_only_failed_events_wait() {
    let mut doubted = left(Kind::CountMismatch, 0);
    doubted.cause = Cause::Doubted(Doubt::Disjoint);
    let mut duty = Duty::default();
    let differs = of_campaign(Status::Drift, vec![doubted]);
    assert_eq!(duty.sees(0, &differs), "doubtful New");
    let mut waits = finding(Kind::FailedClaim, 0, Outcome::Skipped);
    waits.needs_person = false;
    let event_waits = of_campaign(Status::Drift, vec![waits]);
    assert_eq!(duty.sees(1, &event_waits), "doubtful over");
}

#[test]
fn acknowledged_alert_of_a_campaign_is_mailed_again_when_its_reason_changes() {
    let stalls = |cause, why: &str| {
        let finding = Finding {
            cause,
            detail: why.to_owned(),
            ..not_compared("Winter")
        };
        general(Status::Drift, vec![finding])
    };
    let refused = |why| stalls(Cause::StatementRefused(1142), why);
    let mut duty = Duty::default();
    let misfit = stalls(Cause::NotCompared, "the queue has no group");
    assert_eq!(duty.sees(0, &misfit), "stalled New");
    duty.acknowledge(1);
    assert_eq!(
        duty.sees(600, &refused("SELECT command denied")),
        "stalled Changed"
    );
    duty.acknowledge(601);
    assert_eq!(duty.sees(1_000, &refused("SELECT command was denied")), "");
}

#[test]
fn acknowledgement_ends_with_new_cases_unless_they_are_few_among_many() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &left_on(1..=5)), "failed_claim New");
    duty.acknowledge(1);
    assert_eq!(duty.sees(600, &left_on(2..=5)), "");
    assert!(duty.only().acknowledged_at.is_some());
    assert_eq!(duty.sees(601, &left_on(6..=8)), "failed_claim Changed");
    assert_eq!(duty.only().acknowledged_at, None);
    duty.acknowledge(602);
    // If there are many cases, a few new ones are mailed only once the number has doubled.
    assert_eq!(duty.sees(1_200, &left_on(6..=45)), "failed_claim Changed");
    duty.acknowledge(1_201);
    assert_eq!(duty.sees(1_800, &left_on(8..=47)), "");
    assert_eq!(duty.sees(1_801, &left_on(30..=80)), "failed_claim Changed");
    // A list that is cut says nothing about the rest.
    duty.acknowledge(1_802);
    let cut = |slots| {
        let mut run = left_on(slots);
        let more = Cause::MoreLeft(40);
        run.drops[0].findings[0].cause = more;
        run
    };
    assert_eq!(duty.sees(2_400, &cut(100..=105)), "");
    assert_eq!(duty.sees(2_401, &cut(200..=204)), "");
    assert_eq!(duty.sees(2_402, &clean()), "failed_claim over");
}

fn stays_closed(coupon: i64) -> Finding {
    Finding {
        coupon_id: Some(CouponId(coupon)),
        action: ActionKind::Open,
        result: Outcome::Failed,
        ..Finding::report(Kind::RedisLost, "the coupon stays closed")
    }
}

#[test]
fn closed_coupon_is_mailed_unless_its_own_repairs_are_held_back() {
    let held = vec![finding(Kind::SlotConflict, 9, Outcome::Planned)];
    let pass = |closed| Run {
        findings: vec![stays_closed(closed)],
        ..run(Status::Braked, held.clone())
    };
    for (closed, says) in [(1, ""), (2, "redis_lost New")] {
        let mut duty = Duty {
            patience: TimeDelta::minutes(1),
            ..Duty::default()
        };
        assert_eq!(duty.sees(0, &pass(closed)), "braked New");
        assert_eq!(duty.sees(2, &pass(closed)), says, "coupon {closed}");
    }
}

#[test]
fn refusal_of_redis_that_apis_may_still_meet_outlasts_the_first_clean_pass() {
    let mut duty = Duty {
        patience: TimeDelta::minutes(1),
        ..Duty::default()
    };
    let refuses = failed(FailureCause::Redis, "ERR max number of clients reached");
    assert_eq!(duty.sees(0, &refuses), "");
    assert_eq!(duty.sees(1, &refuses), "redis_refuses New");
    assert_eq!(duty.sees(2, &clean()), "", "the APIs may still meet it");
    assert_eq!(duty.sees(3, &clean()), "redis_refuses over");
}

#[test]
fn alert_of_a_use_without_its_coupon_ends_only_with_a_deep_pass() {
    let stray = vec![Finding::report(Kind::BadUse, "its code was used")];
    let of_no_drop = general(Status::Drift, stray.clone());
    for found in [of_no_drop, run(Status::Drift, stray)] {
        let mut duty = Duty::default();
        let deep = |run| Run { deep: true, ..run };
        assert_eq!(duty.sees(0, &deep(found)), "bad_use New");
        assert_eq!(duty.sees(1, &clean()), "", "it does not look for them");
        assert_eq!(duty.sees(1_440, &deep(clean())), "bad_use over");
    }
}

#[test]
fn broken_promise_of_a_sealed_drop_stays_one_alert_until_it_is_resolved() {
    let mut duty = Duty::default();
    duty.memory.broken = vec![BrokenPromise {
        coupon_id: CouponId(1),
        drop_id: DropId(7),
        user_id: "u-101".to_owned(),
        slot: Some(101),
        reason: "no slot was left".to_owned(),
    }];
    assert_eq!(duty.sees(0, &clean()), "broken_promise New");
    let mut sealed = run(Status::Drift, vec![left(Kind::BrokenPromise, 101)]);
    sealed.drops[0].sealed = true;
    let elsewhere = Run {
        deep: true,
        drops: Vec::new(),
        ..clean()
    };
    for pass in [&sealed, &elsewhere] {
        assert_eq!(duty.sees(1, pass), "");
    }
    // Its rows are counted by deep passes only.
    let lacks_rows = Finding {
        slot: None,
        user_id: None,
        ..finding(Kind::CountMismatch, 0, Outcome::Failed)
    };
    let mut deep = run(Status::Drift, vec![lacks_rows]);
    deep.deep = true;
    deep.drops[0].sealed = true;
    assert_eq!(duty.sees(2, &deep), "count_mismatch New");
    assert_eq!(duty.sees(3, &sealed), "");
    duty.memory.broken.clear();
    let pass = Run {
        deep: false,
        ..elsewhere
    };
    assert_eq!(duty.sees(4, &pass), "broken_promise over");
}

#[test]
fn pass_that_fails_because_of_two_stores_raises_an_alert_for_each() {
    let missing = "a server of the Redis Cluster does not answer as a master";
    let kafka = failed(FailureCause::Kafka, "Kafka cannot be reached: timed out");
    let redis = failed(FailureCause::Redis, missing);
    let pass = Run {
        findings: [kafka.findings, redis.findings.clone(), redis.findings].concat(),
        ..kafka
    };
    let says = "redis_unreachable New, kafka_unreachable New";
    assert_eq!(Duty::default().sees(0, &pass), says);
}

fn no_answer() -> Problem {
    Problem::outage(AlertKind::RedisUnreachable, "Redis does not answer")
}

fn closed(coupons: std::ops::RangeInclusive<i64>) -> Problem {
    let closed = |coupon| Finding {
        coupon_id: Some(CouponId(coupon)),
        ..Finding::report(Kind::RedisLost, "it is closed")
    };
    Problem::closure(coupons.map(closed).collect())
}

#[test]
fn each_outage_of_redis_is_mailed_while_an_acknowledged_coupon_stays_closed() {
    for many in [1, 2_000] {
        let mut duty = Duty::default();
        let outage = "redis_unreachable New";
        assert_eq!(duty.watches(0, no_answer()), outage);
        for (minutes, problem, says) in [
            (1, closed(1..=many), ""),
            (360, no_answer(), "redis_unreachable Changed"),
            (361, closed(1..=many), ""),
            // It comes and goes.
            (365, no_answer(), ""),
            (366, closed(1..=many), ""),
            (370, no_answer(), ""),
            (419, no_answer(), ""),
            (420, no_answer(), "redis_unreachable Changed"),
            (421, no_answer(), ""),
            (900, no_answer(), ""),
        ] {
            assert_eq!(duty.watches(minutes, problem), says, "{minutes} {many}");
            duty.acknowledge(minutes);
        }
    }
}

#[test]
fn coupons_that_an_unmailed_outage_of_redis_has_closed_are_mailed_within_the_hour() {
    let mut duty = Duty::default();
    assert_eq!(duty.watches(0, no_answer()), "redis_unreachable New");
    for (minutes, problem, says) in [
        (1, closed(1..=1), ""),
        (10, no_answer(), ""),
        (11, closed(1..=5), ""),
        // Only the coupon that was closed before stays closed.
        (12, closed(1..=1), ""),
        (70, closed(1..=1), ""),
        (71, no_answer(), "redis_unreachable Changed"),
        (72, closed(1..=1), ""),
        (80, no_answer(), ""),
        (81, closed(1..=5), ""),
        (130, closed(1..=5), ""),
        (131, closed(1..=5), "admission_closed Changed"),
        (132, closed(1..=4), ""),
        (133, closed(1..=5), "admission_closed Changed"),
    ] {
        assert_eq!(duty.watches(minutes, problem), says, "{minutes}");
        duty.acknowledge(minutes);
    }
}
