//! Shops use codes while users are revoked, and MySQL and an API die.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use firstcome_harness::{
    Fixture, Http, HttpReply, LIMIT, World, WorldStores, all_issued, eventually, people,
};
use firstcome_reconciler::report::Kind;
use firstcome_stack::{MysqlOptions, MysqlServer};
use parking_lot::Mutex;
use rand::seq::IndexedRandom as _;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::drift::support::{DRIFT, found_in, pass_ends};

/// A client of the routes of codes, at any of these APIs.
#[derive(Clone)]
pub(crate) struct Shop {
    apis: Arc<Mutex<Vec<Http>>>,
    token: String,
}

impl Shop {
    pub(crate) fn of(world: &World, apis: &[&Http]) -> Self {
        let apis = apis.iter().map(|api| Http::new(api.base())).collect();
        Self {
            apis: Arc::new(Mutex::new(apis)),
            token: world.setting("REDEEM_TOKEN"),
        }
    }

    /// Sends a request until an API answers it with a status below 500.
    async fn send(&self, method: &Method, path: &str, body: &Value) -> HttpReply {
        loop {
            let request = {
                let apis = self.apis.lock();
                let api = apis.choose(&mut rand::rng()).unwrap();
                api.request(method.clone(), path).json(body)
            };
            let request = request.bearer_auth(&self.token).timeout(LIMIT);
            match Http::try_send(request).await {
                Ok(reply) if reply.status < 500 => return reply,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Returns the status, and the code of the problem if the answer is one.
    pub(crate) async fn use_code(&self, code: &str, order: &str) -> (u16, String) {
        let path = format!("/v1/codes/{code}/use");
        let body = json!({"reference": order});
        outcome(&self.send(&Method::PUT, &path, &body).await)
    }

    async fn undo(&self, code: &str, order: &str) -> (u16, String) {
        let path = format!("/v1/codes/{code}/use?reference={order}");
        outcome(&self.send(&Method::DELETE, &path, &json!({})).await)
    }
}

fn outcome(reply: &HttpReply) -> (u16, String) {
    let code = reply.body["code"].as_str().unwrap_or_default();
    (reply.status, code.to_owned())
}

pub(crate) fn used() -> (u16, String) {
    (200, String::new())
}

pub(crate) fn problem(code: &str) -> (u16, String) {
    (409, code.to_owned())
}

pub(crate) async fn codes(world: &World, drop: i64) -> Vec<String> {
    let codes = format!("SELECT code FROM issued_coupons WHERE drop_id = {drop} ORDER BY slot");
    world.sql.query(&codes).await.concat()
}

/// A foreign key to the row would keep the coupon closed, and a row that stayed would take the
/// newcomer's slot.
#[tokio::test]
async fn used_row_of_a_revoked_user_is_deleted_and_the_coupon_opens_after_a_redis_restart() {
    let (fixture, redis) = Fixture::with_own_redis("u-void", &[]).await;
    let api = &fixture.api;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Void", 2, 2).await;
    let fraud = json!({"reason": "fraud", "by": "Ann"});
    let revoked = &people(2)[1];
    api.revoke(coupon.id, revoked, &fraud).await.unwrap();
    let slot = "SELECT slot FROM revoked_coupons";
    let slot = world.sql.number(slot).await;
    let insert = format!(
        "INSERT INTO issued_coupons \
         (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, person_scope) \
         SELECT drop_id, {slot}, coupon_id, '{revoked}', 'consumer', slot_limit, person_scope \
         FROM slot_limits WHERE drop_id = {}",
        coupon.drop
    );
    world.sql.query(&insert).await;
    let code = format!("SELECT code FROM issued_coupons WHERE user_id = '{revoked}'");
    let code = world.sql.query(&code).await.concat().concat();
    let shop = Shop::of(world, &[api.http()]);
    assert_eq!(shop.use_code(&code, "order-1").await, used());
    redis.kill().await.unwrap();
    redis.start_again().await.unwrap();
    world.pass().await;
    let newcomer = api.until_promised(coupon.id, "u-new").await;
    assert_eq!(newcomer, (coupon.drop, u32::try_from(slot).unwrap()));
    all_issued(world, coupon.drop, 2).await;
    assert_eq!(shop.use_code(&code, "order-1").await, problem("revoked"));
    for new in codes(world, coupon.drop).await {
        assert_eq!(shop.use_code(&new, "order-2").await, used());
    }
    let run = pass_ends(world, &["--deep"], DRIFT).await;
    let found = found_in(&run, &coupon);
    let kinds: Vec<Kind> = found.iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [Kind::BadUse], "{found:#?}");
}

#[tokio::test]
async fn codes_are_used_at_most_once_while_mysql_and_an_api_die() {
    shops_compete("u-crowd", 120).await;
}

#[tokio::test]
#[ignore = "release"]
async fn five_thousand_codes_are_used_at_most_once_while_mysql_and_an_api_die() {
    shops_compete("u-crowds", 5_000).await;
}

/// The answers that a shop got about one order.
struct ShopOutcome {
    code: String,
    order: String,
    is_used: bool,
    is_undone: bool,
}

/// Sends one shop's requests for a code. Four shops compete for each code. Each sends its request
/// twice, concurrently. About a third of them undo the use, while the second request may still be
/// in flight.
async fn compete(shop: &Shop, code: String, order: String, undoes: bool) -> ShopOutcome {
    let first_answer = async {
        let answer = shop.use_code(&code, &order).await;
        if undoes {
            let undone = shop.undo(&code, &order).await;
            assert!(undone == used() || undone == problem("used"), "{undone:?}");
        }
        answer
    };
    let (first, second) = tokio::join!(first_answer, shop.use_code(&code, &order));
    for answer in [&first, &second] {
        let is_undone = undoes && *answer == problem("undone");
        let is_expected = *answer == used() || *answer == problem("used") || is_undone;
        assert!(is_expected, "{code} {order}: {answer:?}");
    }
    ShopOutcome {
        is_used: !undoes && (first == used() || second == used()),
        is_undone: undoes,
        code,
        order,
    }
}

async fn shops_compete(name: &str, number: usize) {
    let mysql = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let stores = WorldStores::shared()
        .await
        .with_mysql_at(&mysql.database_url(""));
    let fixture = Fixture::of(World::on(stores, name).await).await;
    let world = &fixture.world;
    let quantity = u32::try_from(number).unwrap();
    let (coupon, _) = fixture.held("Wanted", quantity, number).await;
    let codes = codes(world, coupon.drop).await;
    assert_eq!(codes.len(), number);
    let other = world.serve().await;
    let shop = Shop::of(world, &[fixture.api.http(), other.http()]);
    let mut orders: Vec<(String, usize)> = Vec::new();
    for code in &codes {
        orders.extend((0..4).map(|shop| (code.clone(), shop)));
    }
    let todo = Arc::new(Mutex::new(orders));
    let mut shops = JoinSet::new();
    for _ in 0..32 {
        let todo = Arc::clone(&todo);
        let shop = shop.clone();
        shops.spawn(async move {
            let mut outcomes = Vec::new();
            loop {
                let next = todo.lock().pop();
                let Some((code, number)) = next else {
                    return outcomes;
                };
                let order = format!("shop-{number}");
                let undoes = rand::random_ratio(1, 3);
                outcomes.push(compete(&shop, code, order, undoes).await);
            }
        });
    }
    let left = |part: usize| {
        let todo = Arc::clone(&todo);
        async move { todo.lock().len() <= number * 4 - number * 4 / part }
    };
    let is_busy = || !todo.lock().is_empty();
    eventually("a quarter of the orders is sent", LIMIT * 5, || left(4)).await;
    assert!(is_busy(), "MySQL dies while shops use codes");
    mysql.kill().await.unwrap();
    mysql.start_again().await.unwrap();
    eventually("half of the orders is sent", LIMIT * 5, || left(2)).await;
    assert!(is_busy(), "an API dies while shops use codes");
    other.process.kill().await;
    let third = world.serve().await;
    shop.apis.lock()[1] = Http::new(third.http().base());
    let outcomes: Vec<ShopOutcome> = shops.join_all().await.into_iter().flatten().collect();

    assert_eq!(outcomes.len(), number * 4);
    let mut used_by: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for one in outcomes.iter().filter(|one| one.is_used) {
        used_by.entry(&one.code).or_default().insert(&one.order);
    }
    let twice: Vec<_> = used_by.iter().filter(|(_, by)| by.len() > 1).collect();
    assert!(twice.is_empty(), "used twice: {twice:?}");
    let mut rng = rand::rng();
    let undone: Vec<&ShopOutcome> = outcomes.iter().filter(|one| one.is_undone).collect();
    for one in undone.sample(&mut rng, 500) {
        let late = shop.use_code(&one.code, &one.order).await;
        assert_eq!(late, problem("undone"), "{} {}", one.code, one.order);
    }
    // Orders whose use was undone later may have kept the others from a code.
    let mut wanted: BTreeMap<&str, &str> = BTreeMap::new();
    for one in outcomes.iter().filter(|one| !one.is_undone) {
        wanted.insert(&one.code, &one.order);
    }
    wanted.retain(|code, _| !used_by.contains_key(code));
    for (code, order) in wanted {
        assert_eq!(shop.use_code(code, order).await, used(), "{code} {order}");
        used_by.insert(code, BTreeSet::from([order]));
    }
    let stored = format!(
        "SELECT i.code, u.reference FROM issued_coupons i \
         JOIN coupon_uses u ON u.drop_id = i.drop_id AND u.slot = i.slot \
         AND u.claimed_at = i.claimed_at AND u.in_use = 1 WHERE i.drop_id = {}",
        coupon.drop
    );
    let stored = world.sql.query(&stored).await;
    let is_stored = |code: &str, order: &str| stored.iter().any(|row| *row == [code, order]);
    assert_eq!(stored.len(), used_by.len(), "a code is used once or never");
    for (code, by) in &used_by {
        assert!(
            by.iter().all(|order| is_stored(code, order)),
            "{code}: {by:?}"
        );
    }
    let undone: BTreeSet<[&str; 2]> = undone.iter().map(|one| [&*one.code, &*one.order]).collect();
    let wrong = stored
        .iter()
        .filter(|row| undone.contains(&[&*row[0], &*row[1]]));
    assert_eq!(wrong.count(), 0, "an undone order uses a code");
    drop(third);
}

/// The shop's part around the program of docs/API.md.
const SHOP: &str = r#"
class NotCommitted(Exception):
    pass

class Order:
    def __init__(self, id, is_paid=True):
        self.id, self.attempt, self.is_paid = id, 1, is_paid
    def commit(self, discount):
        if not self.is_paid:
            raise NotCommitted("not paid")

def is_refused(order, code):
    try:
        check_out(order, code)
    except NotCommitted:
        return True

assert check_out(Order(1), CODES[0]) is None
assert check_out(Order(1), CODES[0]) is None, "a repetition after a crash"
assert check_out(Order(2), CODES[0]) == "used"
assert is_refused(Order(3, is_paid=False), CODES[1])
assert check_out(Order(3), CODES[1]) == "undone"
assert check_out(Order(4), CODES[1].lower()) is None
assert check_out(Order(5), "WRONG") == "not_found"
assert check_out(Order(6), CODES[2]) == "expired"
assert ask("DELETE", CODES[0], "eu-7-1", "done", "used") == "used"
try:
    ask("DELETE", "WRONG", "eu-7-1", "done", "used")
    raise SystemExit("an undo that is not remembered is ignored")
except RuntimeError:
    pass
"#;

#[tokio::test]
async fn the_documented_shop_program_uses_codes_and_undoes_uses() {
    let fixture = Fixture::new("u-docs").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Documented", 3, 3).await;
    let expire = format!(
        "UPDATE coupons SET valid_days = 1 WHERE id = {}; \
         UPDATE issued_coupons SET claimed_at = claimed_at - INTERVAL 1 DAY \
         WHERE drop_id = {} AND slot = 3",
        coupon.id, coupon.drop
    );
    for statement in expire.split("; ") {
        world.sql.query(statement).await;
    }
    let page = include_str!("../../../../docs/API.md");
    let (_, program) = page.split_once("```python\n").unwrap();
    let (program, _) = program.split_once("```").unwrap();
    let program = program.replace("https://coupons.example.com", fixture.api.http().base());
    let token = world.setting("REDEEM_TOKEN");
    let codes = codes(world, coupon.drop).await;
    let program = format!("REDEEM_TOKEN = {token:?}\nCODES = {codes:?}\n{program}{SHOP}");
    let mut python = Command::new("python3");
    let ran = python.args(["-c", &program]).output().await.unwrap();
    let why = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "needs python3 with requests: {why}");
}
