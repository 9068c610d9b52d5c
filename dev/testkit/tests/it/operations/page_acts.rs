//! Actions at the operations page: passes, confirmations, one user's story, dead letters.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, LIMIT, OPS_TOKEN, eventually_some, open_world};
use reqwest::Method;
use reqwest::header::{LOCATION, ORIGIN};

use super::page::{VIEW_TOKEN, Visitor, filled_in, header};
use crate::drift::support::injector;

#[tokio::test]
async fn the_page_runs_passes_and_asks_for_the_coupon_name_before_confirmations() {
    let f = Fixture::new("ops-confirm").await;
    f.world.set("API_URL", "");
    let (coupon, _) = f.held("Winter coupon", 20, 20).await;
    f.world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_PERCENT", "0");
    f.world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST", "1");
    let daemon = f.world.daemon().await;
    injector(&f.world, &coupon)
        .await
        .make(Drift::MissingAdmission, 3)
        .await
        .unwrap();
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let csrf = kim.csrf().await;
    let place = format!("/coupons/{}/drops/{}", coupon.id, coupon.drop);
    // The page to which a form leads, once the pass has ended.
    let ask = async |path: &str, how: &str, (name, held): (&str, &str)| {
        eventually_some("no other pass runs", LIMIT, async || {
            let form = [
                ("csrf", csrf.as_str()),
                ("how", how),
                ("name", name),
                ("held", held),
            ];
            let request = kim.request(Method::POST, path).header(ORIGIN, &kim.base);
            let answer = filled_in(request, &form).send().await.unwrap();
            let status = answer.status().as_u16();
            let run = header(&answer, LOCATION.as_str()).to_owned();
            if status == 409 {
                Err(status)
            } else {
                Ok((status, run))
            }
        })
        .await
    };
    let ended = async |run: &str, words: &str| {
        eventually_some(&format!("the pass says {words}"), LIMIT, async || {
            let page = kim.text(run).await;
            if page.contains(words) && !page.contains("data-running") {
                Ok(())
            } else {
                Err(page)
            }
        })
        .await;
    };
    let pass = format!("{place}/pass");
    let (status, run) = ask(&pass, "dry_run", ("", "")).await;
    assert_eq!(status, 303);
    ended(&run, "would: put back into Redis").await;
    let (status, run) = ask("/pass", "pass", ("", "")).await;
    assert_eq!(status, 303);
    ended(&run, "held back").await;
    // Its alert is written after the pass.
    eventually_some("the repairs can be confirmed", LIMIT, async || {
        let page = kim.text(&place).await;
        if page.contains("Confirm 3 repairs of drop") {
            Ok(())
        } else {
            Err(page)
        }
    })
    .await;
    assert_eq!(ask(&pass, "confirm", ("Winter", "3")).await.0, 400);
    assert_eq!(
        ask(&pass, "everything", ("Winter coupon", "3")).await.0,
        400
    );
    let page = kim.text(&place).await;
    assert!(
        page.contains("set <code>API_URL</code> for the reconciler") && !page.contains("/change"),
        "{page}"
    );
    // Somebody else looked meanwhile, and there are more repairs.
    let form = [
        ("csrf", csrf.as_str()),
        ("how", "confirm"),
        ("name", "Winter coupon"),
        ("held", "2"),
    ];
    let request = kim.request(Method::POST, &pass).header(ORIGIN, &kim.base);
    let refused = filled_in(request, &form)
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert!(
        refused.contains("number of held-back repairs has changed"),
        "{refused}"
    );
    let (status, run) = ask(&pass, "confirm", (" Winter coupon ", "3")).await;
    assert_eq!(status, 303);
    ended(&run, "repaired").await;
    eventually_some("there is nothing left to confirm", LIMIT, async || {
        let page = kim.text(&place).await;
        if page.contains("Confirm ") {
            Err(page)
        } else {
            Ok(())
        }
    })
    .await;
    let acts = "SELECT operator, from_addr, detail->>'$.dry_run', detail->>'$.confirm' FROM ops_actions \
                WHERE action = 'reconcile' AND operator IS NOT NULL ORDER BY id";
    let said = |dry_run, confirm| ["Kim", "127.0.0.1", dry_run, confirm];
    let expected = [
        said("true", "false"),
        said("false", "false"),
        said("false", "true"),
    ];
    assert_eq!(f.world.sql.query(acts).await, expected);
    assert_eq!(
        f.world
            .sql
            .number("SELECT COUNT(*) FROM ops_actions WHERE detail LIKE '%junk%'")
            .await,
        0
    );
}

#[tokio::test]
async fn a_users_story_is_found_by_coupon_and_id_or_slot() {
    let f = Fixture::new("ops-person").await;
    let (coupon, _) = f.held("Winter coupon", 20, 3).await;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = f.world.daemon().await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let viewer = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let search_as = async |who: &Visitor, coupon: &str, drop: &str, person: &str| {
        let csrf = who.csrf().await;
        let form = [
            ("csrf", csrf.as_str()),
            ("coupon", coupon),
            ("drop", drop),
            ("person", person),
        ];
        let request = who
            .request(Method::POST, "/people")
            .header(ORIGIN, &who.base);
        let answer = filled_in(request, &form).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let search = async |coupon: &str, person: &str| search_as(&kim, coupon, "", person).await;
    let id = coupon.id.to_string();
    let drop = coupon.drop.to_string();
    let (status, found) = search(&id, "u-2").await;
    assert!(
        status == 200 && found.contains("u-2 and Winter coupon"),
        "{status} {found}"
    );
    assert!(found.contains("What happened, oldest first"), "{found}");
    for (coupon, person, status) in [
        ("4711", "u-2", 404),
        ("x", "u-2", 404),
        ("1", "a b", 400),
        ("1", "", 400),
    ] {
        assert_eq!(search(coupon, person).await.0, status, "{coupon} {person}");
    }
    assert_eq!(kim.get("/people").await.status(), 200);
    // By the coupon's name, or a part of it, or without a coupon if only one names the user.
    for coupon in ["Winter coupon", "winter", ""] {
        let (status, found) = search(coupon, "u-2").await;
        assert!(
            status == 200 && found.contains("u-2 and Winter coupon"),
            "{coupon:?}: {status} {found}"
        );
    }
    assert_eq!(
        (
            search("Winter", "u-2").await.0,
            search("", "u-99").await.0,
            search("", "slot 2").await.0
        ),
        (200, 404, 400)
    );
    let (second, _) = f.held("Second winter", 20, 3).await;
    let (status, found) = search("winter", "u-2").await;
    assert!(
        status == 200 && found.contains("Of which coupon?"),
        "{status} {found}"
    );
    assert!(
        found.contains(&format!("Second winter (coupon {})</button>", second.id)),
        "{found}"
    );

    // By a slot of the last opened drop, or of a given one, which shows an id.
    let on_slot = f
        .world
        .sql
        .query("SELECT user_id FROM issued_coupons WHERE slot = 2")
        .await;
    for drop in ["", &drop] {
        let (status, found) = search_as(&kim, &id, drop, "Slot 2").await;
        assert!(
            status == 200 && found.contains(&format!("{} and Winter coupon", on_slot[0][0])),
            "{status} {found}"
        );
    }
    let (status, page) = search_as(&viewer, &id, &drop, "slot 2").await;
    assert!(
        status == 200 && page.contains(&on_slot[0][0]),
        "viewers see everything: {status} {page}"
    );
    assert_eq!(search_as(&viewer, &id, &drop, "u-2").await.0, 200);
    for (drop, person, status) in [
        (drop.as_str(), "slot 19", 404),
        ("4711", "slot 2", 404),
        ("x", "u-2", 404),
        ("", "slot two", 400),
    ] {
        assert_eq!(
            search_as(&kim, &id, drop, person).await.0,
            status,
            "{drop} {person}"
        );
    }
    let reveals = "SELECT operator, detail->>'$.slot' FROM ops_actions WHERE action = 'reveal'";
    assert_eq!(
        f.world.sql.query(reveals).await,
        [["Kim", "2"], ["Kim", "2"], ["Lee", "2"]]
    );
    // A row of another user also appears on the slot.
    f.world
        .sql
        .query("UPDATE issued_coupons SET user_id = 'u-other' WHERE slot = 2")
        .await;
    let (status, found) = search(&id, "slot 2").await;
    assert!(
        status == 200 && found.contains("Several people are known on slot 2 of drop "),
        "{status} {found}"
    );
    for person in ["u-other", &on_slot[0][0]] {
        assert!(
            found.contains(&format!("Show the story of {person}<")),
            "{found}"
        );
    }
}

#[tokio::test]
async fn a_user_is_erased_by_the_form_once_their_id_is_typed_and_nothing_is_open() {
    let f = Fixture::new("ops-erase").await;
    let (coupon, _) = f.held("Winter coupon", 20, 3).await;
    let daemon = f.world.daemon().await;
    let letter = format!(
        "INSERT INTO failed_claims (coupon_id, user_id, payload, reason, resolved_at) \
         VALUES ({}, 'c-erase-4711', 'c-erase-4711', 'by hand', UTC_TIMESTAMP(3))",
        coupon.id
    );
    f.world.sql.query(&letter).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let csrf = kim.csrf().await;
    let id = coupon.id.to_string();
    let send = async |path: &str, fields: [(&str, &str); 2]| {
        let form = [("csrf", csrf.as_str()), fields[0], fields[1]];
        let request = kim.request(Method::POST, path).header(ORIGIN, &kim.base);
        let answer = filled_in(request, &form).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (_, story) = send(
        "/people",
        [("coupon", id.as_str()), ("person", "c-erase-4711")],
    )
    .await;
    assert!(story.contains("Erase 1 person from all coupons"), "{story}");
    for (person, typed, status) in [
        ("c-erase-4711", "c-erase", 400),
        ("c-erase-4711", "", 400),
        ("u-2", "u-2", 409),
    ] {
        assert_eq!(
            send("/people/erase", [("person", person), ("typed", typed)])
                .await
                .0,
            status,
            "{person} {typed}"
        );
    }
    let erasures =
        "SELECT operator, detail->>'$.erased_as' FROM ops_actions WHERE action = 'erase'";
    assert_eq!(f.world.sql.query(erasures).await, Vec::<Vec<String>>::new());

    let (status, page) = send(
        "/people/erase",
        [("person", "c-erase-4711"), ("typed", " c-erase-4711 ")],
    )
    .await;
    let letters = f
        .world
        .sql
        .query("SELECT user_id, COALESCE(payload, 'gone') FROM failed_claims")
        .await;
    let pseudonym = letters[0][0].as_str();
    assert!(
        status == 200 && pseudonym.starts_with("erased-") && page.contains(pseudonym),
        "{status} {page}"
    );
    assert_eq!(letters, [[pseudonym, "gone"]]);
    assert_eq!(f.world.sql.query(erasures).await, [["Kim", pseudonym]]);
}

#[tokio::test]
async fn the_page_pauses_resumes_raises_and_revokes_after_the_coupon_name() {
    let f = Fixture::new("ops-changes").await;
    let (coupon, _) = f.held("Winter coupon", 20, 3).await;
    let daemon = f
        .world
        .daemon_with(&[("API_URL", f.api.http().base())])
        .await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let csrf = kim.csrf().await;
    let place = format!("/coupons/{}/drops/{}", coupon.id, coupon.drop);
    let id = coupon.id.to_string();
    let drop = coupon.drop.to_string();
    let change = format!("{place}/change");
    let ask = async |path: &str, fields: &[(&str, &str)]| {
        let mut form = vec![("csrf", csrf.as_str())];
        form.extend(fields);
        let request = kim.request(Method::POST, path).header(ORIGIN, &kim.base);
        let answer = filled_in(request, &form).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let revoke = |person: &'static str, name: &'static str| {
        [
            ("coupon", id.as_str()),
            ("drop", &drop),
            ("person", person),
            ("reason", "bought by a script"),
            ("name", name),
        ]
    };
    // Nothing happens without the coupon's name.
    for how in ["pause", "raise", "resume"] {
        let form = [
            ("how", how),
            ("quantity", "30"),
            ("again", "30"),
            ("name", "Winter"),
        ];
        assert_eq!(ask(&change, &form).await.0, 400, "{how}");
    }
    // Nor with a mistyped repetition, nor downwards.
    for (quantity, again) in [("30", "300"), ("20", "20"), ("19", "19"), ("30", "")] {
        let form = [
            ("how", "raise"),
            ("quantity", quantity),
            ("again", again),
            ("name", "Winter coupon"),
        ];
        let (status, page) = ask(&change, &form).await;
        // The form is shown again on its screen, with the typed values.
        let typed = format!("name=\"quantity\" value=\"{quantity}\"");
        let why = "Type the same number twice, above the quantity of now (20).";
        assert!(
            status == 400 && page.contains(why) && page.contains(&typed),
            "{quantity} {again}: {status} {page}"
        );
        assert!(
            page.contains("<a href=\"/runs\"")
                && page.contains("name=\"name\" value=\"Winter coupon\""),
            "{page}"
        );
    }
    let (status, page) = ask("/people/revoke", &revoke("u-2", "Winter")).await;
    assert!(
        status == 400 && page.contains("not the coupon&#39;s name"),
        "{status} {page}"
    );
    assert!(
        page.contains("What happened, oldest first")
            && page.contains("value=\"bought by a script\""),
        "{page}"
    );
    let state = "SELECT paused, quantity, (SELECT COUNT(*) FROM issued_coupons) FROM coupons";
    assert_eq!(f.world.sql.query(state).await, [["0", "20", "3"]]);

    assert_eq!(
        ask(&change, &[("how", "pause"), ("name", "Winter coupon")])
            .await
            .0,
        303
    );
    let page = kim.text(&format!("{place}?done=paused")).await;
    assert!(
        page.contains("Resume coupon") && !page.contains("API_URL"),
        "{page}"
    );
    assert!(page.contains("Paused. Nobody can claim"), "{page}");
    assert!(
        !kim.text(&format!("{place}?done=resumed"))
            .await
            .contains("Resumed."),
        "it is not"
    );
    assert_eq!(
        ask(&change, &[("how", "resume"), ("name", "Winter coupon")])
            .await
            .0,
        303
    );
    let form = [
        ("how", "raise"),
        ("quantity", "30"),
        ("again", "30"),
        ("name", "Winter coupon"),
    ];
    assert_eq!(ask(&change, &form).await.0, 303);
    assert!(
        kim.text(&format!("{place}?done=raised"))
            .await
            .contains("Raised to 30.<")
    );
    let slot = f
        .world
        .sql
        .number("SELECT slot FROM issued_coupons WHERE user_id = 'u-2'")
        .await;
    let (_, story) = ask("/people", &[("coupon", id.as_str()), ("person", "u-2")]).await;
    assert!(
        story.contains(&format!(
            ">Revoke slot {slot} of drop {drop} from 1 person</button>"
        )),
        "{story}"
    );
    // It redirects from the form, so that a reload revokes nothing again, and the URL contains no
    // user id.
    let request = kim
        .request(Method::POST, "/people/revoke")
        .header(ORIGIN, &kim.base);
    let form: Vec<(&str, &str)> = revoke("u-2", "Winter coupon")
        .into_iter()
        .chain([("csrf", csrf.as_str())])
        .collect();
    let revoked = filled_in(request, &form).send().await.unwrap();
    assert_eq!(
        (
            revoked.status().as_u16(),
            header(&revoked, LOCATION.as_str())
        ),
        (303, "/people?done=revoked")
    );
    let page = kim.text("/people?done=revoked").await;
    assert!(
        page.contains("Revoked. Search for them again to see it.") && !page.contains("u-2"),
        "{page}"
    );
    assert!(!kim.text("/people?done=%3Cb%3E").await.contains("%3Cb"));
    let (_, story) = ask("/people", &[("coupon", id.as_str()), ("person", "u-2")]).await;
    assert!(story.contains("revoked"), "{story}");
    assert_eq!(f.world.sql.query(state).await, [["0", "30", "2"]]);
    // The API's refusal is shown in its words.
    let (status, page) = ask("/people/revoke", &revoke("u-99", "Winter coupon")).await;
    assert!(
        status == 404 && page.contains("The API refused: "),
        "{status} {page}"
    );

    // The API records the operator, by the session's name and token.
    let recorded = "SELECT action, operator, LENGTH(token) FROM ops_actions WHERE operator = 'Kim' ORDER BY id";
    let said = |action| [action, "Kim", "8"];
    assert_eq!(
        f.world.sql.query(recorded).await,
        [
            said("change_coupon"),
            said("change_coupon"),
            said("change_coupon"),
            said("revoke")
        ]
    );
}

#[tokio::test]
async fn the_form_creates_a_coupon_once_after_showing_its_openings() {
    let (world, api) = open_world("ops-new").await;
    let daemon = world.daemon_with(&[("API_URL", api.http().base())]).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    assert!(
        kim.text("/coupons/new")
            .await
            .contains("Show the next openings")
    );
    let typed = "name=Winter&quantity=500&once_per=drop&waiting_list=10&repeats=daily&time_zone=Asia%2FSeoul\
                 &first_day=2130-12-01&last_day=&opens=15%3A00&closes=18%3A00";
    let preview = kim.text(&format!("/coupons/new?{typed}")).await;
    assert!(
        preview.contains("Fri 2130-12-01 15:00 +09:00") && preview.contains("2130-12-01 06:00"),
        "{preview}"
    );
    let begun = typed
        .replace("2130-12-01", "2020-12-01")
        .replace("15%3A00", "00%3A00")
        .replace("18%3A00", "23%3A59");
    assert!(
        kim.text(&format!("/coupons/new?{begun}"))
            .await
            .contains("opens at once")
    );
    let wrong = kim
        .get(&format!("/coupons/new?{}", typed.replace("Seoul", "Seul")))
        .await;
    assert_eq!(wrong.status(), 400);
    assert!(
        wrong
            .text()
            .await
            .unwrap()
            .contains("did you mean Asia/Seoul?")
    );
    let key = preview
        .split("name=\"key\" value=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .unwrap();
    let body = format!("{typed}&key={key}&csrf={}", kim.csrf().await);
    let mut places = Vec::new();
    for _ in 0..2 {
        let request = kim
            .request(Method::POST, "/coupons/new")
            .header(ORIGIN, &kim.base);
        let form = request
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.clone());
        let answer = form.send().await.unwrap();
        assert_eq!(answer.status(), 303);
        places.push(header(&answer, LOCATION.as_str()).to_owned());
    }
    assert_eq!(places[0], places[1], "a double click");
    let made = kim.text(&places[0]).await;
    for words in [
        "Made. People get it at the address below.",
        "daily from 15:00 to 18:00, time of Asia/Seoul, from 2130-12-01 on, without an end",
        "2130-12-01 15:00 to 18:00 Asia/Seoul (06:00 to 09:00 UTC)",
        "<dd>one each day</dd>",
        "/c/",
    ] {
        assert!(made.contains(words), "{words}: {made}");
    }
    assert_eq!(
        world
            .sql
            .query("SELECT COUNT(*), MIN(quantity) FROM coupons")
            .await,
        [["1", "500"]]
    );

    let endless = "name=Endless&quantity=5&waiting_list=0&repeats=once&time_zone=Asia%2FSeoul&first_day=2020-12-01\
                   &last_day=&opens=15%3A00&closes=";
    let shown = kim.text(&format!("/coupons/new?{endless}")).await;
    assert!(
        shown.contains("stays open") && shown.contains("opens at once"),
        "{shown}"
    );
    let request = kim
        .request(Method::POST, "/coupons/new")
        .header(ORIGIN, &kim.base);
    let form = request.header("content-type", "application/x-www-form-urlencoded");
    let made = form
        .body(format!("{endless}&key=endless&csrf={}", kim.csrf().await))
        .send()
        .await
        .unwrap();
    assert_eq!(made.status(), 303);
    let window = "SELECT d.opens_at, d.closes_at FROM drops d JOIN coupons c ON c.id = d.coupon_id WHERE c.name = 'Endless'";
    assert_eq!(
        world.sql.query(window).await,
        [["2020-12-01 06:00:00.000", "NULL"]]
    );
}

#[tokio::test]
async fn the_latency_of_rows_is_shown_by_drop_and_by_day() {
    let f = Fixture::new("ops-pace").await;
    let (coupon, _) = f.held("Winter coupon", 20, 10).await;
    // None of the daemon's passes must keep the promise that is broken below.
    let daemon = f.world.daemon().await;
    f.world
        .sql
        .query("UPDATE issued_coupons SET issued_at = claimed_at + INTERVAL 300000 MICROSECOND")
        .await;
    f.world
        .sql
        .query(
            "UPDATE issued_coupons SET issued_at = claimed_at + INTERVAL 7 SECOND WHERE slot = 4",
        )
        .await;
    let lee = Visitor::logged_in(&daemon, "Lee", OPS_TOKEN).await;
    let page = lee
        .text(&format!("/coupons/{}/drops/{}", coupon.id, coupon.drop))
        .await;
    assert!(
        page.contains("Admissions that had their row within a second: 90.0 % of 10 sampled."),
        "{page}"
    );
    assert!(
        page.contains("data-label=\"Row after its claim\">7.0 s<"),
        "{page}"
    );
    let days = lee.text("/days").await;
    assert!(days.contains("90.0 % of 10 sampled"), "{days}");
    let broken = format!(
        "({}, 'u-late', {}, 20, 'by hand', 'none')",
        coupon.drop, coupon.id
    );
    let columns = "(drop_id, user_id, coupon_id, slot, reason, run_id)";
    f.world
        .sql
        .query(&format!(
            "INSERT INTO broken_promises {columns} VALUES {broken}"
        ))
        .await;
    let days = lee.text("/days").await;
    assert!(
        days.contains("81.8 % of 11 sampled"),
        "a broken promise is a miss: {days}"
    );
    // The chart also includes admissions without a row.
    f.world
        .sql
        .query("DELETE FROM issued_coupons WHERE slot = 2")
        .await;
    let page = lee
        .text(&format!("/coupons/{}/drops/{}", coupon.id, coupon.drop))
        .await;
    assert!(
        page.contains("within a second: 80.0 % of 10 sampled."),
        "{page}"
    );
    assert!(
        page.contains("data-label=\"Row after its claim\">–<"),
        "{page}"
    );
}

#[tokio::test]
async fn dead_letters_are_filtered_revealed_and_discarded_and_recorded() {
    let f = Fixture::new("ops-letters").await;
    let (coupon, _) = f.held("Winter coupon", 20, 1).await;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = f.world.daemon().await;
    // One that names nobody, one that names no drop, and fifty with another reason.
    f.world
        .sql
        .query(&format!(
            "INSERT INTO failed_claims (id, coupon_id, drop_id, slot, user_id, payload, reason, error) VALUES \
             (701, {}, {}, 9, NULL, X'7B22757365725F6964223A22', 'undecodable', 'EOF at c-secret-4711@example.com'), \
             (702, NULL, NULL, NULL, 'c-secret-4711', '<script>c-secret-4711', 'by_hand_probe', NULL)",
            coupon.id, coupon.drop
        ))
        .await;
    let many: Vec<String> = (0..51)
        .map(|n| format!("(NULL, 999999, {n}, 'many')"))
        .collect();
    f.world
        .sql
        .query(&format!(
            "INSERT INTO failed_claims (coupon_id, drop_id, slot, reason) VALUES {}",
            many.join(",")
        ))
        .await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let viewer = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let first = kim.text("/dead-letters?reason=many").await;
    assert_eq!(
        first.matches("coupon –, drop 999999").count(),
        50,
        "{first}"
    );
    assert!(
        first.contains("/dead-letters?page=2&amp;reason=many"),
        "{first}"
    );
    let second = kim.text("/dead-letters?page=2&reason=many").await;
    assert_eq!(
        second.matches("coupon –, drop 999999").count(),
        1,
        "{second}"
    );
    let found = kim
        .text(&format!("/dead-letters?drop={}", coupon.drop))
        .await;
    assert!(
        found.contains("/dead-letters/701") && !found.contains("/dead-letters/702"),
        "{found}"
    );

    for (visitor, path) in [
        (&kim, "/dead-letters?reason=by_hand_probe"),
        (&viewer, "/dead-letters/702"),
        (&kim, "/dead-letters/702"),
    ] {
        let page = visitor.text(path).await;
        assert!(
            !page.contains("4711") && !page.contains("<script>c"),
            "{page}"
        );
    }
    assert!(!kim.text("/dead-letters/701").await.contains("4711"));
    assert!(
        !viewer
            .text("/dead-letters/702")
            .await
            .contains("Discard dead letter")
    );
    let act = async |visitor: &Visitor, path: &str, why: &str, name: &str| {
        let csrf = visitor.csrf().await;
        let form = [("csrf", csrf.as_str()), ("why", why), ("name", name)];
        let request = visitor
            .request(Method::POST, path)
            .header(ORIGIN, &visitor.base);
        let answer = filled_in(request, &form).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, shown) = act(&kim, "/dead-letters/702/reveal", "", "").await;
    assert!(
        status == 200
            && shown.contains("for c-secret-4711")
            && shown.contains("&#60;script&#62;c-secret-4711"),
        "{shown}"
    );
    let (status, shown_to_viewer) = act(&viewer, "/dead-letters/702/reveal", "", "").await;
    assert!(
        status == 200 && shown_to_viewer.contains("&#60;script&#62;c-secret-4711"),
        "{shown_to_viewer}"
    );
    assert!(
        !shown_to_viewer.contains("Correct dead letter"),
        "{shown_to_viewer}"
    );
    assert_eq!(
        act(&viewer, "/dead-letters/702/discard", "junk", "")
            .await
            .0,
        403
    );
    assert_eq!(act(&kim, "/dead-letters/702/discard", " ", "").await.0, 400);
    let (status, page) = act(&kim, "/dead-letters/701/discard", "junk", "Winter").await;
    assert!(
        status == 400 && page.contains("name=\"why\" value=\"junk\""),
        "{status} {page}"
    );
    assert!(
        page.contains("not the coupon&#39;s name") && !page.contains("4711"),
        "{page}"
    );
    let open = "SELECT COUNT(*) FROM failed_claims WHERE id IN (701, 702) AND resolved_at IS NULL";
    assert_eq!(f.world.sql.query(open).await, [["2"]]);
    assert_eq!(
        act(&kim, "/dead-letters/701/discard", "junk", "Winter coupon")
            .await
            .0,
        303
    );
    assert_eq!(
        act(&kim, "/dead-letters/702/discard", "junk", "").await.0,
        303
    );
    assert_eq!(
        act(&kim, "/dead-letters/702/discard", "junk", "").await.0,
        409
    );
    assert_eq!(f.world.sql.query(open).await, [["0"]]);
    assert!(
        kim.text("/dead-letters?status=resolved")
            .await
            .contains("by_hand: junk (Kim)")
    );
    for path in ["/dead-letters/4711", "/dead-letters/x"] {
        assert_eq!(kim.get(path).await.status(), 404, "{path}");
    }
    let looks = "SELECT action, detail->>'$.dead_letter' FROM ops_actions WHERE operator = 'Lee'";
    assert_eq!(
        f.world.sql.query(looks).await,
        [["reveal", "702"]],
        "viewing is recorded as a look"
    );
    let acts = "SELECT action, from_addr, detail->>'$.dead_letter' FROM ops_actions WHERE operator = 'Kim' ORDER BY id";
    let said = |action, letter| [action, "127.0.0.1", letter];
    let expected = [
        said("reveal", "702"),
        said("discard_dead_letter", "701"),
        said("discard_dead_letter", "702"),
    ];
    assert_eq!(f.world.sql.query(acts).await, expected);
    assert_eq!(
        f.world
            .sql
            .number("SELECT COUNT(*) FROM ops_actions WHERE detail LIKE '%junk%'")
            .await,
        0
    );

    // If the user's coupon is known, a button leads to the story.
    assert!(!shown.contains("Show the story of"), "{shown}");
    let letter = format!(
        "(9703, {}, {}, 999, 'u-1', 'by_hand_probe')",
        coupon.id, coupon.drop
    );
    f.world
        .sql
        .query(&format!("INSERT INTO failed_claims (id, coupon_id, drop_id, slot, user_id, reason) VALUES {letter}"))
        .await;
    let (_, shown) = act(&kim, "/dead-letters/9703/reveal", "", "").await;
    assert!(
        shown.contains("Show the story of u-1") && shown.contains("action=\"/people\""),
        "{shown}"
    );
}
