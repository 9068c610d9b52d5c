//! Passes and changes of coupons on the operations page.

use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Fixture, LIMIT, OPS_TOKEN, eventually_some, open_world};

use super::visitor::{Visitor, assert_has, assert_lacks, field};
use crate::drift::support::{assert_settled, injector};

#[tokio::test]
async fn the_page_runs_passes_and_asks_before_held_back_repairs_are_confirmed() {
    let f = Fixture::new("ops-confirm").await;
    f.world.set("API_URL", "");
    let (coupon, answers) = f.held("Winter coupon", 30, 20).await;
    f.world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_PERCENT", "0");
    f.world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST", "1");
    let daemon = f.world.daemon().await;
    let mut drift = injector(&f.world, &coupon).await;
    // Three strangers on held slots. They would lose them.
    drift.make(Drift::SlotConflict, 3).await.unwrap();
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let place = format!("/coupons/{}/drops/{}", coupon.id, coupon.drop);
    let pass = format!("{place}/pass");
    // Waits for a running pass first.
    let ask = async |path: &str, [how, held, sure]: [&str; 3]| {
        let form = [("how", how), ("held", held), ("sure", sure)];
        eventually_some("no other pass runs", LIMIT, async || {
            let reply = kim.submit(path, &form).await;
            if reply.status == 409 && reply.text.contains("is running") {
                Err(reply.text)
            } else {
                Ok(reply)
            }
        })
        .await
    };
    let ended = async |run: &str, result: &str| {
        kim.until(run, |page| {
            page.contains(result) && !page.contains("data-running")
        })
        .await;
    };
    let asked = ask(&pass, ["dry_run", "", ""]).await;
    assert_eq!(asked.status, 303);
    ended(&asked.location, "would: write to Redis again").await;
    let asked = ask("/pass", ["pass", "", ""]).await;
    assert_eq!(asked.status, 303);
    ended(&asked.location, "held back").await;
    // The alert is written after the pass has ended.
    kim.until(&place, |page| page.contains("Confirm 3 repairs of drop"))
        .await;
    let of_coupon = kim.text(&format!("/coupons/{}", coupon.id)).await;
    let hint = "set <code>API_URL</code> for the reconciler";
    assert_has(&of_coupon, &[hint]);
    assert_lacks(&of_coupon, &["/change"]);
    assert_eq!(ask(&pass, ["everything", "3", "1"]).await.status, 400);
    // The form shows a number of repairs that is out of date.
    let refused = ask(&pass, ["confirm", "2", "1"]).await;
    assert_eq!(refused.status, 409);
    assert_has(&refused.text, &["number of held-back repairs has changed"]);
    let question = ask(&pass, ["confirm", "3", ""]).await;
    assert_eq!(question.status, 200);
    assert_has(
        &question.text,
        &["Are you sure?", "3 repairs of Winter coupon"],
    );
    let asked = ask(&pass, ["confirm", "3", "1"]).await;
    assert_eq!(asked.status, 303);
    ended(&asked.location, "repaired").await;
    kim.until(&place, |page| !page.contains("Confirm ")).await;
    // The strangers got free slots.
    assert_settled(&f.world, &coupon, 30, 23, &answers).await;
    let acts = "SELECT operator, from_addr, detail->>'$.dry_run', detail->>'$.confirm', \
                detail->>'$.run_id' IN (SELECT id FROM reconcile_runs) FROM ops_actions \
                WHERE action = 'reconcile' AND operator IS NOT NULL ORDER BY id";
    let recorded = |dry_run, confirm| ["Kim", "127.0.0.1", dry_run, confirm, "1"];
    let expected = [
        recorded("true", "false"),
        recorded("false", "false"),
        recorded("false", "true"),
    ];
    assert_eq!(f.world.sql.query(acts).await, expected);
}

#[tokio::test]
async fn the_page_changes_coupons_and_revokes_after_one_question_and_shows_who_did_it() {
    let f = Fixture::new("ops-changes").await;
    let sql = &f.world.sql;
    let (coupon, _) = f.held("Winter coupon", 20, 3).await;
    let api_url = [("API_URL", f.api.http().base())];
    let daemon = f.world.daemon_with(&api_url).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let id = coupon.id.to_string();
    let drop = coupon.drop.to_string();
    let place = format!("/coupons/{id}");
    let change = async |how: &str, field: [&str; 2], sure: &str| {
        let form = [("how", how), (field[0], field[1]), ("sure", sure)];
        kim.submit(&format!("{place}/change"), &form).await
    };
    let revoke = async |person: &str, reason: &str, sure: &str| {
        let form = [
            ("coupon", id.as_str()),
            ("drop", &drop),
            ("person", person),
            ("reason", reason),
            ("sure", sure),
        ];
        kim.submit("/people/revoke", &form).await
    };
    let story = async || {
        let form = [("coupon", id.as_str()), ("person", "u-2")];
        kim.submit("/people", &form).await.text
    };
    let none = ["quantity", ""];
    // Without an answer to the question, nothing changes.
    for (how, field, says) in [
        ("pause", none, "Nobody can claim Winter coupon"),
        ("quantity", ["quantity", "30"], "20 → 30"),
        ("name", ["name", "Spring"], "is called Spring"),
        ("close", none, "can&#39;t be undone"),
    ] {
        let question = change(how, field, "").await;
        assert_eq!(question.status, 200, "{how}");
        assert_has(&question.text, &["Are you sure?", says]);
    }
    assert_eq!(revoke("u-2", "bought by a script", "").await.status, 200);
    assert_eq!(revoke("u-2", " ", "1").await.status, 400);
    for (how, field) in [("quantity", ["quantity", "many"]), ("all", none)] {
        let refused = change(how, field, "1").await;
        assert_eq!(refused.status, 400, "{how}");
        assert_has(&refused.text, &["Nothing was done.", "<a href=\"/runs\""]);
    }
    let state = "SELECT name, paused, quantity, waiting_list, (SELECT COUNT(*) FROM issued_coupons) FROM coupons";
    assert_eq!(
        sql.query(state).await,
        [["Winter coupon", "0", "20", "0", "3"]]
    );

    let done = async |what: &str| kim.text(&format!("{place}?done={what}")).await;
    assert_eq!(change("pause", none, "1").await.status, 303);
    let page = done("paused").await;
    assert_has(&page, &["Resume coupon", "Paused. Nobody can claim"]);
    assert_lacks(&page, &["API_URL</code> for"]);
    // The parameter in the URL alone does not make the page report a resumed coupon.
    assert_lacks(&done("resumed").await, &["Resumed."]);
    for (how, field) in [
        ("resume", none),
        ("quantity", ["quantity", "30"]),
        ("name", ["name", "Spring coupon"]),
        ("waiting_list", ["waiting_list", "5"]),
    ] {
        assert_eq!(change(how, field, "1").await.status, 303, "{how}");
    }
    // The API refuses less than was given out, and says so.
    let refused = change("quantity", ["quantity", "2"], "1").await;
    assert_eq!(refused.status, 409);
    assert_has(&refused.text, &["The API refused: "]);
    let slot = "SELECT slot FROM issued_coupons WHERE user_id = 'u-2'";
    let slot = sql.number(slot).await;
    let button = format!(">Revoke slot {slot} of drop {drop} from 1 person</button>");
    assert_has(&story().await, &[&button]);
    // The form redirects, so that a reload does not revoke again. The URL contains no user ID.
    let revoked = revoke("u-2", "bought by a script", "1").await;
    assert_eq!(revoked.status, 303);
    assert_eq!(revoked.location, "/people?done=revoked");
    let page = kim.text("/people?done=revoked").await;
    assert_has(&page, &["Revoked. Search for them again to see it."]);
    assert_lacks(&page, &["u-2"]);
    assert_lacks(&kim.text("/people?done=%3Cb%3E").await, &["%3Cb"]);
    assert_has(&story().await, &["revoked"]);
    assert_eq!(
        sql.query(state).await,
        [["Spring coupon", "0", "30", "5", "2"]]
    );
    let refused = revoke("u-99", "bought by a script", "1").await;
    assert_eq!(refused.status, 404);
    assert_has(&refused.text, &["The API refused: "]);

    let holders = kim.text(&format!("{place}/winners.csv")).await;
    assert_eq!(
        holders.lines().count(),
        3,
        "a head and two holders: {holders}"
    );
    // The API records the operator by the name and the token of the session.
    let acts = "SELECT action, operator, LENGTH(token) FROM ops_actions WHERE operator = 'Kim' \
                AND action IN ('change_coupon', 'revoke') ORDER BY id";
    let change = ["change_coupon", "Kim", "8"];
    let revoke = ["revoke", "Kim", "8"];
    let expected = [change, change, change, change, change, revoke];
    assert_eq!(sql.query(acts).await, expected);
    let page = kim.text(&place).await;
    assert_has(&page, &["What operators did", "data-label=\"Who\">Kim<"]);
    assert_eq!(change_closes(&kim, &place).await, 303);
    let closed = "SELECT closes_at <= UTC_TIMESTAMP(3) FROM drops";
    assert_eq!(sql.query(closed).await, [["1"]]);
}

async fn change_closes(kim: &Visitor, place: &str) -> u16 {
    let form = [("how", "close"), ("sure", "1")];
    kim.submit(&format!("{place}/change"), &form).await.status
}

#[tokio::test]
async fn the_form_creates_a_coupon_once_after_showing_its_openings() {
    let (world, api) = open_world("ops-new").await;
    let sql = &world.sql;
    let daemon = world.daemon_with(&[("API_URL", api.http().base())]).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let page = kim.text("/coupons/new").await;
    assert_has(&page, &["Show the next openings"]);
    let daily = [
        ("name", "Winter"),
        ("quantity", "500"),
        ("once_per", "drop"),
        ("waiting_list", "10"),
        ("repeats", "daily"),
        ("time_zone", "Asia/Seoul"),
        ("first_day", "2130-12-01"),
        ("last_day", ""),
        ("opens", "15:00"),
        ("closes", "18:00"),
    ];
    // Previews this form with some fields replaced.
    let preview = async |form: &[(&str, &str)], typed: &[(&str, &str)]| {
        let pair = |(name, was): &(&str, &str)| {
            let other = typed.iter().find(|(other, _)| other == name);
            format!("{name}={}", other.map_or(*was, |(_, value)| *value))
        };
        let query: Vec<String> = form.iter().map(pair).collect();
        let path = format!("/coupons/new?{}", query.join("&").replace('/', "%2F"));
        let answer = kim.get(&path.replace(':', "%3A")).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (_, openings) = preview(&daily, &[]).await;
    let shown = ["Fri 2130-12-01 15:00 +09:00", "2130-12-01 06:00"];
    assert_has(&openings, &shown);
    let begun = [
        ("first_day", "2020-12-01"),
        ("opens", "00:00"),
        ("closes", "23:59"),
    ];
    assert_has(&preview(&daily, &begun).await.1, &["opens at once"]);
    let (status, page) = preview(&daily, &[("time_zone", "Asia/Seul")]).await;
    assert_eq!(status, 400);
    assert_has(&page, &["did you mean Asia/Seoul?"]);

    let key = [("key", field(&openings, "key"))];
    let form = [&daily[..], &key].concat();
    let [first, second] = [
        kim.submit("/coupons/new", &form).await,
        kim.submit("/coupons/new", &form).await,
    ];
    assert_eq!((first.status, second.status), (303, 303));
    assert_eq!(first.location, second.location, "a double click");
    let made = [
        "Made.",
        "daily from 15:00 to 18:00, time of Asia/Seoul, from 2130-12-01 on, without an end",
        "2130-12-01 15:00 to 18:00 Asia/Seoul (06:00 to 09:00 UTC)",
        "<dd>one each day</dd>",
        "/c/",
    ];
    assert_has(&kim.text(&first.location).await, &made);
    let coupons = "SELECT COUNT(*), MIN(quantity) FROM coupons";
    assert_eq!(sql.query(coupons).await, [["1", "500"]]);

    let endless = [
        ("name", "Endless"),
        ("quantity", "5"),
        ("waiting_list", "0"),
        ("repeats", "once"),
        ("time_zone", "Asia/Seoul"),
        ("first_day", "2020-12-01"),
        ("last_day", ""),
        ("opens", "15:00"),
        ("closes", ""),
    ];
    let (_, page) = preview(&endless, &[]).await;
    assert_has(&page, &["stays open", "opens at once"]);
    let form = [&endless[..], &[("key", "endless")]].concat();
    assert_eq!(kim.submit("/coupons/new", &form).await.status, 303);
    let window = "SELECT d.opens_at, d.closes_at FROM drops d JOIN coupons c ON c.id = d.coupon_id WHERE c.name = 'Endless'";
    let expected = [["2020-12-01 06:00:00.000", "NULL"]];
    assert_eq!(sql.query(window).await, expected);
}
