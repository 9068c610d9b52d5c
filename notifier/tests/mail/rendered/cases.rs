//! Tests the sentence and the instruction of each case.

use firstcome_shared::report::Examined;

use super::*;

fn one(status: Status, findings: Vec<Finding>) -> Run {
    run("b1", status, vec![drop_report(1, "Lunch", 7, findings)])
}

fn of_one(run: &Run) -> Rendered {
    mail(&[(at(1), run)], &[], &without_forms()).unwrap()
}

fn flat(mail: &Rendered) -> String {
    mail.text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn mail_about_rows_that_mysql_refuses_does_not_suggest_a_raise() {
    let why = "the table `slot_limits` has no limit of this drop";
    let detail = format!("failed claim 4 (unknown_drop); MySQL refused the row: {why}");
    let refused = |slot| {
        let failed = Finding {
            result: Outcome::Failed,
            action: ActionKind::Issue,
            ..left(Kind::FailedClaim, slot, &detail)
        };
        cased(FindingCase::RowRefused(why.to_owned()), failed)
    };
    let mail = of_one(&one(Status::Drift, (1..=10).map(refused).collect()));
    keep("rows_refused", &mail);
    let text = flat(&mail);
    assert!(
        text.contains("Do not raise the quantity") && text.contains(why),
        "{text}"
    );
    assert!(!mail.text.contains("PATCH"), "{}", mail.text);
}

#[test]
fn suggested_raise_counts_only_claims_without_a_slot() {
    let of = |case, slot, why| cased(case, left(Kind::FailedClaim, slot, why));
    let both = vec![
        of(
            FindingCase::NoSlotLeft,
            100,
            "another user has its slot and no slot is left",
        ),
        of(
            FindingCase::NoSuchSlot,
            412,
            "the drop has no such slot, and Redis does not know its user",
        ),
    ];
    let mail = of_one(&one(Status::Drift, both.clone()));
    assert!(
        mail.text
            .contains("Where no slot is left (quantity 100 → 101)"),
        "{}",
        mail.text
    );
    let mail = of_one(&one(Status::Drift, both[1..].to_vec()));
    assert!(
        !mail.text.contains("PATCH") && flat(&mail).contains("correct the slot"),
        "{}",
        mail.text
    );
}

#[test]
fn mail_about_an_unreadable_message_points_to_its_writer() {
    let detail = "failed claim 1 (undecodable) names no user, and no drop";
    let loose = Finding::general(Kind::FailedClaim, ActionKind::Report, detail);
    let loose = cased(FindingCase::NamesNobody, loose);
    let mail = of_one(&Run {
        findings: vec![loose],
        status: Status::Drift,
        ..clean()
    });
    keep("undecodable", &mail);
    let todo = mail
        .text
        .split_once("To do:")
        .unwrap()
        .1
        .split("\n\n")
        .next()
        .unwrap();
    assert!(
        !todo.contains("quantity") && !todo.contains("slot"),
        "{todo}"
    );
    assert_eq!(
        mail.subject,
        "[firstcome] action needed: 1 unrepaired failed claim: no user is named"
    );
}

fn wrong_type(wrong: WrongKey) -> Finding {
    let WrongKey { key, found, wanted } = &wrong;
    let detail = format!("the key `{key}` in Redis is {found} and should be {wanted}");
    Finding {
        result: Outcome::Failed,
        case: FindingCase::KeyOfWrongType(wrong),
        ..Finding::general(Kind::CountMismatch, ActionKind::Report, detail)
    }
}

#[test]
fn key_of_the_wrong_type_is_named_with_the_command_that_removes_it() {
    let wrong = WrongKey {
        key: "fc:{1}:drop:7:free".to_owned(),
        found: "a list",
        wanted: "a sorted set",
    };
    let mut run = one(Status::Drift, vec![wrong_type(wrong)]);
    run.drops[0].examined = Examined::default();
    let mail = of_one(&run);
    keep("key_of_wrong_type", &mail);
    assert!(
        mail.text.contains("DEL 'fc:{1}:drop:7:free'"),
        "{}",
        mail.text
    );
    assert_eq!(
        mail.subject,
        "[firstcome] action needed: a key in Redis has the wrong type · Lunch · claims get 503"
    );
}

#[test]
fn invalid_user_id_does_not_count_as_a_waiting_user() {
    let odd = left(
        Kind::Unissued,
        4,
        "the name on this slot in Redis is no user id, so nobody waits for a coupon",
    );
    let odd = Finding {
        user_id: Some("odd person".to_owned()),
        ..cased(FindingCase::NoUserId, odd)
    };
    let mail = of_one(&one(Status::Drift, vec![odd]));
    keep("no_user_id", &mail);
    assert!(
        mail.text
            .contains("ZREM \"${REDIS_KEY_PREFIX:-fc}:{1}:drop:7:users\" 'NAME'"),
        "{}",
        mail.text
    );
    assert!(
        !mail.text.contains("odd person") && !mail.text.contains("promised a coupon"),
        "{}",
        mail.text
    );
}

#[test]
fn mail_about_partitions_read_again_does_not_mention_slow_consumers() {
    let detail = "partition 0 of the topic is read again: it ends before offset 1000, where reading was; 2 more partitions are read \
                  again";
    let again = Finding::general(Kind::Stalled, ActionKind::Report, detail);
    let again = cased(FindingCase::ReadAgain(vec![0, 1, 2]), again);
    let mail = of_one(&Run {
        findings: vec![again],
        status: Status::Drift,
        ..clean()
    });
    keep("read_again", &mail);
    assert_eq!(
        mail.subject,
        "[firstcome] action needed: the topic is read again on 3 partitions"
    );
    assert!(
        !mail.text.contains("Check that the consumers run"),
        "{}",
        mail.text
    );
}

/// Returns the mail about findings that no drop's report contains.
fn of_no_drop(findings: Vec<Finding>) -> Rendered {
    of_one(&Run {
        findings,
        status: Status::Drift,
        ..clean()
    })
}

#[test]
fn mail_about_drops_that_cannot_be_created_names_coupons_reason_and_section() {
    let detail = "drops of this coupon cannot be created: MySQL refuses a row";
    let refused = |coupon| Finding {
        coupon_id: Some(CouponId(coupon)),
        result: Outcome::Failed,
        ..Finding::general(Kind::Unissued, ActionKind::Report, detail)
    };
    let text = flat(&of_no_drop(vec![refused(3)]));
    for part in [&format!("Coupon 3: {detail}."), "section “unissued”"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let text = flat(&of_no_drop(vec![refused(3), refused(4)]));
    for part in [
        "2 drops or coupons with incomplete data in MySQL could not be repaired",
        &format!("2 × {detail} (coupon 3, coupon 4)"),
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("were promised a coupon"), "{text}");
}

#[test]
fn mail_about_repairs_outside_drops_names_their_coupons() {
    let detail = "MySQL has lost changes of this coupon up to revision 4, which Redis has";
    let recovered = |coupon| Finding {
        coupon_id: Some(CouponId(coupon)),
        ..general(
            Kind::CountMismatch,
            ActionKind::WriteMeta,
            Outcome::Applied,
            detail,
        )
    };
    let mail = of_one(&Run {
        findings: vec![recovered(3), recovered(5)],
        status: Status::Repaired,
        ..clean()
    });
    let text = flat(&mail);
    assert!(text.contains("2 × settings corrected"), "{text}");
    assert!(text.contains("(coupon 3, coupon 5)"), "{text}");
}

#[test]
fn mail_about_an_unreadable_batch_names_partition_offset_and_cause() {
    let detail = "offset 43 of partition 2 cannot be read: the checksum is wrong, so a broker's disk has garbled the batch. No \
                  promise is lost: within a minute a consumer leaves the batch out and keeps a dead letter in its place";
    let unreadable = Finding::general(Kind::Stalled, ActionKind::Report, detail);
    let mail = of_no_drop(vec![cased(FindingCase::Unreadable, unreadable)]);
    keep("unreadable", &mail);
    let text = flat(&mail);
    assert!(text.contains(&wording::capital(detail)), "{text}");
}

#[test]
fn claim_that_names_a_sealed_drop_is_discarded_only_if_the_drop_has_its_row() {
    let detail = "failed claim 5 (sealed_drop) names a drop that is sealed";
    let loose = Finding {
        coupon_id: Some(CouponId(3)),
        drop_id: Some(DropId(7)),
        dead_letter: Some(5),
        ..left(Kind::FailedClaim, 4, detail)
    };
    let mail = of_no_drop(vec![cased(FindingCase::NamesNoDrop(1), loose)]);
    keep("names_a_sealed_drop", &mail);
    let text = flat(&mail);
    assert!(
        text.contains("first check whether that drop has lost the row of its slot"),
        "{text}"
    );
    assert!(text.contains("drop 7 of coupon 3 · slot 4"), "{text}");
}

#[test]
fn repairs_that_are_not_listed_count_in_every_part_of_a_mail() {
    let more = |kind, action, result| {
        let detail = "20000 more like these, which are not named one by one";
        let more = general(kind, action, result, detail);
        cased(FindingCase::MoreLeft(20_000), more)
    };
    let held = |slot| {
        finding(
            Kind::MissingAdmission,
            slot,
            ActionKind::PutBack,
            Outcome::Planned,
        )
    };
    let unlisted = more(
        Kind::MissingAdmission,
        ActionKind::PutBack,
        Outcome::Planned,
    );
    let mut shut = one(Status::Braked, vec![held(1), held(2), unlisted]);
    shut.drops[0].after.users = 0;
    let text = flat(&of_one(&shut));
    for part in [
        "503 until 20,002 repairs are confirmed",
        "20,002 users with a row or a message are not in Redis",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }

    let issued = |slot| applied(Kind::Unissued, slot, ActionKind::Issue, "no row");
    let unlisted = more(Kind::Unissued, ActionKind::Issue, Outcome::Applied);
    let mut run = one(Status::Repaired, vec![issued(1), unlisted]);
    run.drops.push(drop_report(2, "Dinner", 8, vec![issued(3)]));
    let mail = of_one(&run);
    assert!(
        mail.subject.contains("20,002 issued late"),
        "{}",
        mail.subject
    );
    let text = flat(&mail);
    assert!(
        text.contains("Lunch, drop 7 100 100 20,001"),
        "in the table of drops: {text}"
    );
}

#[test]
fn mail_names_users_whose_second_coupon_was_withdrawn() {
    let withdrawn = |slot| {
        let detail = "holds slot 4 of drop 1 already; one each for the whole coupon";
        applied(Kind::OverAdmitted, slot, ActionKind::Withdraw, detail)
    };
    let mut run = one(Status::Repaired, (1..=5).map(withdrawn).collect());
    run.drops[0].after.free = 5;
    run.drops[0].after.users = 0;
    let mail = of_one(&run);
    keep("withdrawn", &mail);
    assert!(
        !mail.text.contains("Nothing needs to be done"),
        "{}",
        mail.text
    );
}

#[test]
fn mail_about_repairs_held_back_says_whether_users_can_claim() {
    let held = (1..=299).map(|slot| {
        finding(
            Kind::MissingAdmission,
            slot,
            ActionKind::PutBack,
            Outcome::Planned,
        )
    });
    let mut run = one(Status::Braked, held.collect());
    run.drops[0].after.users = 0;
    run.drops[0].after.free = 1;
    let mail = of_one(&run);
    keep("braked_and_closed", &mail);
    assert_eq!(
        mail.subject,
        "[firstcome] action needed: 299 repairs wait for a confirmation · Lunch · claims get 503"
    );
    assert!(!mail.text.contains("Claims go on"), "{}", mail.text);
}

#[test]
fn subjects_are_never_cut_within_a_word() {
    let detail = "4120 messages wait on partition 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 of the topic and the consumer has not \
                  moved for 95 seconds by the clock";
    let stalled = general(Kind::Stalled, ActionKind::Report, Outcome::Skipped, detail);
    let mail = of_one(&Run {
        findings: vec![stalled],
        ..clean()
    });
    let cut = mail
        .subject
        .trim_start_matches("[firstcome] action needed: ")
        .trim_end_matches('…');
    assert!(
        detail.starts_with(cut) && detail[cut.len()..].starts_with(' '),
        "{}",
        mail.subject
    );
}

/// On a screen of 390 pixels, the backslash at the end of a line would wrap to the next line.
#[test]
fn html_commands_have_no_line_continuations() {
    let mail = mail(&[(at(1), &failed_claims())], &[], &without_forms()).unwrap();
    assert!(
        mail.html.contains("/v1/alerts/41/silence")
            && !mail.html.lines().any(|line| line.ends_with('\\'))
    );
}

#[test]
fn mail_with_numeric_ids_and_long_names_stays_readable() {
    let long =
        "Anniversary coupon for everybody who has been with us since the very first day, 20% off";
    let numbered = |finding: Finding, id: u32| Finding {
        user_id: Some(id.to_string()),
        ..finding
    };
    let claims = (1..=3).map(|n| {
        let detail =
            format!("failed claim {n} (slot_taken): another user has its slot and no slot is left");
        numbered(
            cased(
                FindingCase::NoSlotLeft,
                left(Kind::FailedClaim, i64::from(n), &detail),
            ),
            n,
        )
    });
    let late = (4..=40).map(|n| {
        let detail = format!("admitted {} s ago, no row, and no message waits", 60 + n);
        numbered(
            applied(Kind::Unissued, i64::from(n), ActionKind::Issue, &detail),
            n,
        )
    });
    let wrong = WrongKey {
        key: "fc:{2}:drop:8:users".to_owned(),
        found: "a string",
        wanted: "a sorted set",
    };
    let unreadable = wrong_type(wrong);
    let held = (1..=64).map(|n| {
        numbered(
            finding(
                Kind::MissingAdmission,
                n,
                ActionKind::PutBack,
                Outcome::Planned,
            ),
            7,
        )
    });
    let drops = vec![
        drop_report(1, long, 7, claims.chain(late).collect()),
        DropReport {
            examined: Examined::default(),
            ..drop_report(2, "한정판 겨울 쿠폰", 8, vec![unreadable])
        },
        drop_report(3, "Spring", 9, held.collect()),
    ];
    let mail = of_one(&run("b2", Status::Braked, drops));
    keep("numeric_ids", &mail);
    let text = flat(&mail);
    for intact in [
        "failed claim 1–3 (slot_taken)",
        "admitted 64–100 s ago",
        "quantity 100 → 103",
    ] {
        assert!(text.contains(intact), "{intact}: {}", mail.text);
    }
}
