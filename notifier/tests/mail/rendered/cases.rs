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
fn mail_about_refused_rows_quotes_mysql_and_suggests_no_raise() {
    let why = "the table `slot_limits` has no limit of this drop";
    let detail = format!("promised, and has no row: MySQL refuses the row: {why}");
    let refused = |slot| {
        let failed = Finding {
            result: Outcome::Failed,
            action: ActionKind::Issue,
            dead_letter: Some(4),
            ..left(Kind::FailedClaim, slot, &detail)
        };
        cased(Cause::RowRefused, failed)
    };
    let mail = of_one(&one(Status::Drift, (1..=10).map(refused).collect()));
    keep("rows_refused", &mail);
    let text = flat(&mail);
    assert!(text.contains(why), "{text}");
    assert!(!mail.text.contains("PATCH"), "{}", mail.text);
}

#[test]
fn repairs_that_are_not_listed_count_in_the_text_and_subject_of_a_mail() {
    let more = |kind, action, result| {
        let detail = "20000 more like the ones listed";
        let more = general(kind, action, result, detail);
        cased(Cause::MoreLeft(20_000), more)
    };
    let kind = Kind::MissingAdmission;
    let (action, result) = (ActionKind::Project, Outcome::Planned);
    let held = |slot| finding(kind, slot, action, result);
    let unlisted = more(kind, action, result);
    let mut shut = one(Status::Braked, vec![held(1), held(2), unlisted]);
    shut.drops[0].after.users = 0;
    let text = flat(&of_one(&shut));
    let says = "Lunch: 20,002 repairs that wait for a confirmation.";
    assert!(text.contains(says), "{text}");

    let issued = |slot| {
        applied(
            Kind::Unissued,
            slot,
            ActionKind::Issue,
            "admitted, and has no row",
        )
    };
    let unlisted = more(Kind::Unissued, ActionKind::Issue, Outcome::Applied);
    let mut run = one(Status::Repaired, vec![issued(1), unlisted]);
    run.drops.push(drop_report(2, "Dinner", 8, vec![issued(3)]));
    let subject = of_one(&run).subject;
    assert!(subject.contains("20,002 missing rows written"), "{subject}");
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
fn mail_about_a_plan_of_a_campaign_says_why_it_waits_and_leads_to_its_confirmation() {
    let detail =
        "promised, and no row came; it waits for a confirmation: as many lack a row as have one";
    let held = |slot| Finding {
        slot: None,
        ..finding(Kind::Unissued, slot, ActionKind::Issue, Outcome::Planned)
    };
    let mut run = one(Status::Braked, vec![held(1), held(2)]);
    let coupon = CouponId::of_campaign("Winter");
    let drop = DropId::of_campaign("Winter", chrono::NaiveDate::from_ymd_opt(2026, 11, 28));
    let report = &mut run.drops[0];
    report.coupon_name = "Winter (2026-11-28)".to_owned();
    report.coupon_id = coupon;
    report.drop_id = drop;
    for finding in &mut report.findings {
        detail.clone_into(&mut finding.detail);
    }
    let links = Links {
        file: Some("'/etc/shop.toml'".to_owned()),
        campaigns: [(coupon, campaign("Winter", true))].into(),
        ..linked()
    };
    let mail = mail(&[(at(1), &run)], &[], &links).unwrap();
    keep("attached_plan", &mail);
    let begins = "[firstcome] action needed: 2 repairs that wait for a confirmation · Winter";
    assert!(mail.subject.starts_with(begins), "{}", mail.subject);
    let text = flat(&mail);
    for says in [
        "Winter (2026-11-28): 2 repairs that wait for a confirmation.",
        "it waits for a confirmation: as many lack a row as have one",
        "See and confirm the repairs, in a browser: https://reconciler.example.com/runs/0193a1f2",
        // The command names the campaign, without the day that the headline adds.
        "--campaign 'Winter' --confirm",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
}

#[test]
fn mail_about_a_campaign_speaks_of_its_mode_only() {
    let open = |slot| Finding {
        detail: "promised, and no row came".to_owned(),
        needs_person: true,
        ..finding(Kind::Unissued, slot, ActionKind::Issue, Outcome::Skipped)
    };
    let mut run = one(Status::Drift, vec![open(1), open(2)]);
    let coupon = CouponId::of_campaign("Winter");
    run.drops[0].coupon_id = coupon;
    run.drops[0].drop_id = DropId::of_campaign("Winter", None);
    for (is_repaired, to_do, why) in [
        (
            false,
            "This campaign is only observed",
            "2 × unissued: promised, and",
        ),
        (
            true,
            "What the next pass can repair, it repairs",
            "2 × unissued, write the row: promised",
        ),
    ] {
        let links = Links {
            file: Some("'/etc/shop.toml'".to_owned()),
            campaigns: [(coupon, campaign("Winter", is_repaired))].into(),
            ..linked()
        };
        let text = flat(&mail(&[(at(1), &run)], &[], &links).unwrap());
        assert!(text.contains(to_do) && text.contains(why), "{text}");
        assert!(!text.contains("In mode repair"), "{text}");
    }
}

#[test]
fn mail_about_another_teams_store_says_what_their_users_notice() {
    let away = Finding {
        cause: Cause::Away(FailureCause::Redis),
        ..Finding::report(
            Kind::Stalled,
            "your Redis: Connection refused (os error 111)",
        )
    };
    let mut down = Run {
        findings: vec![away],
        partial: true,
        ..one(Status::Drift, Vec::new())
    };
    down.drops.clear();
    let links = Links {
        file: Some("'/etc/shop.toml'".to_owned()),
        ..linked()
    };
    let mail = mail(&[(at(1), &down)], &[], &links).unwrap();
    keep("attached_redis_away", &mail);
    let text = flat(&mail);
    assert!(
        text.contains("Their Redis does not answer: nothing listens"),
        "{text}"
    );
    assert!(text.contains("Your users get errors"), "{text}");
    assert!(
        !text.contains("--once --dry-run"),
        "nothing can be listed: {text}"
    );
}

#[test]
fn command_of_an_attached_campaign_can_be_pasted_whatever_its_name_is() {
    let (action, result) = (ActionKind::Project, Outcome::Planned);
    let mut run = one(
        Status::Braked,
        vec![finding(Kind::Unissued, 1, action, result)],
    );
    run.drops[0].coupon_name = "Winter | VIP's".to_owned();
    let links = Links {
        file: Some("'shop.toml'".to_owned()),
        ..linked()
    };
    let text = mail(&[(at(1), &run)], &[], &links).unwrap().text;
    let command = "attach 'shop.toml' --once --campaign 'Winter | VIP'\\''s' --confirm";
    assert!(text.contains(command), "{text}");
}
