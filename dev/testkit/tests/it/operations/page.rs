//! The operations page for a client without a browser: log-in, refusals, and the first screen. In a
//! browser: `pages/operations.rs`.

use firstcome_stack::ProxyFault;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Fixture, Http, LIMIT, OPS_TOKEN, ReconcilerClient, Running, eventually, eventually_some,
    open_world, shared,
};
use reqwest::header::{CONTENT_TYPE, COOKIE, LOCATION, ORIGIN, SET_COOKIE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::json;

use crate::drift::support::injector;

pub(super) const VIEW_TOKEN: &str = "only-looks-0123456789abcdef0123456789abc";

/// A visitor of the page, represented by the requests of their browser.
pub(super) struct Visitor {
    client: Client,
    pub(super) base: String,
    cookie: String,
    forwarded_for: String,
}

/// The credentials of a person, and the address of the pages.
pub(super) struct Login<'a> {
    pub(super) base: &'a str,
    pub(super) name: &'a str,
    pub(super) token: &'a str,
    /// The value of `X-Forwarded-For`; empty: no proxy forwards the request.
    pub(super) forwarded_for: &'a str,
}

impl Visitor {
    fn at(daemon: &Running<ReconcilerClient>) -> Self {
        Self::at_address(daemon.http().base())
    }

    fn at_address(base: &str) -> Self {
        // A new connection for each request, so that each reaches the current process.
        let client = Client::builder()
            .redirect(Policy::none())
            .pool_max_idle_per_host(0)
            .no_proxy()
            .build()
            .unwrap();
        Self {
            client,
            base: base.to_owned(),
            cookie: String::new(),
            forwarded_for: String::new(),
        }
    }

    /// This browser at another process behind the same name.
    pub(super) fn moved_to(&self, base: &str) -> Self {
        let Self {
            client,
            cookie,
            forwarded_for,
            ..
        } = self;
        let cookie = cookie.clone();
        let forwarded_for = forwarded_for.clone();
        Self {
            client: client.clone(),
            base: base.to_owned(),
            cookie,
            forwarded_for,
        }
    }

    pub(super) async fn logged_in(
        daemon: &Running<ReconcilerClient>,
        name: &str,
        token: &str,
    ) -> Self {
        let login = Login {
            base: daemon.http().base(),
            name,
            token,
            forwarded_for: "",
        };
        Self::by(login).await
    }

    pub(super) async fn by(login: Login<'_>) -> Self {
        let Login {
            base,
            name,
            token,
            forwarded_for,
        } = login;
        let mut visitor = Self::at_address(base);
        forwarded_for.clone_into(&mut visitor.forwarded_for);
        let answer = visitor.log_in(name, token, "/").await;
        assert_eq!(
            (answer.status().as_u16(), header(&answer, LOCATION.as_str())),
            (303, "/")
        );
        let cookie = header(&answer, SET_COOKIE.as_str());
        assert!(
            cookie.contains("; HttpOnly; SameSite=Strict") && !cookie.contains("Secure"),
            "{cookie}"
        );
        cookie
            .split(';')
            .next()
            .unwrap()
            .clone_into(&mut visitor.cookie);
        visitor
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .client
            .request(method, format!("{}{path}", self.base))
            .header(COOKIE, &self.cookie);
        if self.forwarded_for.is_empty() {
            request
        } else {
            request.header("x-forwarded-for", &self.forwarded_for)
        }
    }

    pub(super) async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub(super) async fn text(&self, path: &str) -> String {
        self.get(path).await.text().await.unwrap()
    }

    async fn log_in(&self, name: &str, token: &str, next: &str) -> Response {
        let form = [("name", name), ("token", token), ("next", next)];
        filled_in(
            self.request(Method::POST, "/login")
                .header(ORIGIN, &self.base),
            &form,
        )
        .send()
        .await
        .unwrap()
    }

    /// The CSRF token of the page's forms.
    pub(super) async fn csrf(&self) -> String {
        let page = self.text("/alerts").await;
        page.split("name=\"csrf\" value=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .unwrap()
            .to_owned()
    }

    pub(super) async fn post(&self, path: &str, origin: &str, csrf: &str) -> u16 {
        let form = [("csrf", csrf), ("hours", "1")];
        filled_in(
            self.request(Method::POST, path).header(ORIGIN, origin),
            &form,
        )
        .send()
        .await
        .unwrap()
        .status()
        .as_u16()
    }
}

/// A form in the encoding of a browser.
pub(super) fn filled_in(request: RequestBuilder, fields: &[(&str, &str)]) -> RequestBuilder {
    let encoded = |text: &str| {
        text.bytes()
            .fold(String::new(), |all, byte| format!("{all}%{byte:02X}"))
    };
    let pairs: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("{name}={}", encoded(value)))
        .collect();
    request
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(pairs.join("&"))
}

pub(super) fn header<'a>(answer: &'a Response, name: &str) -> &'a str {
    answer
        .headers()
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

/// Checks that the content security policy allows only own resources, and nothing inline.
fn assert_strict(answer: &Response, what: &str) {
    let policy = header(answer, "content-security-policy");
    let is_strict =
        policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe");
    assert!(is_strict, "{what}: {policy}");
}

#[tokio::test]
async fn a_token_logs_in_and_others_see_nothing() {
    let (world, api) = open_world("ops-in").await;
    api.open_coupon(3).await;
    let daemon = world.daemon().await;
    let stranger = Visitor::at(&daemon);
    for path in [
        "/",
        "/?page=2",
        "/live",
        "/alerts",
        "/runs?before=1",
        "/runs/0193a1f2-7c00-7d31-8000-0000000000a1",
    ] {
        let bearer = stranger
            .request(Method::GET, path)
            .bearer_auth(OPS_TOKEN)
            .send()
            .await
            .unwrap();
        for answer in [stranger.get(path).await, bearer] {
            assert_eq!(answer.status(), 303, "{path}");
            assert!(
                header(&answer, LOCATION.as_str()).starts_with("/login"),
                "{path}"
            );
            assert_strict(&answer, path);
            assert!(!answer.text().await.unwrap().contains("Winter"), "{path}");
        }
    }
    assert_eq!(
        header(&stranger.get("/runs?before=1").await, LOCATION.as_str()),
        "/login?next=%2Fruns%3Fbefore%3D1"
    );
    let form = stranger.get("/login").await;
    assert_eq!(
        (form.status().as_u16(), header(&form, "cache-control")),
        (200, "no-store")
    );

    for (name, token, status) in [
        ("Kim", "wrong", 401),
        ("Kim", "", 401),
        (" ", OPS_TOKEN, 400),
    ] {
        let refused = stranger.log_in(name, token, "/").await;
        assert_eq!(
            (
                refused.status().as_u16(),
                header(&refused, SET_COOKIE.as_str())
            ),
            (status, ""),
            "{name:?} {token:?}"
        );
    }
    for (next, path) in [
        ("/runs?before=1", "/runs?before=1"),
        ("//evil.example", "/"),
        ("https://evil.example", "/"),
    ] {
        assert_eq!(
            header(
                &stranger.log_in("Kim", OPS_TOKEN, next).await,
                LOCATION.as_str()
            ),
            path
        );
    }
    let form = [("name", "Kim"), ("token", OPS_TOKEN)];
    let foreign = stranger
        .request(Method::POST, "/login")
        .header(ORIGIN, "https://evil.example");
    for request in [foreign, stranger.request(Method::POST, "/login")] {
        let refused = filled_in(request, &form).send().await.unwrap();
        assert_eq!(
            (
                refused.status().as_u16(),
                header(&refused, SET_COOKIE.as_str())
            ),
            (403, "")
        );
        assert_strict(&refused, "a refusal");
    }

    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    for path in ["/", "/alerts"] {
        let screen = kim.get(path).await;
        assert_eq!(screen.status(), 200, "{path}");
        assert_strict(&screen, path);
    }
    assert!(kim.text("/").await.contains("Winter coupon"));
    // The page's cookie is only valid for the page.
    assert_eq!(kim.get("/v1/runs").await.status(), 401);
    assert_eq!(kim.post("/logout", &kim.base, &kim.csrf().await).await, 303);
    assert_eq!(
        kim.get("/").await.status(),
        303,
        "the session has ended, whatever the browser keeps"
    );

    let refused = eventually_some("many wrong tokens are answered 429", LIMIT, async || {
        let answer = stranger.log_in("Kim", "wrong", "/").await;
        if answer.status() == 429 {
            Ok(answer)
        } else {
            Err(answer.status())
        }
    })
    .await;
    assert!(!header(&refused, "retry-after").is_empty());
    assert_eq!(
        stranger.log_in("Kim", OPS_TOKEN, "/").await.status(),
        303,
        "behind a proxy, all have one address"
    );
    assert_eq!(
        Http::send(daemon.http().ops(Method::GET, "/v1/runs"))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_session_is_valid_at_every_process_with_its_token_until_it_ends() {
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
    // As by a restart: the process's memory is lost.
    first.process.kill().await;
    let again = world.daemon().await;
    let status = async |daemon: &Running<ReconcilerClient>| {
        kim.moved_to(daemon.http().base())
            .get("/")
            .await
            .status()
            .as_u16()
    };
    assert_eq!(
        (status(&again).await, status(&in_rotation).await),
        (200, 200)
    );
    assert_eq!(status(&without).await, 303, "its token was withdrawn");

    // A silent Redis logs nobody out, and log-out reports what it could not do.
    let there = kim.moved_to(in_rotation.http().base());
    proxy.set(ProxyFault::BlackHole).await.unwrap();
    assert!(there.text("/").await.contains("Kim"));
    assert_eq!(
        there.post("/logout", &there.base, &csrf).await,
        503,
        "only in that browser"
    );
    assert_eq!(status(&again).await, 200);
    proxy.set(ProxyFault::Pass).await.unwrap();

    let here = kim.moved_to(again.http().base());
    assert_eq!(
        here.post("/logout", &here.base, &csrf).await,
        303,
        "with a form of the stopped process"
    );
    eventually("it has ended everywhere", LIMIT, async || {
        (status(&again).await, status(&in_rotation).await) == (303, 303)
    })
    .await;
}

#[tokio::test]
async fn a_change_needs_the_right_token_and_the_pages_form_and_is_recorded() {
    let f = Fixture::new("ops-change").await;
    let (coupon, _) = f.held("Winter coupon", 20, 20).await;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    // None of the daemon's passes must remove the drift.
    let daemon = f.world.daemon().await;
    let done = injector(&f.world, &coupon)
        .await
        .make(Drift::OverShrunk, 2)
        .await
        .unwrap();
    let run = daemon.reconcile(&json!({})).await.run_id;
    let alert = f
        .world
        .sql
        .number("SELECT id FROM alerts WHERE status = 'firing'")
        .await;
    let acknowledge = format!("/alerts/{alert}/acknowledge");
    let silence = format!("/alerts/{alert}/silence");
    let read = format!("/runs/{run}");
    let reveal = format!("/runs/{run}/reveal?after=0");
    let acts = "SELECT action, operator, LENGTH(token), from_addr FROM ops_actions \
                WHERE action NOT IN ('create_coupon', 'reconcile') ORDER BY id";

    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let of_lee = lee.csrf().await;
    let of_kim = kim.csrf().await;
    for path in [&acknowledge, &silence, &reveal] {
        if *path != reveal {
            assert_eq!(
                lee.post(path, &lee.base, &of_lee).await,
                403,
                "{path}: for viewers"
            );
        }
        for (origin, csrf, who) in [
            ("https://evil.example", of_kim.as_str(), "another site"),
            ("null", &of_kim, "no site"),
            (&kim.base, &of_lee, "another session's form"),
            (&kim.base, "", "no form"),
        ] {
            assert_eq!(kim.post(path, origin, csrf).await, 403, "{path}: {who}");
        }
        assert_eq!(
            Visitor::at(&daemon).post(path, &kim.base, &of_kim).await,
            303,
            "{path}: nobody"
        );
    }
    assert_eq!(f.world.sql.query(acts).await, Vec::<Vec<String>>::new());
    for page in [lee.text("/alerts").await, lee.text(&read).await] {
        assert!(
            page.contains("Winter coupon") && !page.contains(&acknowledge),
            "{page}"
        );
    }

    assert_eq!(kim.post(&acknowledge, &kim.base, &of_kim).await, 303);
    let page = kim
        .text(&format!("/alerts?done=acknowledged&alert={alert}"))
        .await;
    assert!(
        page.contains("Acknowledged by Kim.") && !page.contains(&acknowledge),
        "{page}"
    );
    assert_eq!(kim.post(&silence, &kim.base, &of_kim).await, 303);
    let page = kim.text("/alerts").await;
    assert!(
        page.contains("Taken on by Kim at ") && page.contains("No mails about this drop until "),
        "{page}"
    );
    let drop = coupon.drop;
    let place = format!("href=\"/coupons/{}/drops/{}\"", coupon.id, coupon.drop);
    for said in [
        &place,
        &format!("Silence mails about drop {drop}"),
        &format!("Send mails about drop {drop} again"),
    ] {
        assert!(page.contains(said.as_str()), "{said}: {page}");
    }
    assert!(
        kim.text("/runs")
            .await
            .contains("Run a pass over the 1 live drop")
    );
    let person = &done.people[0].user;
    assert!(!kim.text(&read).await.contains(person.as_str()), "masked");
    let form = filled_in(
        kim.request(Method::POST, &reveal).header(ORIGIN, &kim.base),
        &[("csrf", &of_kim)],
    );
    let revealed = form.send().await.unwrap().text().await.unwrap();
    assert!(
        revealed.contains(&format!("Story of {person}")),
        "{revealed}"
    );
    let said = |action: &str| {
        [action, "Kim", "8", "127.0.0.1"]
            .map(str::to_owned)
            .to_vec()
    };
    let mut all = vec![said("acknowledge"), said("silence"), said("reveal")];
    assert_eq!(f.world.sql.query(acts).await, all);
    // Viewers can reveal everything, and the reveal is recorded too.
    assert!(!lee.text(&read).await.contains(person.as_str()), "masked");
    assert_eq!(lee.post(&reveal, &lee.base, &of_lee).await, 200);
    all.push(
        ["reveal", "Lee", "8", "127.0.0.1"]
            .map(str::to_owned)
            .to_vec(),
    );
    assert_eq!(f.world.sql.query(acts).await, all);
    let form = [("csrf", of_kim.as_str())];
    let request = kim
        .request(Method::POST, "/alerts/4711/acknowledge")
        .header(ORIGIN, &kim.base);
    let no_such = filled_in(request, &form).send().await.unwrap();
    assert_eq!(no_such.status(), 404);
    assert!(
        no_such.text().await.unwrap().contains("<a href=\"/runs\""),
        "a refusal has the menu"
    );
    assert_eq!(
        header(
            &Visitor::at(&daemon).get("/favicon.ico").await,
            LOCATION.as_str()
        )
        .split('-')
        .next(),
        Some("/assets/ops")
    );
}

#[tokio::test]
async fn viewers_are_refused_every_change() {
    let (world, api) = open_world("ops-views").await;
    let coupon = api.open_coupon(3).await;
    world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = world.daemon_with(&[("API_URL", api.http().base())]).await;
    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let csrf = lee.csrf().await;
    let drop = format!("/coupons/{}/drops/{}", coupon.id, coupon.drop);
    for path in [
        "/alerts/1/acknowledge",
        "/alerts/1/silence",
        "/dead-letters/1/correct",
        "/dead-letters/1/discard",
        "/dead-letters/discard",
        &format!("{drop}/change"),
        "/coupons/new",
        "/people/erase",
        "/people/give-up",
        "/people/revoke",
        "/pass",
        &format!("{drop}/pass"),
    ] {
        let request = lee.request(Method::POST, path).header(ORIGIN, &lee.base);
        let answer = filled_in(request, &[("csrf", &csrf)]).send().await.unwrap();
        assert_eq!(answer.status(), 403, "{path}");
        let page = answer.text().await.unwrap();
        assert!(
            page.contains("You are logged in with the OPS_VIEW_TOKEN"),
            "{path}: {page}"
        );
    }
    assert_eq!(
        world
            .sql
            .number("SELECT COUNT(*) FROM ops_actions WHERE operator = 'Lee'")
            .await,
        0
    );
}

#[tokio::test]
async fn the_first_screen_shows_lost_rows_before_any_pass_and_their_repair() {
    let f = Fixture::new("ops-screen").await;
    let (coupon, _) = f.held("Winter coupon", 40, 25).await;
    let daemon = f.world.daemon().await;
    daemon.reconcile(&json!({})).await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let says = async |words: &[&str]| {
        eventually_some(
            &format!("the screen shows {words:?}"),
            3 * LIMIT,
            async || {
                let page = kim.text("/").await;
                if words.iter().all(|words| page.contains(words)) {
                    Ok(page)
                } else {
                    Err(page)
                }
            },
        )
        .await
    };
    let rows = |rows: u32| format!(">{rows}<progress value=\"{rows}\" max=\"40\"");
    says(&[
        "<h1>Everything is as promised</h1>",
        &rows(25),
        "It compared 25 people with 25 rows in 1 drop.",
    ])
    .await;
    injector(&f.world, &coupon)
        .await
        .make(Drift::Unissued, 3)
        .await
        .unwrap();
    says(&[
        "<h1>3 people were promised a coupon and have no row yet</h1>",
        &rows(22),
        ">3 missing<",
        "The next pass writes what is missing.",
    ])
    .await;
    daemon.reconcile(&json!({})).await;
    says(&[
        "<h1>Everything is as promised</h1>",
        &rows(25),
        "exact, after repairs",
    ])
    .await;
}

#[tokio::test]
async fn a_live_screen_ends_with_the_session_and_with_the_process() {
    let (world, api) = open_world("ops-live").await;
    api.open_coupon(3).await;
    let daemon = world.daemon().await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let begin = async |who: &Visitor| {
        let mut events = who.get("/live").await;
        assert_eq!(header(&events, "content-type"), "text/event-stream");
        let first = events.chunk().await.unwrap().expect("a first event");
        assert!(
            String::from_utf8_lossy(&first).contains("Winter coupon"),
            "{first:?}"
        );
        events
    };
    let until_over = async |mut events: Response| while events.chunk().await.unwrap().is_some() {};
    let events = begin(&kim).await;
    assert_eq!(kim.post("/logout", &kim.base, &kim.csrf().await).await, 303);
    tokio::time::timeout(LIMIT, until_over(events))
        .await
        .expect("it ends with the session");
    let events = begin(&Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await).await;
    let (code, over) = tokio::join!(
        daemon.process.stop(),
        tokio::time::timeout(LIMIT, until_over(events))
    );
    assert_eq!((code, over.is_ok()), (0, true), "{}", daemon.process.log());
    assert!(
        !daemon.process.log().contains("still busy"),
        "{}",
        daemon.process.log()
    );
}

#[tokio::test]
async fn every_coupon_is_listed_including_ended_ones_with_sealed_drops() {
    let f = Fixture::new("ops-coupons").await;
    let (over, _) = f.held("Winter <b>coupon</b>", 20, 3).await;
    let (live, _) = f.held("Spring coupon", 1_500, 2).await;
    let seal =
        "UPDATE drops SET closes_at = UTC_TIMESTAMP(3), sealed_at = UTC_TIMESTAMP(3) WHERE id";
    f.world.sql.query(&format!("{seal} = {}", over.drop)).await;
    f.world.set("OPS_VIEW_TOKEN", VIEW_TOKEN);
    let daemon = f.world.daemon().await;
    let lee = Visitor::logged_in(&daemon, "Lee", VIEW_TOKEN).await;
    let page = eventually_some("the API lists the sealed drop", LIMIT, async || {
        let page = lee.text("/coupons").await;
        if page.contains(">over<") {
            Ok(page)
        } else {
            Err(page)
        }
    })
    .await;
    for words in [
        "Winter &#60;b&#62;coupon&#60;/b&#62;",
        "class=\"quiet\">over<",
        ", ended, sealed</p>",
        ">1,500<",
        "data-label=\"State\">live<",
        ", open</p>",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    for coupon in [&over, &live] {
        let drop = format!("/coupons/{}/drops/{}", coupon.id, coupon.drop);
        assert!(page.contains(&format!("<a href=\"{drop}\">")), "{page}");
        assert_eq!(lee.get(&drop).await.status(), 200);
    }
    let page = lee.text(&format!("/coupons/{}", live.id)).await;
    for words in [
        "<h1>Spring coupon</h1>",
        "<dt>Quantity</dt><dd>1,500</dd>",
        &format!("/c/{}\">", live.id),
        &format!("<a href=\"/coupons/{}/drops/{}\">", live.id, live.drop),
        "data-label=\"Rows\">2<",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
    for path in ["/coupons/4711", "/coupons/x"] {
        assert_eq!(lee.get(path).await.status(), 404, "{path}");
    }
    let rest = lee
        .text(&format!("/coupons?after={}", over.id.min(live.id)))
        .await;
    assert!(
        !rest.contains("Winter") && rest.contains("Spring"),
        "{rest}"
    );
    assert!(
        lee.text("/coupons?after=999999")
            .await
            .contains("No more coupons.")
    );

    // More than a page of coupons, and more drops than a coupon's first page shows.
    let many: Vec<String> = (1..=51)
        .map(|n| format!("({n} + 1000, 'Many {n}', 5, 'coupon', 0)"))
        .collect();
    let columns = "(id, name, quantity, once_per, waiting_list)";
    f.world
        .sql
        .query(&format!(
            "INSERT INTO coupons {columns} VALUES {}",
            many.join(",")
        ))
        .await;
    let day = |n: i64| {
        let day = chrono::NaiveDate::from_ymd_opt(2020, 1, 1).unwrap() + chrono::TimeDelta::days(n);
        format!("(1001, '{day}', '{day} 06:00', '{day} 07:00', 5, '{day} 08:00')")
    };
    let drops: Vec<String> = (0..52).map(day).collect();
    let columns = "(coupon_id, local_date, opens_at, closes_at, quantity, sealed_at)";
    f.world
        .sql
        .query(&format!(
            "INSERT INTO drops {columns} VALUES {}",
            drops.join(",")
        ))
        .await;
    let page = lee.text("/coupons?after=1000").await;
    assert_eq!(page.matches("\">Many ").count(), 50, "{page}");
    assert!(page.contains("href=\"/coupons?after=1050\""), "{page}");
    let page = lee.text("/coupons/1001").await;
    let newest = page.find("2020-02-21 06:00 to 07:00 UTC");
    let oldest = page.find("2020-01-03 06:00 to 07:00 UTC");
    assert!(
        newest.is_some() && newest < oldest && !page.contains("2020-01-02"),
        "{page}"
    );
    assert!(page.contains("href=\"/coupons/1001?page=2\""), "{page}");
    let rest = lee.text("/coupons/1001?page=2").await;
    assert!(
        rest.contains("2020-01-01") && !rest.contains("2020-01-03") && !rest.contains("?page=3"),
        "{rest}"
    );
}

#[tokio::test]
async fn the_page_works_without_the_api_and_names_the_setting() {
    let (world, api) = open_world("ops-no-api").await;
    let coupon = api.open_coupon(3).await;
    let daemon = world.daemon().await;
    let kim = Visitor::logged_in(&daemon, "Kim", OPS_TOKEN).await;
    let page = kim.text("/coupons").await;
    assert!(page.contains("set <code>API_URL</code>"), "{page}");
    let drop = format!("/coupons/{}/drops/{}", coupon.id, coupon.drop);
    for path in ["/", &drop, &format!("/coupons/{}", coupon.id)] {
        let page = kim.text(path).await;
        assert!(page.contains("Winter coupon"), "{path}: {page}");
    }
}
