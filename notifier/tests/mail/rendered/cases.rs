//! Tests the sentences and the instructions of mails about a pass.

use super::*;

fn one(status: Status, findings: Vec<Finding>) -> Run {
    run("b1", status, vec![drop_report(1, "Lunch", 7, findings)])
}

fn of_one(run: &Run) -> Rendered {
    mail(&[(at(1), run)], &[], &linked()).unwrap()
}

fn flat(mail: &Rendered) -> String {
    mail.text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn mail_about_rows_that_mysql_refuses_quotes_it_and_suggests_no_raise() {
    let why = "the table `slot_limits` has no limit of this drop";
    let detail = format!("failed claim 4 (unknown_drop); MySQL refused the row: {why}");
    let refused = |slot| {
        let failed = Finding {
            result: Outcome::Failed,
            action: ActionKind::Issue,
            ..left(Kind::FailedClaim, slot, &detail)
        };
        cased(FindingCase::RowRefused, failed)
    };
    let mail = of_one(&one(Status::Drift, (1..=10).map(refused).collect()));
    keep("rows_refused", &mail);
    let text = flat(&mail);
    assert!(text.contains(why), "{text}");
    assert!(!mail.text.contains("PATCH"), "{}", mail.text);
}

#[test]
fn mail_about_repairs_outside_drops_names_their_coupons() {
    let detail = "MySQL has lost changes of this coupon up to revision 4, which Redis has";
    let recovered = |coupon| Finding {
        coupon_id: Some(CouponId(coupon)),
        ..general(
            Kind::SettingsMismatch,
            ActionKind::WriteSettings,
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
    assert!(text.contains("2 × settings written again"), "{text}");
    assert!(text.contains("(coupon 3, coupon 5)"), "{text}");
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
            ActionKind::Project,
            Outcome::Planned,
        )
    };
    let unlisted = more(
        Kind::MissingAdmission,
        ActionKind::Project,
        Outcome::Planned,
    );
    let mut shut = one(Status::Braked, vec![held(1), held(2), unlisted]);
    shut.drops[0].after.users = 0;
    let text = flat(&of_one(&shut));
    assert!(
        text.contains("20,002 repairs that wait for a confirmation of Lunch"),
        "{text}"
    );

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
    let mail = mail(&[(at(1), &failed_claims())], &[], &linked()).unwrap();
    assert!(
        mail.html.contains("/v1/alerts/41/acknowledge")
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
        let detail = format!("failed claim {n} (slot_taken): another user has its slot");
        numbered(left(Kind::FailedClaim, i64::from(n), &detail), n)
    });
    let late = (4..=40).map(|n| {
        let detail = format!("admitted {} s ago, no row, and no message waits", 60 + n);
        numbered(
            applied(Kind::Unissued, i64::from(n), ActionKind::Issue, &detail),
            n,
        )
    });
    let held = (1..=64).map(|n| {
        numbered(
            finding(
                Kind::MissingAdmission,
                n,
                ActionKind::Project,
                Outcome::Planned,
            ),
            7,
        )
    });
    let drops = vec![
        drop_report(1, long, 7, claims.chain(late).collect()),
        drop_report(3, "Spring", 9, held.collect()),
    ];
    let mail = of_one(&run("b2", Status::Braked, drops));
    keep("numeric_ids", &mail);
    let text = flat(&mail);
    for intact in ["failed claim 1 (slot_taken)", "admitted 64 s ago"] {
        assert!(text.contains(intact), "{intact}: {}", mail.text);
    }
}
