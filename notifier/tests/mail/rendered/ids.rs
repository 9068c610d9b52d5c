//! Tests that mails do not reveal user IDs, and that an ID changes nothing else in a mail: the
//! texts for different IDs with equal masks must be identical.

use super::*;

/// Renders a mail with everything that could contain an ID.
fn with_ids(ids: &[String]) -> Rendered {
    let id = |at: usize| Some(ids[at % 3].clone());
    let mut run = failed_claims();
    for (at, finding) in run.drops[0].findings.iter_mut().enumerate() {
        finding.user_id = id(at);
    }
    let refused =
        "admitted, and has no row: MySQL refuses the row: another row has this slot or this user";
    let above = "the slot is above the quantity";
    let (action, result) = (ActionKind::Project, Outcome::Planned);
    let also = [
        cased(Cause::RowRefused, left(Kind::Unissued, 4, refused)),
        applied(Kind::OverAdmitted, 6, ActionKind::Owe, above),
        finding(Kind::MissingAdmission, 7, action, result),
    ];
    let also = also.into_iter().enumerate().map(|(at, finding)| Finding {
        user_id: id(at + 3),
        ..finding
    });
    run.drops[0].findings.extend(also);
    let broken = BrokenPromise {
        coupon_id: CouponId(1),
        drop_id: DropId(7),
        user_id: ids[3].clone(),
        slot: Some(101),
        reason: "slot_lost".to_owned(),
    };
    mail(&[(at(1), &run)], &[broken], &linked()).unwrap()
}

/// Returns the text of a mail with all masks made equal.
fn without_masks(mail: &Rendered) -> Vec<String> {
    let whole = format!(
        "{} {} {}",
        mail.subject,
        mail.text,
        words_of_html(&mail.html).join(" ")
    );
    let masked = |word: &str| {
        if word.contains(HIDDEN) {
            HIDDEN.to_owned()
        } else {
            word.to_owned()
        }
    };
    words(&whole).iter().map(|word| masked(word)).collect()
}

/// Returns test IDs: numbers, single letters, and words of the templates.
fn ids() -> Vec<String> {
    let numbers = (0..=20).chain([100, 412, 4711, 100_000]);
    let mut ids: Vec<String> = numbers.map(|n: u32| n.to_string()).collect();
    ids.extend(('a'..='z').map(String::from));
    let said = "slot coupon row claim drop people user Redis failed of once quantity al@example.com auth0|5f7c u-37 = a.b x:y";
    ids.extend(said.split(' ').map(str::to_owned));
    ids
}

#[test]
fn user_ids_change_no_other_text_of_a_mail() {
    let customers = [4711, 4712, 4713, 4714].map(|n| format!("customer-{n}"));
    let plain = without_masks(&with_ids(&customers));
    assert!(plain.iter().any(|word| word == HIDDEN), "{plain:?}");
    assert!(plain.join(" ").contains("failed claim 12"), "{plain:?}");
    let ids = ids();
    for some in ids.windows(4) {
        assert_eq!(without_masks(&with_ids(some)), plain, "{some:?}");
    }
}

#[test]
fn short_id_is_hidden_and_long_id_is_masked() {
    for id in ids() {
        let shown = wording::person(&id);
        let seen: String = shown.split(HIDDEN).collect();
        if id.chars().count() <= 3 {
            assert_eq!(shown, HIDDEN, "{id}");
        } else {
            assert!(
                seen.chars().count() <= 5 && seen.chars().count() <= id.chars().count() / 2 + 1,
                "{id}: {shown}"
            );
        }
    }
}
