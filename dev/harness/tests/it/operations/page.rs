//! The operations page for a client without a browser: log-in, sessions, permissions, forms, lists
//! and searches. `pages/from_mail.rs` tests the page in a browser.

use firstcome_harness::open_world;
use reqwest::Response;
use reqwest::header::ORIGIN;

use super::visitor::{
    FormReply, VIEW_TOKEN, Visitor, assert_has, assert_lacks, field, filled_in, header,
};
use crate::prelude::*;
use crate::uses::{Shop, codes, problem, used};

/// Checks that the content security policy allows only resources of the same origin, and nothing
/// inline.
fn assert_strict(answer: &Response, what: &str) {
    let policy = header(answer, "content-security-policy");
    let is_strict =
        policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe");
    assert!(is_strict, "{what}: {policy}");
}

#[tokio::test]
async fn a_valid_token_logs_in_and_visitors_without_one_see_nothing() {
    let (world, api) = open_world("ops-in").await;
    api.open_coupon(3).await;
    let daemon = world.daemon().await;
    let stranger = Visitor::at(&daemon);
    for path in ["/", "/alerts", "/runs?before=1"] {
        let bearer = stranger.request(Method::GET, path).bearer_auth(OPS_TOKEN);
        for answer in [stranger.get(path).await, bearer.send().await.unwrap()] {
            assert_strict(&answer, path);
            let page = FormReply::of(answer).await;
            assert!(
                page.status == 303 && page.location.starts_with("/login"),
                "{path}"
            );
            assert_lacks(&page.text, &["Winter"]);
        }
    }
    let refusals = [
        ("Kim", "wrong", 401),
        ("Kim", "", 401),
        (" ", OPS_TOKEN, 400),
    ];
    for (name, token, status) in refusals {
        let refused = stranger.log_in(name, token, "/").await;
        let found = (refused.status().as_u16(), header(&refused, "set-cookie"));
        assert_eq!(found, (status, ""), "{name:?} {token:?}");
    }
    for (next, path) in [
        ("/runs?before=1", "/runs?before=1"),
        ("//evil.example", "/"),
    ] {
        let answer = stranger.log_in("Kim", OPS_TOKEN, next).await;
        assert_eq!(header(&answer, "location"), path);
    }
    let form = [("name", "Kim"), ("token", OPS_TOKEN)];
    let foreign = stranger.request(Method::POST, "/login");
    let foreign = foreign.header(ORIGIN, "https://evil.example");
    let refused = filled_in(foreign, &form).send().await.unwrap();
    let found = (refused.status().as_u16(), header(&refused, "set-cookie"));
    assert_eq!(found, (403, ""));

    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    for path in ["/", "/alerts"] {
        let screen = kim.get(path).await;
        assert_eq!(screen.status(), 200, "{path}");
        assert_strict(&screen, path);
    }
    assert_has(&kim.text("/").await, &["Winter coupon"]);
    let api_status = kim.get("/v1/runs").await.status();
    assert_eq!(api_status, 401, "the cookie is only valid for the page");
    assert_eq!(kim.submit("/logout", &[]).await.status, 303);
    let status = kim.get("/").await.status();
    assert_eq!(
        status, 303,
        "the session has ended, whatever the browser keeps"
    );
}

#[tokio::test]
async fn a_change_needs_the_right_token_and_the_pages_origin_and_is_recorded() {
    let f = Fixture::new("ops-change").await;
    let (coupon, _) = f.held("Winter coupon", 20, 20).await;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = f.world.daemon().await;
    let mut drift = injector(&f.world, &coupon).await;
    let done = drift.make(Drift::FailedUnrepairable, 2).await.unwrap();
    let run = daemon.reconcile(&json!({})).await.run_id;
    let alert = "SELECT id FROM told WHERE open_name IS NOT NULL";
    let alert = eventually_some("the alert", Duration::from_secs(60), async || {
        let rows = f.world.sql.query(alert).await.concat();
        rows.concat().parse::<i64>()
    })
    .await;
    let acknowledge = format!("/alerts/{alert}/acknowledge");
    let (read, reveal) = (
        format!("/runs/{run}"),
        format!("/runs/{run}/reveal?after=0"),
    );
    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    assert_eq!(lee.post(&acknowledge, &lee.base).await, 403);
    for origin in ["https://evil.example", "null"] {
        for path in [&acknowledge, &reveal] {
            assert_eq!(kim.post(path, origin).await, 403, "{path}: {origin}");
        }
    }
    let stranger = Visitor::at(&daemon);
    assert_eq!(stranger.post(&acknowledge, &kim.base).await, 303);
    let acts = "SELECT action, operator, LENGTH(token), from_addr FROM ops_actions \
                WHERE action IN ('acknowledge', 'reveal') ORDER BY id";
    assert_eq!(f.world.sql.query(acts).await, Vec::<Vec<String>>::new());
    let page = lee.text("/alerts").await;
    assert_eq!(
        page.matches("</button>").count(),
        2,
        "viewers can only search and log out: {page}"
    );

    assert_eq!(kim.post(&acknowledge, &kim.base).await, 303);
    assert_has(&kim.text("/alerts").await, &["Taken on by Kim at "]);
    let person = done.people[0].user.as_str();
    // Viewers can also reveal user IDs, and their reveals are also recorded.
    for visitor in [&kim, &lee] {
        assert_lacks(&visitor.text(&read).await, &[person]);
        assert_has(&visitor.submit(&reveal, &[]).await.text, &[person]);
    }
    let recorded = [("acknowledge", "Kim"), ("reveal", "Kim"), ("reveal", "Lee")];
    let recorded = recorded.map(|(action, operator)| [action, operator, "8", "127.0.0.1"]);
    assert_eq!(f.world.sql.query(acts).await, recorded);
}

/// Redis shows two strangers on slots that others hold. The limit is one user.
async fn repairs_that_a_dry_run_has_shown_are_confirmed_on_its_screen(
    kim: &Visitor,
    f: &Fixture,
    coupon: &MadeCoupon,
) {
    let mut damage = injector(&f.world, coupon).await;
    damage.make(Drift::SlotConflict, 2).await.unwrap();
    let (id, drop) = (coupon.id.to_string(), coupon.drop.to_string());
    let dry_run = [("how", "dry_run"), ("coupon", &*id), ("drop", &*drop)];
    let begun = kim.submit("/pass", &dry_run).await;
    let run = begun.location;
    eventually("the dry run has ended", LIMIT, async || {
        kim.text(&run).await.contains("Confirm the repairs of")
    })
    .await;
    let plan = [("coupon", &*id), ("name", "Winter coupon")];
    let confirm = format!("{run}/confirm");
    let asked = kim.submit(&confirm, &plan).await;
    assert_has(&asked.text, &["Are you sure?", "lose the slot"]);
    let sure = [&plan[..], &[("sure", "1")]].concat();
    let confirmed = kim.submit(&confirm, &sure).await.location;
    eventually("the repairs are made", LIMIT, async || {
        kim.text(&confirmed).await.contains("repaired")
    })
    .await;
}

async fn giving_a_promise_up_asks_first(kim: &Visitor, coupon: &MadeCoupon) {
    let (id, drop) = (coupon.id.to_string(), coupon.drop.to_string());
    let person = &*people(1)[0];
    let promise = [("coupon", &*id), ("person", person), ("drop", &*drop)];
    let asked = kim.submit("/people/give-up", &promise).await;
    assert_has(&asked.text, &["Are you sure?", "can still go to them"]);
    let sure = [&promise[..], &[("sure", "1")]].concat();
    let refused = kim.submit("/people/give-up", &sure).await;
    assert_has(&refused.text, &["no broken promise in that drop"]);
}

async fn revoking_asks_first_and_shortens_the_list_of_winners(
    kim: &Visitor,
    coupon: &MadeCoupon,
    code: &str,
) {
    let winners = format!("/coupons/{}/winners.csv", coupon.id);
    let csv = kim.get(&winners).await;
    assert_has(header(&csv, "content-disposition"), &["winners.csv"]);
    assert_eq!(header(&csv, "cache-control"), "no-store", "it has codes");
    let holders = people(2);
    assert_has(&csv.text().await.unwrap(), &[&holders[0], &holders[1]]);
    let (id, drop) = (coupon.id.to_string(), coupon.drop.to_string());
    let revoke = [
        ("coupon", &*id),
        ("person", &*holders[0]),
        ("drop", &*drop),
        ("reason", "a script"),
    ];
    let asked = kim.submit("/people/revoke", &revoke).await;
    assert_has(&asked.text, &["Are you sure?", "may not claim again"]);
    assert_has(&kim.text(&winners).await, &[&holders[0]]);
    let revoked = [&revoke[..], &[("sure", "1")]].concat();
    let shown = kim.submit("/people/revoke", &revoked).await;
    assert_eq!(shown.status, 200);
    assert_has(&shown.text, &["Revoked.", "What happened", "a script"]);
    assert_lacks(&shown.text, &["of Winter coupon away from"]);
    assert_lacks(&kim.text(&winners).await, &[&holders[0]]);
    // Users and their mail programs change the case and the dashes of a code.
    let code = code.to_lowercase().replace('-', " – ");
    let found = kim.submit("/people", &[("person", &code)]).await;
    assert_has(
        &found.text,
        &["The coupon of this code was returned or revoked"],
    );
}

#[tokio::test]
async fn forms_of_a_coupon_ask_first_change_it_and_refuse_an_old_revision() {
    let f = Fixture::new("ops-forms").await;
    f.world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_PERCENT", "0");
    f.world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST", "1");
    let (coupon, _) = f.held("Winter coupon", 20, 2).await;
    let mut later = coupon_body("Later", 20, 0);
    later["schedule"]["opens_at"] = "2100-01-01T00:00:00Z".into();
    let later = f.api.create_coupon(&later).await.id;
    let mut daily = coupon_body("Daily", 20, 0);
    daily["schedule"] = json!({
        "type": "daily", "time_zone": "Asia/Seoul", "opens": "15:00", "closes": "18:00",
        "first_day": "2100-01-01",
    });
    let daily = f.api.create_coupon(&daily).await.id;
    let (sql, daemon) = (&f.world.sql, f.world.daemon().await);
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let change = |id: i64| format!("/coupons/{id}/change");
    let (now, later) = ((coupon.id, change(coupon.id)), (later, change(later)));
    let daily = (daily, change(daily));

    repairs_that_a_dry_run_has_shown_are_confirmed_on_its_screen(&kim, &f, &coupon).await;
    giving_a_promise_up_asks_first(&kim, &coupon).await;
    let holder = format!(
        "SELECT code FROM issued_coupons WHERE drop_id = {} AND user_id = '{}'",
        coupon.drop,
        people(1)[0]
    );
    let code = sql.query(&holder).await.concat().remove(0);
    revoking_asks_first_and_shortens_the_list_of_winners(&kim, &coupon, &code).await;
    let cancel = [("how", "cancel"), ("sure", "1")];
    let refused = kim.submit(&now.1, &cancel).await;
    assert_eq!(refused.status, 400, "an open drop is not cancelled");
    #[rustfmt::skip]
    let cases = [
        (&now, "pause", ("", ""), "Nobody can claim", "paused", "1"),
        (&now, "resume", ("", ""), "", "paused", "0"),
        (&now, "settings", ("quantity", "30"), "Quantity: 20 → 30", "d.quantity", "30"),
        (&now, "settings", ("name", "Winter"), "Winter coupon → Winter", "name", "Winter"),
        (&now, "settings", ("allow", "list"), "everybody → people on its allow list", "allow_rule", "list"),
        (&now, "settings", ("closes_at", "2101-01-01T00:00"), "never → 2101-01-01 00:00 UTC", "YEAR(closes_at)", "2101"),
        (&now, "settings", ("valid_days", "30"), "no such end → 30", "valid_days", "30"),
        (&now, "close", ("", ""), "closes now", "closed_early", "1"),
        (&later, "settings", ("opens_at", "2100-02-01T00:00"), "2100-02-01", "MONTH(opens_at)", "2"),
        (&later, "cancel", ("", ""), "never opens", "closed_early", "1"),
        (&daily, "settings", ("opens", "16:00"), "15:00 → 16:00", "HOUR(opens_at)", "7"),
        (&daily, "cancel", ("", ""), "never opens", "closed_early", "1"),
    ];
    for ((id, path), how, typed, question, column, value) in cases {
        let state = format!(
            "SELECT {column} FROM coupons c JOIN drops d ON d.coupon_id = c.id WHERE c.id = {id}"
        );
        let before = sql.query(&state).await;
        let page = kim.text(&format!("/coupons/{id}")).await;
        let revision = ("revision", field(&page, "revision"));
        let mut reply = kim.submit(path, &[("how", how), revision, typed]).await;
        if !question.is_empty() {
            assert_has(&reply.text, &["Are you sure?", question]);
            assert_eq!(sql.query(&state).await, before, "{how}");
            let sure = [("how", how), revision, typed, ("sure", "1")];
            reply = kim.submit(path, &sure).await;
        }
        assert_eq!(reply.status, 303, "{how}: {}", reply.text);
        // The page confirms the change.
        let done = kim.text(&reply.location).await;
        assert_has(&done, &["<p class=\"done\" role=\"status\">Done: "]);
        assert_eq!(sql.query(&state).await, [[value]], "{how}");
        let stale = [
            ("how", "settings"),
            ("name", "Other"),
            revision,
            ("sure", "1"),
        ];
        assert_eq!(kim.submit(path, &stale).await.status, 412, "{how}");
    }
    // The form keeps what was typed, and shows the reason and the coupon.
    let settings = ("how", "settings");
    for (typed, says, kept) in [
        (
            [("closes_at", "2020-01-01T00:00"), ("name", "Winter")],
            "“Closes at” is in the past",
            "value=\"2020-01-01T00:00\"",
        ),
        (
            [("allow", "group"), ("group", "v i p")],
            "name of a group",
            "value=\"v i p\"",
        ),
        (
            [("quantity", "0"), ("waiting_list", "0")],
            "from 1 to 10,000,000",
            "name=\"quantity\" value=\"0\"",
        ),
        (
            [("quantity", "30"), ("name", "Winter")],
            "The form has the present settings",
            "name=\"quantity\" value=\"30\"",
        ),
        (
            [("valid_days", "7"), ("valid_until", "2102-01-01T00:00")],
            "for the other",
            "value=\"2102-01-01T00:00\"",
        ),
    ] {
        let typed = [settings, typed[0], typed[1], ("sure", "1")];
        let refused = kim.submit(&now.1, &typed).await;
        assert_has(&refused.text, &[says, kept, "What operators did"]);
    }
    let again = [("how", "close"), ("sure", "1")];
    let refused = kim.submit(&now.1, &again).await;
    assert_has(&refused.text, &["This is not possible now"]);
    assert_lacks(&refused.text, &["value=\"pause\""]);
    for (id, _) in [later, daily] {
        let page = kim.text(&format!("/coupons/{id}")).await;
        assert_eq!(
            page.matches("cancelled: it never opens").count(),
            3,
            "{page}"
        );
        assert_lacks(&page, &["Change it", "value=\"pause\""]);
        let claim = f.api.claim(id, "u-1").await;
        assert_eq!(claim, Answer::Problem(410, "closed".to_owned()));
    }
}

/// No other list of the page has coupons that are over.
#[tokio::test]
async fn the_list_of_coupons_has_pages_with_closed_ones_and_a_search_shows_the_newest() {
    let f = Fixture::new("ops-pages").await;
    let numbers = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 51)";
    for insert in [
        format!(
            "coupons (id, name, quantity, once_per) {numbers} SELECT n, 'Winter coupon', 5, 'drop' FROM n"
        ),
        "drops (id, coupon_id, opens_at, closes_at, quantity) \
         SELECT id, id, '2026-01-01', '2026-01-02', 5 FROM coupons"
            .to_owned(),
    ] {
        f.world.sql.query(&format!("INSERT INTO {insert}")).await;
    }
    let name = |id: u32| format!("coupon {id}<");
    let daemon = f.world.daemon().await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let next = "/coupons?after=50";
    let first = eventually_some("the API knows the coupons", LIMIT, async || {
        let first = kim.text("/coupons").await;
        if first.contains(next) {
            return Ok(first);
        }
        Err(first)
    })
    .await;
    assert_has(&first, &[&name(1), &name(50)]);
    assert_lacks(&first, &[&name(51)]);
    let second = kim.text(next).await;
    assert_has(&second, &[&name(51)]);
    assert_lacks(&second, &[&name(50), "More coupons"]);
    let found = kim.submit("/people", &[("person", "inter coup")]).await;
    let more = "These are the newest 50. There are older ones";
    assert_has(&found.text, &[&name(51), &name(2), more]);
    assert_lacks(&found.text, &[&name(1)]);
}

#[tokio::test]
async fn search_finds_coupons_and_rows_while_redis_is_away() {
    let f = Fixture::new("ops-search").await;
    let (coupon, _) = f.held("Winter coupon", 5, 1).await;
    let redis = &Stack::shared().await.unwrap().redis;
    let proxy = redis.proxy().await.unwrap();
    f.world.set("REDIS_URL", &redis.url_via(&proxy));
    f.world.set("API_URL", "");
    let daemon = f.world.daemon().await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let code = codes(&f.world, coupon.drop).await.remove(0);
    let found = kim.submit("/people", &[("person", &code)]).await;
    assert_has(&found.text, &["set API_URL"]);
    proxy.set(ProxyFault::Cut).await.unwrap();
    let found = kim.submit("/people", &[("person", "Winter")]).await;
    assert_eq!(found.location, format!("/coupons/{}", coupon.id));
    let found = kim.submit("/people", &[("person", "nobody-4711")]).await;
    assert_has(&found.text, &["fresh claims are not known now"]);
    let path = format!("/v1/people?user_id={}", people(1)[0]);
    let found = daemon.get(&path).await.body;
    assert_eq!(
        (&found["coupons"][0]["id"], &found["redis_answered"]),
        (&json!(coupon.id), &json!(false))
    );
}

#[tokio::test]
async fn dead_letters_an_allow_list_and_the_use_of_a_code_are_changed_by_forms() {
    let world = World::new("ops-more-forms").await;
    world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let f = Fixture::of(world).await;
    let daemon = f.world.daemon().await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    a_dead_letter_is_shown_once_its_reveal_is_recorded_and_discarded_with_a_reason(&kim, &f.world)
        .await;
    an_allow_list_is_pasted_and_a_removed_closing_time_is_in_the_history(&kim, &f).await;
    a_code_is_found_with_its_orders_and_its_use_is_undone_with_a_reason(&kim, &lee, &f).await;
}

async fn a_dead_letter_is_shown_once_its_reveal_is_recorded_and_discarded_with_a_reason(
    kim: &Visitor,
    world: &World,
) {
    let columns = "(id, coupon_id, drop_id, slot, user_id, payload, reason)";
    let row = "(801, NULL, NULL, 7, 'u-lost', 'as sent', 'junk')";
    world
        .sql
        .query(&format!("INSERT INTO failed_claims {columns} VALUES {row}"))
        .await;
    let letter = "/dead-letters/801";
    assert_lacks(&kim.text(letter).await, &["u-lost", "as sent"]);
    let revealed = kim.submit("/dead-letters/801/reveal", &[]).await;
    assert_has(
        &revealed.text,
        &["u-lost", "as sent", "Correct dead letter"],
    );
    let discard = "/dead-letters/801/discard";
    let asked = kim.submit(discard, &[("why", "a script")]).await;
    assert_has(&asked.text, &["Are you sure?", "the promise is forgotten"]);
    let sure = [("why", "a script"), ("sure", "1")];
    assert_eq!(kim.submit(discard, &sure).await.location, letter);
    assert_has(&kim.text(letter).await, &["Dealt with ", "a script (Kim)"]);
    assert_has(&kim.text("/dead-letters").await, &["There is none."]);
    let resolved = kim.text("/dead-letters?resolved=true").await;
    assert_has(&resolved, &["dead-letters/801"]);
}

async fn an_allow_list_is_pasted_and_a_removed_closing_time_is_in_the_history(
    kim: &Visitor,
    f: &Fixture,
) {
    let coupon = f.api.open_coupon(5).await;
    let page = format!("/coupons/{}", coupon.id);
    let (list, change) = (format!("{page}/allow-list"), format!("{page}/change"));
    // IDs of the length of UUIDs. The form is longer than axum's default limit.
    let mut many: Vec<String> = (0..25_000).map(|n| format!("user-{n:0>31}\r\n")).collect();
    for n in [7, 8] {
        many[n] = format!("user-{n}\r\n");
    }
    let many = many.concat();
    let added = [("how", "add"), ("people", many.as_str())];
    assert_eq!(kim.submit(&list, &added).await.status, 303);
    assert_has(&kim.text(&page).await, &["<dd>25,000</dd>"]);
    let removed = [("how", "remove"), ("people", "user-7\n\nuser-8")];
    let asked = kim.submit(&list, &removed).await;
    assert_has(&asked.text, &["Are you sure?", "users of 2 lines"]);
    assert_has(&kim.text(&page).await, &["<dd>25,000</dd>"]);
    let removed = [&removed[..], &[("sure", "1")]].concat();
    let done = kim.submit(&list, &removed).await.location;
    let says = [
        "<dd>24,998</dd>",
        "Done: allow list: people: 24,998, removed: 2.",
    ];
    assert_has(&kim.text(&done).await, &says);
    let refused = kim.submit(&list, &removed).await;
    assert_has(&refused.text, &["nobody was added or removed"]);
    let wrong = [("how", "add"), ("people", "user 8")];
    let refused = kim.submit(&list, &wrong).await;
    assert_has(&refused.text, &["Line 1", "user 8</textarea>"]);

    let end = ("closes_at", "2101-01-01T00:00");
    let until = [("how", "settings"), end, ("sure", "1")];
    assert_eq!(kim.submit(&change, &until).await.status, 303);
    let never = [("how", "settings"), ("closes_at", ""), ("sure", "1")];
    assert_eq!(kim.submit(&change, &never).await.status, 303);
    let removed = "Closes at: 2101-01-01 00:00 UTC → never";
    assert_has(&kim.text(&page).await, &[removed]);
    // Mails give the IDs of drops, so a search for one leads to its coupon.
    let found = [("person", coupon.drop.to_string())];
    let found = kim.submit("/people", &[(found[0].0, &found[0].1)]).await;
    assert_eq!(found.location, page);
}

async fn a_code_is_found_with_its_orders_and_its_use_is_undone_with_a_reason(
    kim: &Visitor,
    lee: &Visitor,
    f: &Fixture,
) {
    let (coupon, _) = f.held("Winter coupon", 5, 1).await;
    let code = codes(&f.world, coupon.drop).await.remove(0);
    let shop = Shop::of(&f.world, f.api.http());
    let search = [("person", &*code)];
    let found = kim.submit("/people", &search).await;
    let place = format!("Slot 1 of drop {}", coupon.drop);
    let whose = format!("Story of {}", people(1)[0]);
    assert_has(&found.text, &[&place, &whose, "<dt>Used</dt><dd>–</dd>"]);

    assert_eq!(shop.use_code(&code, "order-1").await, used());
    let seen = lee.submit("/people", &search).await;
    assert_has(&seen.text, &["order-1"]);
    assert_lacks(&seen.text, &["<dt>Used</dt><dd>–</dd>"]);
    assert_lacks(&seen.text, &["Undo the use"]);
    let undo = [
        ("code", &*code),
        ("reference", "order-1"),
        ("reason", "cancelled by phone"),
    ];
    let asked = kim.submit("/codes/undo", &undo).await;
    assert_has(
        &asked.text,
        &["Are you sure?", "Order order-1 loses the code"],
    );
    assert_eq!(shop.use_code(&code, "order-2").await, problem("used"));
    let sure = [&undo[..], &[("sure", "1")]].concat();
    assert_eq!(lee.submit("/codes/undo", &sure).await.status, 403);
    let shown = kim.submit("/codes/undo", &sure).await;
    assert_eq!(shown.status, 200);
    let says = ["Undone.", "<dt>Used</dt><dd>–</dd>", "order-1"];
    assert_has(&shown.text, &says);
    assert_eq!(shop.use_code(&code, "order-1").await, problem("undone"));
    assert_eq!(shop.use_code(&code, "order-2").await, used());
    let acts = "SELECT operator, detail->>'$.reason' FROM ops_actions WHERE action = 'undo_use'";
    let acts = f.world.sql.query(acts).await;
    assert_eq!(acts, [["Kim", "cancelled by phone"]]);

    let nobodys = code.replace(|c: char| c.is_ascii_uppercase(), "0");
    let nothing = kim.submit("/people", &[("person", &*nobodys)]).await;
    assert_has(&nothing.text, &["No coupon has this number, name or code"]);
}
