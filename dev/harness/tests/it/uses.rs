//! Shops use codes while users are revoked, and by the documented program.

use firstcome_harness::HttpReply;
use tokio::process::Command;

use crate::drift::support::found_in;
use crate::prelude::*;

/// A client of the routes of codes.
pub(crate) struct Shop {
    api: Http,
    token: String,
}

impl Shop {
    pub(crate) fn of(world: &World, api: &Http) -> Self {
        Self {
            api: api.clone(),
            token: world.setting("REDEEM_TOKEN"),
        }
    }

    /// Returns the status, and the code of the problem if the answer is one.
    pub(crate) async fn use_code(&self, code: &str, order: &str) -> (u16, String) {
        let request = self
            .api
            .request(Method::PUT, &format!("/v1/codes/{code}/use"));
        let request = request.bearer_auth(&self.token);
        let body = json!({"reference": order});
        outcome(&Http::send(request.json(&body)).await)
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
    let revoked = &people(2)[1];
    api.revoke(coupon.id, revoked, &order(false)).await.unwrap();
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
    let shop = Shop::of(world, api.http());
    assert_eq!(shop.use_code(&code, "order-1").await, used());
    redis.restart().await.unwrap();
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
