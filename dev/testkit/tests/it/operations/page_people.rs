//! One user on the operations page: the user's history, erasure, and a promise that cannot be kept.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, OPS_TOKEN, assert_nothing_found};
use serde_json::json;

use super::visitor::{VIEW_TOKEN, Visitor, assert_has, assert_lacks};
use crate::drift::support::{injector, mailed};

/// The fields of the search form.
#[derive(Clone, Copy, Default)]
struct PersonSearch<'a> {
    coupon: &'a str,
    drop: &'a str,
    person: &'a str,
}

async fn search(visitor: &Visitor, search: PersonSearch<'_>) -> (u16, String) {
    let form = [
        ("coupon", search.coupon),
        ("drop", search.drop),
        ("person", search.person),
    ];
    let reply = visitor.submit("/people", &form).await;
    (reply.status, reply.text)
}

#[tokio::test]
async fn a_users_history_is_found_by_coupon_and_id_or_slot() {
    let f = Fixture::new("ops-person").await;
    let sql = &f.world.sql;
    let (coupon, _) = f.held("Winter coupon", 20, 3).await;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = f.world.daemon().await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let id = coupon.id.to_string();
    let drop = coupon.drop.to_string();
    let wanted = |coupon, person| PersonSearch {
        coupon,
        person,
        ..PersonSearch::default()
    };
    assert_eq!(kim.get("/people").await.status(), 200);
    // The search accepts the coupon's ID, its name or a part of it. It needs no coupon if only one
    // coupon has the user.
    for coupon in [id.as_str(), "Winter coupon", "winter", ""] {
        let (status, found) = search(&kim, wanted(coupon, "u-2")).await;
        assert_eq!(status, 200, "{coupon:?}: {found}");
        let shown = ["u-2 and Winter coupon", "What happened, oldest first"];
        assert_has(&found, &shown);
    }
    for (coupon, person, status) in [
        ("4711", "u-2", 404),
        ("x", "u-2", 404),
        ("1", "a b", 400),
        ("1", "", 400),
        ("", "u-99", 404),
        ("", "slot 2", 400),
    ] {
        let found = search(&kim, wanted(coupon, person)).await;
        assert_eq!(found.0, status, "{coupon} {person}");
    }
    let (second, _) = f.held("Second winter", 20, 3).await;
    let (status, found) = search(&kim, wanted("winter", "u-2")).await;
    assert_eq!(status, 200);
    let button = format!("Second winter (coupon {})</button>", second.id);
    assert_has(&found, &["Of which coupon?", &button]);

    // A search for a slot of the most recently opened drop, or of a given drop, finds its holder
    // and reveals a user ID.
    let holder = "SELECT user_id FROM issued_coupons WHERE slot = 2";
    let holder = sql.query(holder).await[0][0].clone();
    let at = |drop, person| PersonSearch {
        coupon: &id,
        drop,
        person,
    };
    for (visitor, drop) in [(&kim, ""), (&kim, drop.as_str()), (&lee, drop.as_str())] {
        let (status, found) = search(visitor, at(drop, "Slot 2")).await;
        assert_eq!(status, 200, "{found}");
        assert_has(&found, &[&format!("{holder} and Winter coupon")]);
    }
    assert_eq!(search(&lee, at(drop.as_str(), "u-2")).await.0, 200);
    for (drop, person, status) in [
        (drop.as_str(), "slot 19", 404),
        ("4711", "slot 2", 404),
        ("x", "u-2", 404),
        ("", "slot two", 400),
    ] {
        let found = search(&kim, at(drop, person)).await;
        assert_eq!(found.0, status, "{drop} {person}");
    }
    let reveals = "SELECT operator, detail->>'$.slot' FROM ops_actions WHERE action = 'reveal'";
    let recorded = [["Kim", "2"], ["Kim", "2"], ["Lee", "2"]];
    assert_eq!(sql.query(reveals).await, recorded);
    // The slot also shows the row of another user.
    sql.query("UPDATE issued_coupons SET user_id = 'u-other' WHERE slot = 2")
        .await;
    let (status, found) = search(&kim, at("", "slot 2")).await;
    assert_eq!(status, 200);
    let shown = [
        "Several people are known on slot 2 of drop ",
        "Show the story of u-other<",
        &format!("Show the story of {holder}<"),
    ];
    assert_has(&found, &shown);
}

#[tokio::test]
async fn the_form_erases_a_user_after_one_question_if_nothing_is_open() {
    let f = Fixture::new("ops-erase").await;
    let sql = &f.world.sql;
    let (coupon, _) = f.held("Winter coupon", 20, 3).await;
    let daemon = f.world.daemon().await;
    let letter = format!(
        "INSERT INTO failed_claims (coupon_id, user_id, payload, reason, resolved_at) \
         VALUES ({}, 'c-erase-4711', 'c-erase-4711', 'by hand', UTC_TIMESTAMP(3))",
        coupon.id
    );
    sql.query(&letter).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let erase = async |person: &str, sure: &str| {
        let form = [("person", person), ("sure", sure)];
        kim.submit("/people/erase", &form).await
    };
    let whom = PersonSearch {
        coupon: &coupon.id.to_string(),
        person: "c-erase-4711",
        ..PersonSearch::default()
    };
    let (_, story) = search(&kim, whom).await;
    assert_has(&story, &["Erase 1 person from all coupons"]);
    for (person, sure, status) in [("c-erase-4711", "", 200), ("u-2", "1", 409)] {
        let answer = erase(person, sure).await;
        assert_eq!(answer.status, status, "{person} {sure}");
    }
    let erasures =
        "SELECT operator, detail->>'$.erased_as' FROM ops_actions WHERE action = 'erase'";
    assert_eq!(sql.query(erasures).await, Vec::<Vec<String>>::new());

    let page = erase("c-erase-4711", "1").await;
    let letters = "SELECT user_id, COALESCE(payload, 'gone') FROM failed_claims";
    let letters = sql.query(letters).await;
    let pseudonym = letters[0][0].as_str();
    assert_eq!(page.status, 200, "{}", page.text);
    assert!(pseudonym.starts_with("erased-"), "{pseudonym}");
    assert_has(&page.text, &[pseudonym]);
    assert_eq!(letters, [[pseudonym, "gone"]]);
    assert_eq!(sql.query(erasures).await, [["Kim", pseudonym]]);
}

#[tokio::test]
async fn an_operator_closes_broken_promises_in_the_users_history_and_the_alert_ends() {
    let f = Fixture::new("hand-give-up").await;
    let sql = &f.world.sql;
    let (coupon, _) = f.held("Winter coupon", 20, 20).await;
    let daemon = f.world.daemon().await;
    let mut drift = injector(&f.world, &coupon).await;
    let done = drift.make(Drift::OverShrunk, 2).await.unwrap();
    daemon.reconcile(&json!({})).await;
    mailed(&f.world, &["action needed", "2 broken promises"]).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let id = coupon.id.to_string();
    let drop = coupon.drop.to_string();
    let open = "SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL";
    let offer = "Record that 1 person was informed";
    for (n, hit) in (1..).zip(&done.people) {
        let whom = PersonSearch {
            coupon: &id,
            drop: &drop,
            person: &hit.user,
        };
        let (_, story) = search(&kim, whom).await;
        assert_has(&story, &[&format!("{offer}, drop {drop}")]);
        let give_up = async |sure: &str| {
            let form = [
                ("coupon", id.as_str()),
                ("drop", &drop),
                ("person", &hit.user),
                ("sure", sure),
            ];
            kim.submit("/people/give-up", &form).await
        };
        let question = give_up("").await;
        assert_eq!(question.status, 200);
        assert_has(&question.text, &["Are you sure?"]);
        assert_eq!(give_up("1").await.status, 303);
        let page = kim.text("/people?done=given-up").await;
        assert_has(&page, &["Noted. Search for them again to see it."]);
        let (status, story) = search(&kim, whom).await;
        assert_eq!(status, 200);
        assert_lacks(&story, &[offer]);
        assert_eq!(sql.number(open).await, 2 - n);
        assert_eq!(give_up("1").await.status, 409);
    }
    daemon.reconcile(&json!({})).await;
    mailed(&f.world, &["resolved", "Winter coupon"]).await;
    let acts =
        "SELECT operator, drop_id, from_addr FROM ops_actions WHERE action = 'give_up_promise'";
    let recorded = ["Kim", drop.as_str(), "127.0.0.1"];
    assert_eq!(sql.query(acts).await, [recorded, recorded]);
    assert_nothing_found(&f.world.pass().await);
}
