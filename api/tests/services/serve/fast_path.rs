//! The fast path answers claims before the router. Both give the same answers.

use std::collections::BTreeSet;

use chrono::Utc;
use firstcome_stack::ProxyFault;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::stores_away::behind_redis;
use super::world::{InProcessApi, LIMIT, ServeWorld, bearer, coupon, open, with};

/// An API in its own world. Requests name its coupons `[C1]`, `[C2]`, …, and answers are read with
/// these names and with `[D1]`, `[D2]`, … for their drops: the numbers differ in each world. The
/// brackets are in no token, so a name never replaces a part of one.
struct Side {
    world: ServeWorld,
    api: InProcessApi,
    names: Vec<(String, String)>,
}

impl Side {
    async fn new(world: ServeWorld, has_fast_path: bool) -> Self {
        let world = world.with("has-fast-path", has_fast_path);
        Self {
            api: world.api().await,
            world,
            names: Vec::new(),
        }
    }

    async fn make(&mut self, body: &Value) -> i64 {
        let (id, drop) = self.api.make(body.clone()).await;
        let number = self.names.len() / 2 + 1;
        self.names.push((format!("[C{number}]"), id.to_string()));
        self.names.push((format!("[D{number}]"), drop.to_string()));
        id
    }

    /// Sends a request exactly as it is written, apart from the names.
    async fn exchange(&self, request: &str) -> Vec<RawAnswer> {
        let names = self.names.iter();
        let sent = names.fold(request.to_owned(), |text, (name, number)| {
            text.replace(name, number)
        });
        let address = self.api.base.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer);
        timeout(LIMIT, read).await.unwrap().unwrap();
        let text = String::from_utf8(answer).unwrap();
        let names = self.names.iter();
        let named = names.fold(text, |text, (name, number)| text.replace(number, name));
        RawAnswer::all(&named)
    }
}

/// Starts an API that answers claims before its router, and one that does not.
async fn both(of: impl Fn(ServeWorld) -> ServeWorld) -> [Side; 2] {
    [
        Side::new(of(ServeWorld::new().await), true).await,
        Side::new(of(ServeWorld::new().await), false).await,
    ]
}

/// A response without the parts that differ each time. Its headers have no order.
#[derive(Debug, PartialEq, Eq)]
struct RawAnswer {
    status: String,
    headers: BTreeSet<String>,
    body: String,
}

impl RawAnswer {
    /// Parses the responses of one connection.
    fn all(text: &str) -> Vec<Self> {
        let responses = text.split("HTTP/1.").skip(1);
        responses.map(Self::parse).collect()
    }

    fn parse(text: &str) -> Self {
        // `content-length` differs because the numbers of drops have different lengths.
        let differs = [
            "date: ",
            "retry-after: ",
            "x-request-id: ",
            "content-length: ",
        ];
        let fixed = |line: &str| {
            let name = differs.iter().find(|name| line.starts_with(**name));
            let name = name.filter(|_| !line.contains(": given"));
            (*name.unwrap_or(&line)).to_owned()
        };
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default().to_owned();
        Self {
            status,
            headers: lines.map(fixed).collect(),
            body: body.to_owned(),
        }
    }
}

/// Checks that both answer alike, and returns the status.
async fn alike([fast, router]: &[Side; 2], request: &str) -> String {
    let of_fast = fast.exchange(request).await;
    assert_eq!(of_fast, router.exchange(request).await, "{request}");
    of_fast[0].status.clone()
}

fn post(path: &str, headers: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n")
}

fn claim(coupon: u32, user: &str) -> String {
    post(
        &format!("/v1/coupons/[C{coupon}]/claims"),
        &format!("x-user-id: {user}\r\n"),
    )
}

#[tokio::test]
async fn answers_to_claims_are_those_of_the_router() {
    let mut apis = both(|world| world).await;
    let sold_out = open(1);
    let later = coupon(1, 30..=60);
    let waiting = with(open(1), "waiting_list", 1);
    let restricted = with(open(1), "allow", "list");
    let whole = open(9);
    for side in &mut apis {
        for body in [&sold_out, &later, &waiting, &restricted, &whole] {
            side.make(body).await;
        }
        let paused = side.make(&open(1)).await;
        let pause = side.api.patch(paused, json!({"paused": true})).await;
        pause.has_status(200);
    }
    let mut seen = Vec::new();
    for (coupon, user) in [
        (1, "a"),
        (1, "a"),
        (1, "b"),
        (2, "a"),
        (3, "a"),
        (3, "b"),
        (3, "b"),
        (3, "c"),
        (4, "a"),
        (6, "a"),
        (7, "a"),
    ] {
        let status = alike(&apis, &claim(coupon, user)).await;
        seen.push(status.split(' ').nth(1).unwrap().parse::<u16>().unwrap());
    }
    let expected = [202, 200, 409, 409, 202, 202, 202, 409, 403, 409, 404];
    assert_eq!(seen, expected);
    let give_back = claim(1, "a").replacen("POST", "DELETE", 1);
    let given_back = give_back.replacen("/claims", "/claims/me", 1);
    assert!(alike(&apis, &given_back).await.contains("200"));
    assert!(alike(&apis, &claim(1, "a")).await.contains("409"));
}

#[tokio::test]
async fn odd_requests_are_answered_as_by_the_router() {
    let mut apis = both(|world| world).await;
    for side in &mut apis {
        side.make(&open(99)).await;
    }
    let user = "x-user-id: a\r\n";
    for path in [
        "/v1/coupons/0[C1]/claims",
        "/v1/coupons/+[C1]/claims",
        "/v1/coupons/-[C1]/claims",
        "/v1/coupons/0/claims",
        "/v1/coupons/x/claims",
        "/v1/coupons/%31/claims",
        "/v1/coupons/%ff/claims",
        "/v1/coupons/%/claims",
        "/v1/coupons/99999999999999999999/claims",
        "/v1/coupons/claims/claims",
        "/v1/coupons/coupons/claims",
        "/v1/coupons//claims",
        "/v1/coupons/claims",
        "/v1/coupons/[C1]/2/claims",
        "/v1/coupons/[C1]/claims/",
        "/v1/coupons/[C1]/claims//",
        "/v1/coupons/[C1]/claims%2f",
        "/v1/coupons/[C1]/claims;a",
        "/v1/coupons/[C1]/Claims",
        "/V1/coupons/[C1]/claims",
        "//v1/coupons/[C1]/claims",
        "/v1/coupons/[C1]/claims?a=b&c",
        "http://shop/v1/coupons/[C1]/claims",
    ] {
        alike(&apis, &post(path, user)).await;
        alike(&apis, &post(path, "")).await;
    }
    for method in ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "CLAIM"] {
        alike(&apis, &claim(1, "a").replacen("POST", method, 1)).await;
    }
    for headers in [
        "",
        "x-user-id:\r\n",
        "x-user-id: a b\r\n",
        "x-user-id: ..\r\n",
        "x-user-id: ü\r\n",
        "x-user-id: a\r\nx-user-id: a\r\n",
        "x-user-id: a\r\nx-request-id: given-1\r\n",
        "x-user-id: a\r\nx-request-id: no id\r\n",
        "x-user-id: a\r\nauthorization: Bearer x\r\n",
        "x-user-id: a\r\ntraceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n",
        "x-user-id: a\r\ntraceparent: 00\r\n",
        "x-user-id: a\r\nupgrade: websocket\r\n",
        "x-user-id: a\r\nexpect: 100-continue\r\ncontent-length: 2\r\n",
    ] {
        alike(&apis, &post("/v1/coupons/[C1]/claims", headers)).await;
    }
    let claimed = claim(1, "a");
    let sized = claimed.replace("host: x", "host: x\r\ncontent-length: 7");
    let chunked = claimed.replace("host: x", "host: x\r\ntransfer-encoding: chunked");
    for request in [
        format!("{sized}{{\"a\":1}}"),
        format!("{chunked}3\r\nabc\r\n0\r\n\r\n"),
        claimed.replace("HTTP/1.1", "HTTP/1.0"),
        claimed.replace("host: x\r\n", ""),
        // Two requests on one connection.
        format!("{}{claimed}", claimed.replace("connection: close\r\n", "")),
    ] {
        alike(&apis, &request).await;
    }
}

#[tokio::test]
async fn tokens_are_judged_as_by_the_router() {
    let with_groups = |world: ServeWorld| world.with_tokens().with("jwt-groups-claim", "groups");
    let mut apis = both(with_groups).await;
    let groups = with(open(9), "allow", "group:vip");
    for side in &mut apis {
        side.make(&open(9)).await;
        side.make(&groups).await;
    }
    let good = bearer("a", &json!({}));
    let of_group = bearer("a", &json!({"groups": ["vip"]}));
    let expired = bearer("a", &json!({"exp": Utc::now().timestamp() - 9_999}));
    let other = bearer("a", &json!({"iss": "another"}));
    let mut seen = Vec::new();
    for token in [
        &*good, &*of_group, &*expired, &*other, "Bearer", "Bearer x", "Basic x", "",
    ] {
        for coupon in [1, 2, 3] {
            let headers = format!("authorization: {token}\r\nx-user-id: b\r\n");
            let path = format!("/v1/coupons/[C{coupon}]/claims");
            let status = alike(&apis, &post(&path, &headers)).await;
            seen.push(Value::from(status.split(' ').nth(1).unwrap()));
        }
    }
    // Of each token: a coupon for all, one for the group, and none.
    let expected = ["202", "403", "404", "200", "202", "404", "401"];
    assert_eq!(seen[..7], expected, "{seen:?}");
    alike(&apis, &claim(1, "b")).await;
}

#[tokio::test]
async fn late_answers_are_those_of_the_router() {
    let mut apis = both(|world| world).await;
    let mut proxies = Vec::new();
    for side in &mut apis {
        let (proxied, proxy) = behind_redis(&side.world).await;
        side.make(&open(9)).await;
        side.api = proxied.with("request-timeout-ms", 300).api().await;
        proxy.set(ProxyFault::BlackHole).await.unwrap();
        proxies.push(proxy);
    }
    let status = alike(&apis, &claim(1, "a")).await;
    assert!(status.contains("503"), "{status}");
}
