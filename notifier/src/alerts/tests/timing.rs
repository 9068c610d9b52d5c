//! How often mails are sent: for acknowledged, silenced, flapping and repeatedly repaired drift.

use super::*;

#[test]
fn acknowledged_alert_is_not_mailed_until_it_changes_or_ends() {
    let mut duty = Duty::default();
    duty.sees(0, &one_left());
    duty.acknowledge(5);
    assert_eq!(duty.sees(600, &one_left()), "");
    let two = left_on([3, 4]);
    assert_eq!(duty.sees(601, &two), "failed_claim Changed");
    assert_eq!(
        duty.only().acknowledged_at,
        None,
        "the operator acknowledged other findings"
    );
    duty.acknowledge(602);
    assert_eq!(duty.sees(2_000, &two), "");
    assert_eq!(duty.sees(2_001, &clean()), "failed_claim resolved");
}

#[test]
fn clock_that_is_set_back_silences_no_alert() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(7_200, &one_left()), "failed_claim New");
    let two = left_on([3, 4]);
    assert_eq!(duty.sees(0, &two), "failed_claim Changed");
    assert_eq!(duty.sees(1, &two), "", "mailed once");
    assert_eq!(duty.sees(2, &clean()), "failed_claim resolved");
}

#[test]
fn alert_of_a_silenced_drop_is_stored_and_mailed_when_the_silence_ends() {
    let mut duty = Duty::default();
    duty.silence(60);
    assert_eq!(duty.sees(0, &one_left()), "");
    assert_eq!(duty.only().state, AlertState::Firing);
    let repaired = vec![
        left(Kind::FailedClaim, 3),
        finding(Kind::Unissued, 5, Outcome::Applied),
    ];
    assert_eq!(duty.sees(1, &run(Status::Drift, repaired)), "");
    let general = stalled("Kafka can't be reached");
    let both = Run {
        findings: vec![general],
        ..one_left()
    };
    assert_eq!(
        duty.sees(2, &both),
        "stalled New",
        "problems without a drop are not silenced"
    );
    assert_eq!(duty.sees(60, &both), "failed_claim New");
}

#[test]
fn critical_finding_is_mailed_in_spite_of_a_silence() {
    let mut duty = Duty::default();
    duty.silence(60);
    let lost = run(
        Status::Drift,
        vec![left(Kind::RedisLost, 3), left(Kind::FailedClaim, 4)],
    );
    assert_eq!(duty.sees(0, &lost), "redis_lost New");
    assert_eq!(duty.sees(1, &lost), "", "mailed once");
    assert_eq!(
        duty.sees(60, &lost),
        "failed_claim New",
        "the silence is over"
    );
    assert_eq!(
        duty.sees(61, &clean()),
        "failed_claim resolved, redis_lost resolved"
    );
}

#[test]
fn alert_of_a_deleted_drop_ends_even_if_the_pass_fails() {
    for after in [
        general(Status::Clean, Vec::new()),
        failed(FailureCause::Redis, "Redis cannot be reached: refused"),
    ] {
        let mut duty = Duty::default();
        duty.sees(0, &one_left());
        let after = Run {
            drops: Vec::new(),
            ..after
        };
        assert!(
            !duty.sees(1, &after).contains("failed_claim"),
            "no pass examined it"
        );
        duty.memory.gone.insert(DropId(7));
        assert!(duty.sees(2, &after).contains("failed_claim resolved"));
    }
}

#[test]
fn alert_mailed_before_a_silence_is_mailed_again_when_it_ends() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
    duty.silence(90);
    assert_eq!(duty.sees(89, &one_left()), "");
    assert_eq!(duty.sees(90, &one_left()), "failed_claim Repeat");
    assert_eq!(duty.sees(91, &one_left()), "");
}

#[test]
fn alert_resolved_during_a_silence_is_mailed_after_it_if_mailed_before() {
    let mut duty = Duty::default();
    assert_eq!(duty.sees(0, &one_left()), "failed_claim New");
    duty.silence(90);
    assert_eq!(duty.sees(30, &clean()), "");
    assert_eq!(duty.only().state, AlertState::Resolved);
    assert_eq!(duty.sees(90, &clean()), "failed_claim resolved");
    assert_eq!(duty.sees(91, &clean()), "");

    let mut duty = Duty::default();
    duty.silence(90);
    assert_eq!(duty.sees(0, &one_left()), "");
    assert_eq!(duty.sees(1, &clean()), "");
    assert_eq!(
        duty.sees(91, &clean()),
        "",
        "nobody was notified when it fired"
    );
}

#[test]
fn restart_of_a_store_is_not_mailed_but_repeated_failures_are() {
    let mut duty = Duty {
        patience: TimeDelta::minutes(2),
        ..Duty::default()
    };
    let refused = failed(FailureCause::Redis, "Redis cannot be reached: refused");
    assert_eq!(duty.sees(0, &refused), "");
    assert_eq!(
        duty.sees(1, &clean()),
        "",
        "nobody was notified of the failure"
    );
    assert_eq!(duty.sees(30, &refused), "");
    assert_eq!(duty.sees(31, &refused), "");
    assert_eq!(duty.sees(32, &refused), "run_failed New");
    assert_eq!(duty.sees(33, &clean()), "run_failed resolved");
    // Every other pass fails.
    let said: Vec<String> = (1_000..1_004)
        .map(|at| {
            let run = if at % 2 == 0 { &refused } else { &clean() };
            duty.sees(at, run)
        })
        .collect();
    assert_eq!(said, ["", "", "run_failed New", "run_failed resolved"]);
    // Problems of users are mailed at once.
    assert_eq!(duty.sees(2_000, &one_left()), "failed_claim New");
}

#[test]
fn processes_with_different_failure_texts_or_lost_stores_mail_once_each() {
    let mut duty = Duty::default();
    let runs = [
        failed(
            FailureCause::Kafka,
            "the topic cannot be read, so what is on its way is not known: no broker",
        ),
        failed(FailureCause::Kafka, "Kafka cannot be reached: no broker"),
        failed(
            FailureCause::Redis,
            "Redis cannot be reached: Connection refused",
        ),
    ];
    let said: Vec<String> = (0..9)
        .zip(runs.iter().cycle())
        .map(|(at, run)| duty.sees(at, run))
        .collect();
    assert_eq!(
        said,
        [
            "run_failed New",
            "",
            "run_failed New",
            "",
            "",
            "",
            "",
            "",
            ""
        ]
    );
    assert_eq!(
        duty.sees(9, &clean()),
        "run_failed resolved, run_failed resolved"
    );
}

#[test]
fn alert_identity_does_not_depend_on_wording() {
    let mut duty = Duty::default();
    let seen = |detail: &str| {
        let case = |case, kind| Finding {
            kind,
            case,
            ..stalled(detail)
        };
        let unsafe_part = |part| case(FindingCase::Unsafe(part), Kind::Stalled);
        let loose = |id| Finding {
            dead_letter: Some(id),
            ..case(FindingCase::Plain, Kind::FailedClaim)
        };
        let found = [
            case(FindingCase::ConsumerStands, Kind::Stalled),
            unsafe_part(UnsafePart::Redis),
            loose(1),
        ];
        general(Status::Drift, found.to_vec())
    };
    assert_eq!(
        duty.sees(0, &seen("as one release words it")),
        "stalled New, stalled New, failed_claim New"
    );
    assert_eq!(duty.sees(1, &seen("anders gesagt")), "");
    let mut more = seen("as before");
    more.findings[2].dead_letter = Some(2);
    assert_eq!(duty.sees(2, &more), "failed_claim Changed");
}

#[test]
fn stall_ends_only_when_no_pass_has_seen_it_for_a_while() {
    let mut duty = Duty {
        patience: TimeDelta::minutes(1),
        ..Duty::default()
    };
    let stands = general(
        Status::Drift,
        vec![stalled("the consumer has not moved for 70 s")],
    );
    assert_eq!(duty.sees(0, &stands), "stalled New");
    assert_eq!(
        duty.sees(1, &clean()),
        "",
        "of a process that has just begun to watch"
    );
    assert_eq!(duty.sees(2, &stands), "");
    assert_eq!(duty.sees(4, &clean()), "stalled resolved");
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
    assert_eq!(duty.sees(239 + 481, &clean()), "failed_claim resolved");
}

#[test]
fn alert_that_changes_in_every_pass_is_mailed_rarely_and_loses_no_change() {
    let mut duty = Duty::default();
    let growing = |n| left_on(1..=n);
    let mails = (0..240)
        .filter(|minute| !duty.sees(*minute, &growing(minute + 1)).is_empty())
        .count();
    assert!((5..=15).contains(&mails), "{mails}");
    assert_eq!(duty.sees(600, &growing(240)), "failed_claim Changed");
    assert_eq!(duty.sees(601, &growing(240)), "");
}

#[test]
fn repairs_of_every_pass_are_batched_into_fewer_and_fewer_mails() {
    let mut duty = Duty::default();
    let repaired = repaired(Kind::Unissued, 3);
    let said: Vec<String> = (0..120)
        .map(|minute| duty.sees(minute, &repaired))
        .filter(|s| !s.is_empty())
        .collect();
    assert_eq!(
        said[..4],
        [
            "repaired Some(7)",
            "repaired Some(7)",
            "repaired Some(7)",
            "repaired Some(7)"
        ]
    );
    assert!((6..=10).contains(&said.len()), "{said:?}");
    assert!(
        said[5].starts_with("repaired Some(7), 3 earlier"),
        "{said:?}"
    );
    let quiet: Vec<String> = (120..900)
        .map(|minute| duty.sees(minute, &clean()))
        .filter(|s| !s.is_empty())
        .collect();
    assert_eq!(
        quiet.len(),
        1,
        "held-back repairs are mailed once, then nothing: {quiet:?}"
    );
    let told = |said: &String| {
        let earlier = said
            .split(", ")
            .find_map(|part| part.strip_suffix(" earlier"))
            .map_or(0, |n| n.parse().unwrap());
        earlier + u64::from(said.contains("repaired"))
    };
    assert_eq!(said.iter().chain(&quiet).map(told).sum::<u64>(), 120);
    assert_eq!(
        duty.sees(2_000, &repaired),
        "repaired Some(7)",
        "repairs are mailed at once again after a quiet period"
    );
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
    assert_eq!(duty.sees(2, &deep), "failed_claim resolved");
}
