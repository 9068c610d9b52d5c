//! The operations page for a client without a browser: log-in, sessions and permissions.
//! `pages/operations.rs` tests it in a browser.

use firstcome_stack::ProxyFault;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Fixture, Http, LIMIT, OPS_TOKEN, ReconcilerClient, Running, eventually, open_world, shared,
};
use reqwest::header::ORIGIN;
use reqwest::{Method, Response};
use serde_json::json;

use super::visitor::{FormReply, VIEW_TOKEN, Visitor, assert_has, assert_lacks, filled_in, header};
use crate::drift::support::injector;

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
    let run = "/runs/0193a1f2-7c00-7d31-8000-0000000000a1";
    for path in ["/", "/?page=2", "/live", "/alerts", "/runs?before=1", run] {
        let bearer = stranger.request(Method::GET, path).bearer_auth(OPS_TOKEN);
        for answer in [stranger.get(path).await, bearer.send().await.unwrap()] {
            assert_strict(&answer, path);
            let page = FormReply::of(answer).await;
            assert_eq!(page.status, 303, "{path}");
            assert!(page.location.starts_with("/login"), "{path}");
            assert_lacks(&page.text, &["Winter"]);
        }
    }
    let answer = stranger.get("/runs?before=1").await;
    let login = "/login?next=%2Fruns%3Fbefore%3D1";
    assert_eq!(header(&answer, "location"), login);
    let form = stranger.get("/login").await;
    let cache = header(&form, "cache-control");
    assert_eq!((form.status().as_u16(), cache), (200, "no-store"));

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
        ("https://evil.example", "/"),
    ] {
        let answer = stranger.log_in("Kim", OPS_TOKEN, next).await;
        assert_eq!(header(&answer, "location"), path);
    }
    let form = [("name", "Kim"), ("token", OPS_TOKEN)];
    let login = || stranger.request(Method::POST, "/login");
    let foreign = login().header(ORIGIN, "https://evil.example");
    for request in [foreign, login()] {
        let refused = filled_in(request, &form).send().await.unwrap();
        let found = (refused.status().as_u16(), header(&refused, "set-cookie"));
        assert_eq!(found, (403, ""));
        assert_strict(&refused, "a refusal");
    }

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

    let runs = Http::send(daemon.http().ops(Method::GET, "/v1/runs")).await;
    assert_eq!(runs.status, 200);
}

#[tokio::test]
async fn a_session_is_accepted_by_every_process_until_it_ends() {
    let (world, api) = open_world("ops-replicas").await;
    api.open_coupon(3).await;
    let other_token = "another-0123456789abcdef0123456789abcdef";
    let both = format!("{other_token},{OPS_TOKEN}");
    let redis = &shared().await.redis;
    let proxy = redis.proxy().await.unwrap();
    let url = redis.url_via(&proxy);
    let both = [
        ("OPS_TOKEN", both.as_str()),
        ("REDIS_URL", &url),
        ("STORE_TIMEOUT_MS", "500"),
    ];
    let other = [("OPS_TOKEN", other_token)];
    let (first, in_rotation, without) = tokio::join!(
        world.daemon(),
        world.daemon_with(&both),
        world.daemon_with(&other)
    );
    let kim = Visitor::logged_in(&first, "Kim", OPS_TOKEN).await;
    let csrf = kim.csrf().await;
    // Simulates a restart: the process's memory is lost.
    first.process.kill().await;
    let again = world.daemon().await;
    let status = async |daemon: &Running<ReconcilerClient>| {
        let there = kim.moved_to(daemon.http().base());
        there.get("/").await.status().as_u16()
    };
    assert_eq!(status(&again).await, 200);
    assert_eq!(status(&in_rotation).await, 200);
    assert_eq!(status(&without).await, 303, "its token was withdrawn");

    // A silent Redis logs nobody out, and log-out reports the step that failed.
    let there = kim.moved_to(in_rotation.http().base());
    proxy.set(ProxyFault::BlackHole).await.unwrap();
    assert_has(&there.text("/").await, &["Kim"]);
    let log_out = there.post("/logout", &there.base, &csrf).await;
    assert_eq!(log_out, 503, "only in that browser");
    assert_eq!(status(&again).await, 200);
    proxy.set(ProxyFault::Pass).await.unwrap();

    let here = kim.moved_to(again.http().base());
    let log_out = here.post("/logout", &here.base, &csrf).await;
    assert_eq!(log_out, 303, "with a form of the stopped process");
    eventually("the session has ended everywhere", LIMIT, async || {
        (status(&again).await, status(&in_rotation).await) == (303, 303)
    })
    .await;
}

#[tokio::test]
async fn a_change_needs_the_right_token_and_the_pages_form_and_is_recorded() {
    let f = Fixture::new("ops-change").await;
    let (coupon, _) = f.held("Winter coupon", 20, 20).await;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    // The drift is injected after the daemon's first passes. They would repair it.
    let daemon = f.world.daemon().await;
    let mut drift = injector(&f.world, &coupon).await;
    let done = drift.make(Drift::FailedUnrepairable, 2).await.unwrap();
    let run = daemon.reconcile(&json!({})).await.run_id;
    let firing = "SELECT id FROM alerts WHERE status = 'firing'";
    let alert = f.world.sql.number(firing).await;
    let acknowledge = format!("/alerts/{alert}/acknowledge");
    let read = format!("/runs/{run}");
    let reveal = format!("/runs/{run}/reveal?after=0");
    let acts = "SELECT action, operator, LENGTH(token), from_addr FROM ops_actions \
                WHERE action NOT IN ('create_coupon', 'reconcile') ORDER BY id";

    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let of_lee = lee.csrf().await;
    let of_kim = kim.csrf().await;
    for path in [&acknowledge, &reveal] {
        if *path != reveal {
            let status = lee.post(path, &lee.base, &of_lee).await;
            assert_eq!(status, 403, "{path}: for viewers");
        }
        for (origin, csrf, whose) in [
            ("https://evil.example", of_kim.as_str(), "another site"),
            ("null", &of_kim, "no site"),
            (&kim.base, &of_lee, "another session's form"),
            (&kim.base, "", "no form"),
        ] {
            assert_eq!(kim.post(path, origin, csrf).await, 403, "{path}: {whose}");
        }
        let status = Visitor::at(&daemon).post(path, &kim.base, &of_kim).await;
        assert_eq!(status, 303, "{path}: without a session");
    }
    assert_eq!(f.world.sql.query(acts).await, Vec::<Vec<String>>::new());
    for path in ["/alerts", &read] {
        let page = lee.text(path).await;
        assert_has(&page, &["Winter coupon"]);
        assert_lacks(&page, &[&acknowledge]);
    }
    for path in ["/", "/alerts", "/runs"] {
        let page = lee.text(path).await;
        let buttons = page.matches("</button>").count();
        assert_eq!(buttons, 1, "viewers can only log out at {path}: {page}");
    }

    assert_eq!(kim.post(&acknowledge, &kim.base, &of_kim).await, 303);
    let done_page = format!("/alerts?done=acknowledged&alert={alert}");
    let page = kim.text(&done_page).await;
    assert_has(&page, &["Acknowledged by Kim."]);
    assert_lacks(&page, &[&acknowledge]);
    let drop = coupon.drop;
    let shown = [
        "Taken on by Kim at ",
        &format!("href=\"/coupons/{}/drops/{drop}\"", coupon.id),
    ];
    assert_has(&kim.text("/alerts").await, &shown);
    let runs = kim.text("/runs").await;
    assert_has(&runs, &["Run a pass over the 1 live drop"]);
    let person = done.people[0].user.as_str();
    assert_lacks(&kim.text(&read).await, &[person]);
    let revealed = kim.submit(&reveal, &[]).await.text;
    assert_has(&revealed, &[&format!("Story of {person}")]);
    let recorded = |action: &str, operator: &str| {
        [action, operator, "8", "127.0.0.1"]
            .map(str::to_owned)
            .to_vec()
    };
    let mut all = ["acknowledge", "reveal"]
        .map(|action| recorded(action, "Kim"))
        .to_vec();
    assert_eq!(f.world.sql.query(acts).await, all);
    // Viewers can also reveal everything, and their reveals are also recorded.
    assert_lacks(&lee.text(&read).await, &[person]);
    assert_eq!(lee.post(&reveal, &lee.base, &of_lee).await, 200);
    all.push(recorded("reveal", "Lee"));
    assert_eq!(f.world.sql.query(acts).await, all);
    let missing = kim.submit("/alerts/4711/acknowledge", &[]).await;
    assert_eq!(missing.status, 404);
    assert_has(&missing.text, &["<a href=\"/runs\""]);
    let icon = Visitor::at(&daemon).get("/favicon.ico").await;
    assert!(header(&icon, "location").starts_with("/assets/ops-"));
}

#[tokio::test]
async fn every_change_by_a_viewer_is_refused() {
    let (world, api) = open_world("ops-views").await;
    let coupon = api.open_coupon(3).await;
    world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = world.daemon_with(&[("API_URL", api.http().base())]).await;
    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let drop = format!("/coupons/{}/drops/{}", coupon.id, coupon.drop);
    for path in [
        "/alerts/1/acknowledge",
        "/dead-letters/1/correct",
        "/dead-letters/1/discard",
        &format!("/coupons/{}/change", coupon.id),
        "/coupons/new",
        "/people/erase",
        "/people/give-up",
        "/people/revoke",
        "/pass",
        &format!("{drop}/pass"),
    ] {
        let refused = lee.submit(path, &[]).await;
        assert_eq!(refused.status, 403, "{path}");
        let why = "You are logged in with the OPS_VIEW_TOKEN";
        assert_has(&refused.text, &[why]);
    }
    let acts = "SELECT COUNT(*) FROM ops_actions WHERE operator = 'Lee'";
    assert_eq!(world.sql.number(acts).await, 0);
}
