//! Compares costs with and without many rows of closed drops. Both databases are on one server with
//! MySQL's default memory, and are measured alternately.

use std::time::Instant;

use firstcome_load::measure::cpu_seconds;
use firstcome_reconciler::report::Status;
use firstcome_stack::{MysqlOptions, MysqlServer};
use firstcome_testkit::scale::{is_full, measured_each};
use firstcome_testkit::{
    ApiClient, HeldTransaction, LIMIT, MadeCoupon, Running, World, WorldStores, eventually,
};
use reqwest::Method;
use reqwest::header::ACCEPT;

use super::scale::{pass, seconds, sold_out};

/// Rows per closed drop, written in one statement.
const OF_A_DROP: u32 = 100_000;

#[tokio::test]
async fn rows_of_closed_drops_do_not_slow_open_ones() {
    let rows = most_rows();
    let whats = [
        "MySQL's CPU of draining 50,000",
        "`claims/me`",
        "a clean pass",
        "CSV of a drop",
        "look-up by code",
    ];
    let whats = whats.map(|what| format!("{rows} rows of closed drops: {what} ÷ without them"));
    let figures = whats.each_ref().map(|what| (what.as_str(), "≤ 1.15"));
    let ratios = measured_each(figures, [OF_A_DROP, rows], beside_history).await;
    // The small installation has few rows, and the machine may be busy.
    let is_cheap = ratios[0] < 3.0 && ratios.iter().all(|ratio| *ratio < 5.0);
    assert!(is_cheap, "{ratios:?}");
}

/// Returns the number of history rows in a full run. Use `ROWS=50000000 cargo xtask scale` to check
/// that costs do not grow with history, or fewer rows for a quick smoke test.
pub(super) fn most_rows() -> u32 {
    std::env::var("ROWS").map_or(10_000_000, |rows| rows.parse().unwrap())
}

/// Returns the ratio of costs with this many rows to costs without them: MySQL's CPU time to drain
/// messages, and the time of users' and operators' queries.
async fn beside_history(rows: u32) -> [f64; 5] {
    let (turns, drained, asked) = if is_full() {
        (5, 50_000, 100)
    } else {
        (3, 2_000, 20)
    };
    let mysql = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let few = LargeInstallation::new(0, &mysql, drained * turns).await;
    let many = LargeInstallation::new(rows, &mysql, drained * turns).await;
    let mut ratios = Vec::new();
    let mut least = [[f64::INFINITY; 4]; 2];
    for turn in 0..turns {
        let slots = turn * drained + 1..=(turn + 1) * drained;
        let pid = mysql.pid().unwrap();
        let costs = [
            few.drain(pid, slots.clone()).await,
            many.drain(pid, slots).await,
        ];
        println!("MySQL's CPU a row beside none, beside {rows}: {costs:?} µs");
        ratios.push(costs[1] / costs[0]);
        for _ in 0..5 {
            for (installation, least) in [&few, &many].into_iter().zip(&mut least) {
                let times = [
                    installation.questions(asked).await,
                    installation.clean_pass().await,
                    installation.csv().await,
                    installation.look_ups(asked).await,
                ];
                *least = std::array::from_fn(|at| least[at].min(times[at]));
            }
        }
    }
    println!("least seconds beside none, beside {rows}: {least:?}");
    ratios.sort_by(f64::total_cmp);
    let [questions, pass, csv, look_ups] = std::array::from_fn(|at| least[1][at] / least[0][at]);
    [ratios[ratios.len() / 2], questions, pass, csv, look_ups]
}

struct LargeInstallation {
    world: World,
    api: Running<ApiClient>,
    /// A sold-out coupon.
    held: MadeCoupon,
    /// A coupon without users in Redis, whose messages are drained.
    drained: MadeCoupon,
}

impl LargeInstallation {
    async fn new(rows: u32, mysql: &MysqlServer, drained: u32) -> Self {
        let world = World::on(WorldStores::shared().await.with_mysql(mysql), "history").await;
        let begun = Instant::now();
        load_history(&world, rows).await;
        println!("{rows} rows were loaded in {:?}", begun.elapsed());
        let (api, ()) = tokio::join!(world.serve(), world.open());
        let held = sold_out(&world, if is_full() { 20_000 } else { 1_000 }, true).await;
        let drained = api.open_coupon(drained).await;
        Self {
            world,
            api,
            held,
            drained,
        }
    }

    /// Returns MySQL's CPU time per row in microseconds.
    async fn drain(&self, mysql: u32, slots: std::ops::RangeInclusive<u32>) -> f64 {
        let MadeCoupon { id, drop, .. } = self.drained;
        let at = "2026-01-01T06:00:00.123Z";
        let claim = |slot| {
            format!(
                r#"{{"v":2,"coupon_id":{id},"drop_id":{drop},"claims":[{{"slot":{slot},"user_id":"person-{slot}@example.com","claimed_at":"{at}"}}]}}"#
            )
        };
        let last = *slots.end();
        let count = f64::from(last - slots.start() + 1);
        self.world.topic.produce_many(slots.map(claim)).await;
        let before = cpu_seconds(mysql).unwrap();
        let consumer = self.world.consume().await;
        eventually("all messages are read", LIMIT, async || {
            self.world.topic.lag().await == 0
        })
        .await;
        let took = cpu_seconds(mysql).unwrap() - before;
        assert_eq!(consumer.process.stop().await, 0);
        let rows = format!("SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {drop}");
        assert_eq!(self.world.sql.number(&rows).await, i64::from(last));
        took * 1e6 / count
    }

    /// Returns the time in seconds to look up this many users.
    async fn questions(&self, people: u32) -> f64 {
        let begun = Instant::now();
        for person in 1..=people {
            assert_eq!(
                self.api.me(self.held.id, &format!("u-{person}")).await["status"],
                "issued"
            );
        }
        begun.elapsed().as_secs_f64()
    }

    async fn clean_pass(&self) -> f64 {
        let (run, _) = pass(&self.world, &["--coupon", &self.held.id.to_string()]).await;
        assert_eq!(run.status, Status::Clean, "{run:#?}");
        seconds(&run)
    }

    async fn csv(&self) -> f64 {
        let path = format!("/v1/coupons/{}/issued", self.held.id);
        let begun = Instant::now();
        let csv = self
            .api
            .http()
            .ops(Method::GET, &path)
            .header(ACCEPT, "text/csv")
            .send()
            .await
            .unwrap();
        assert!(csv.text().await.unwrap().lines().count() > 1_000);
        begun.elapsed().as_secs_f64()
    }

    /// Returns the time in seconds of this many code look-ups.
    async fn look_ups(&self, codes: u32) -> f64 {
        let some = format!(
            "SELECT slot, code FROM issued_coupons WHERE drop_id = {} LIMIT {codes}",
            self.drained.drop
        );
        let codes = self.world.sql.query(&some).await;
        let mut session = HeldTransaction::begin(&self.world.sql).await;
        let begun = Instant::now();
        // A code begins with its drop and slot, so that its row is found by the primary key.
        for row in &codes {
            session
                .run(&format!(
                    "SELECT * FROM issued_coupons WHERE drop_id = {} AND slot = {} AND code = '{}'",
                    self.drained.drop, row[0], row[1]
                ))
                .await;
        }
        begun.elapsed().as_secs_f64()
    }
}

/// Creates rows of sealed drops of ended coupons in MySQL.
pub(super) async fn load_history(world: &World, rows: u32) {
    for number in 1..=rows.div_ceil(OF_A_DROP) {
        let text = |value: &str| format!("LENGTH(CONV({value}, 10, 32)), CONV({value}, 10, 32)");
        let drop = text(&number.to_string());
        let slot = text("i");
        // Passes verify only codes in the product's format. These codes have a different format.
        let random = "HEX(RANDOM_BYTES(8))";
        let quantity = OF_A_DROP;
        world
            .sql
            .query(&format!(
                "SET sql_log_bin = 0, foreign_key_checks = 0, cte_max_recursion_depth = {quantity};
                 INSERT INTO coupons (id, name, quantity, once_per, schedule) VALUES ({number}, 'over', {quantity}, 'coupon', NULL);
                 INSERT INTO drops (id, coupon_id, opens_at, closes_at, quantity, sealed_at, sealed_rows)
                     VALUES ({number}, {number}, '2026-01-01', '2026-01-02', {quantity}, '2026-01-03', {quantity});
                 INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, code, claimed_at, issued_at, issued_by, slot_limit, person_scope)
                     WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {quantity})
                     SELECT {number}, i, {number}, CONCAT('u-', i), CONCAT_WS('-', CONCAT({drop}), CONCAT({slot}), {random}),
                         '2026-01-01', '2026-01-01', 'consumer', {quantity}, 0 FROM n"
            ))
            .await;
    }
}
