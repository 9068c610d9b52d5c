//! Tests the content of notices, and when content counts as changed.

use super::*;

#[test]
fn clean_passes_and_dry_runs_send_no_mail() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &clean()), "");
    let everything = vec![
        left(Kind::FailedClaim, 1),
        finding(Kind::Unissued, 2, Outcome::Applied),
    ];
    assert_eq!(
        duty.sees(
            1,
            &Run {
                dry_run: true,
                ..run(Status::Drift, everything.clone())
            }
        ),
        ""
    );
    assert_eq!(duty.sees(2, &run(Status::Running, everything)), "");
    assert!(duty.memory.alerts.is_empty());
}

#[test]
fn repair_is_mailed_once_without_an_alert() {
    let mut duty = Duty::default();
    let repaired = repaired(Kind::Unissued, 3);
    assert_eq!(duty.sees(0, &repaired), "repaired Some(7)");
    assert_eq!(duty.sees(1, &clean()), "");
    assert_eq!(duty.only().state, AlertState::Resolved);
    let gate = Finding {
        result: Outcome::Applied,
        needs_person: false,
        kind: Kind::RedisLost,
        ..stalled("gone")
    };
    assert_eq!(
        duty.sees(2, &general(Status::Repaired, vec![gate])),
        "repaired None"
    );
}

#[test]
fn drift_that_resolves_by_itself_is_not_mailed() {
    let mut duty = Duty::default();
    assert_eq!(
        duty.sees(
            0,
            &run(
                Status::Clean,
                vec![finding(Kind::Unissued, 3, Outcome::Skipped)]
            )
        ),
        ""
    );
}

#[test]
fn unrepaired_drift_is_mailed_after_each_cooldown_and_when_resolved() {
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
    assert_eq!(duty.only().state, AlertState::Resolved);
}

#[test]
fn pass_does_not_resolve_alerts_of_drops_that_it_did_not_examine() {
    let mut duty = Duty::default();
    duty.sees(0, &one_left());
    let elsewhere = Run {
        drops: Vec::new(),
        ..clean()
    };
    assert_eq!(duty.sees(1, &elsewhere), "");
    assert_eq!(
        duty.sees(2, &failed(FailureCause::Mysql, "MySQL is down")),
        "run_failed New"
    );
    assert_eq!(
        duty.sees(3, &clean()),
        "run_failed resolved, failed_claim resolved"
    );
}

#[test]
fn drop_keeps_its_alerts_when_its_repairs_are_held_back_or_fail() {
    let whole = Finding {
        slot: None,
        user_id: None,
        ..finding(Kind::CountMismatch, 0, Outcome::Failed)
    };
    for (not_compared, says) in [
        (
            run(
                Status::Braked,
                vec![finding(Kind::SlotConflict, 9, Outcome::Planned)],
            ),
            "braked New",
        ),
        (run(Status::Drift, vec![whole]), "count_mismatch New"),
    ] {
        let mut duty = Duty::default();
        assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
        assert_eq!(duty.sees(1, &not_compared), says);
        let over = duty.sees(2, &clean());
        assert!(over.contains("failed_claim resolved"), "{over}");
    }
}

#[test]
fn reopening_the_gate_alone_sends_no_mail() {
    let mut duty = Duty::default();
    let gate = Finding {
        action: ActionKind::Open,
        kind: Kind::RedisLost,
        ..stalled("was closed")
    };
    let gate = Finding {
        result: Outcome::Applied,
        needs_person: false,
        ..gate
    };
    assert_eq!(
        duty.sees(0, &general(Status::Repaired, vec![gate.clone()])),
        ""
    );
    let rebuilt = Finding {
        action: ActionKind::Project,
        ..finding(Kind::RedisLost, 0, Outcome::Applied)
    };
    let both = Run {
        findings: vec![gate],
        ..run(Status::Repaired, vec![rebuilt])
    };
    assert_eq!(duty.sees(1, &both), "repaired Some(7)");
}

#[test]
fn pass_over_one_coupon_does_not_resolve_system_wide_alerts() {
    let mut duty = Duty::default();
    let partial = Run {
        partial: true,
        ..clean()
    };
    assert_eq!(
        duty.sees(0, &failed(FailureCause::Mysql, "MySQL is down")),
        "run_failed New"
    );
    assert_eq!(duty.sees(0, &partial), "");
    assert_eq!(duty.sees(0, &clean()), "run_failed resolved");
    let loose = Finding {
        kind: Kind::FailedClaim,
        ..stalled("failed claim 12: undecodable")
    };
    assert_eq!(
        duty.sees(0, &general(Status::Drift, vec![loose])),
        "failed_claim New"
    );
    assert_eq!(duty.sees(1, &partial), "");
    assert_eq!(duty.sees(2, &clean()), "failed_claim resolved");
}

#[test]
fn alert_of_a_claim_for_an_unknown_drop_ends_when_the_claim_is_gone() {
    let mut duty = Duty::default();
    let loose = Finding {
        drop_id: Some(DropId(99)),
        ..left(Kind::FailedClaim, 3)
    };
    assert_eq!(
        duty.sees(0, &general(Status::Drift, vec![loose])),
        "failed_claim New"
    );
    assert_eq!(duty.sees(1, &clean()), "failed_claim resolved");
}

#[test]
fn failed_pass_raises_an_alert_and_stopped_pass_does_not() {
    let mut duty = Duty::default();
    let run = failed(FailureCause::Mysql, "MySQL cannot be reached: refused");
    assert_eq!(duty.sees(0, &run), "run_failed New");
    assert_eq!(duty.sees(1, &clean()), "run_failed resolved");
    let stopped = Run {
        stopped: true,
        ..failed(FailureCause::Other, "the process was told to stop")
    };
    assert_eq!(duty.sees(2, &stopped), "");
}

#[test]
fn changed_findings_are_mailed_at_once_unless_only_age_or_order_changes() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
    let mut older = one_left();
    older.drops[0].findings[0].detail = "admitted 99 s ago".to_owned();
    assert_eq!(duty.sees(1, &older), "");
    let two = left_on([9, 3]);
    assert_eq!(duty.sees(2, &two), "failed_claim Changed");
    let turned = left_on([3, 9]);
    assert_eq!(
        duty.sees(3, &turned),
        "",
        "another order does not count as a change"
    );
}

#[test]
fn drift_of_each_kind_drop_and_reason_has_its_own_alert() {
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
    let lag = |n| Finding {
        case: FindingCase::ConsumerStands,
        ..stalled(&format!("the consumer's lag stands at {n}"))
    };
    assert_eq!(
        duty.sees(3, &general(Status::Drift, vec![lag(5)])),
        "stalled New, failed_claim resolved, slot_conflict resolved"
    );
    assert_eq!(duty.sees(4, &general(Status::Drift, vec![lag(6)])), "");
    let kafka = Finding {
        case: FindingCase::Plain,
        ..stalled("a batch cannot be read")
    };
    assert_eq!(
        duty.sees(5, &general(Status::Drift, vec![lag(7), kafka])),
        "stalled New"
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
    assert_eq!(duty.only().summary, "140 repairs wait for a confirmation");
    let confirmed = repaired(Kind::MissingAdmission, 1);
    assert_eq!(
        duty.sees(3, &confirmed),
        "braked resolved, repaired Some(7)"
    );
    assert_eq!(duty.sees(4, &clean()), "");
}

/// Returns a finding that stands for so many like `finding(kind, …)` that are not listed.
fn more(kind: Kind, number: u64, result: Outcome) -> Finding {
    Finding {
        slot: None,
        user_id: None,
        case: FindingCase::MoreLeft(number),
        ..finding(kind, 0, result)
    }
}

#[test]
fn repairs_that_are_not_listed_count_in_full() {
    let mut duty = Duty::default();
    let held = |unlisted: u64| {
        let listed = finding(Kind::MissingAdmission, 1, Outcome::Planned);
        let more = more(Kind::MissingAdmission, unlisted, Outcome::Planned);
        run(Status::Braked, vec![listed, more])
    };
    assert_eq!(duty.sees(0, &held(20_000)), "braked New");
    assert_eq!(
        duty.only().summary,
        "20,001 repairs wait for a confirmation"
    );
    assert_eq!(duty.sees(1, &held(20_001)), "");
    assert_eq!(duty.sees(2, &held(40_000)), "braked Changed");

    let mut duty = Duty::default();
    let listed = finding(Kind::Unissued, 1, Outcome::Applied);
    let many = vec![listed, more(Kind::Unissued, 20_000, Outcome::Applied)];
    let many = run(Status::Repaired, many);
    let said: Vec<String> = (0..4).map(|_| duty.sees(0, &many)).collect();
    assert_eq!(said[3], "", "delayed: {said:?}");
    assert_eq!(
        duty.sees(5, &many),
        "repaired Some(7), 20001 earlier",
        "the delayed repairs are counted in full too"
    );
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
    assert_eq!(
        duty.sees(0, &moved),
        "broken_promise New",
        "and is not mailed as a repair"
    );
    assert_eq!(
        duty.sees(1, &clean()),
        "",
        "the next pass finds nothing, but the promise is still broken"
    );
    duty.memory.broken.push(promise("u-102"));
    assert_eq!(duty.sees(2, &clean()), "broken_promise Changed");
    assert_eq!(duty.sees(300, &clean()), "broken_promise Repeat");
    duty.memory.broken.clear();
    assert_eq!(duty.sees(301, &clean()), "broken_promise resolved");
}

#[test]
fn drop_that_closes_below_its_quantity_is_reported_once() {
    let mut duty = Duty::default();
    let mut report = finding(Kind::Unfilled, 0, Outcome::Skipped);
    report.action = ActionKind::Report;
    report.slot = None;
    report.user_id = None;
    report.detail = "closed with 10 of 100 slots left, and nobody waits".to_owned();
    let unfilled = run(Status::Clean, vec![report]);
    assert_eq!(duty.sees(0, &unfilled), "unfilled New");
    assert_eq!(duty.sees(1, &unfilled), "");
    assert_eq!(duty.sees(10_000, &unfilled), "");
    assert_eq!(duty.sees(10_001, &clean()), "");
    assert_eq!(duty.only().state, AlertState::Information);
}

#[test]
fn summary_of_a_single_finding_outside_drops_names_its_place() {
    let summary = |finding: Finding| {
        let mut duty = Duty::default();
        duty.sees(0, &general(Status::Drift, vec![finding]));
        duty.only().summary.clone()
    };
    let few = Finding {
        coupon_id: Some(CouponId(3)),
        drop_id: Some(DropId(7)),
        result: Outcome::Failed,
        ..Finding::report(Kind::CountMismatch, "rows are missing")
    };
    assert_eq!(summary(few), "drop 7 of coupon 3: rows are missing");
    let list = Finding {
        coupon_id: Some(CouponId(3)),
        action: ActionKind::WriteSettings,
        ..Finding::report(Kind::SettingsMismatch, "it is torn")
    };
    assert_eq!(summary(list), "coupon 3: it is torn");
}

#[test]
fn summaries_contain_no_full_user_id() {
    let mut duty = Duty::default();
    let mut run = one_left();
    run.drops[0].findings[0].user_id = Some("customer-4711".to_owned());
    duty.sees(0, &run);
    for alert in duty.memory.alerts.values() {
        assert!(
            !alert.summary.contains("4711") && !alert.summary.contains("bob@"),
            "{}",
            alert.summary
        );
    }
}
