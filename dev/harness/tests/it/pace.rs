//! `ROWS_PER_SECOND` in the whole system: consumers and scheduled passes keep the pace, requested
//! passes ignore it, and a backlog keeps no other coupon closed.

use crate::drift::support::{IN_FLIGHT, accept_rows, lose_rows, refuse_rows};
use crate::prelude::*;

/// The number of concurrent claims.
const AT_ONCE: usize = 64;

const OF_CONSUMERS: &str = "SELECT COUNT(*) FROM issued_coupons WHERE issued_by = 'consumer'";

/// At 10 rows a second, the backlog of 1,500 rows would take two and a half minutes.
#[tokio::test]
async fn backlog_of_one_coupon_keeps_no_other_closed_after_a_restart_of_redis() {
    let pace = [("ROWS_PER_SECOND", "10")];
    let (fixture, redis) = Fixture::with_own_redis("pace-redis", &pace).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (other, others) = fixture.held("Other", 10, 5).await;
    let _daemon = world.daemon().await;
    let crowded = api.open_coupon(1_500).await;
    let answers = rush_until_answered(&[api], crowded.id, &people(1_500), AT_ONCE).await;
    assert!(answers.iter().all(|(_, it)| it.promised().is_some()));
    let rows = world.sql.number(OF_CONSUMERS).await;
    assert!(rows < 750, "{rows} rows already");
    let restarted = Instant::now();
    redis.restart().await.unwrap();
    api.until_promised(other.id, &others[0].0).await;
    let closed_for = restarted.elapsed();
    println!("1,500 rows at 10 a second, Redis restarted: closed for {closed_for:.1?}");
    // It takes at most ten seconds on a quiet machine.
    let backlog = Duration::from_secs((1_500 - rows).unsigned_abs() / 10);
    assert!(
        closed_for < backlog * 2 / 3,
        "{closed_for:?} of {backlog:?}"
    );
    api.until_promised(crowded.id, &answers[0].0).await;
    // If Kafka is slow, the API writes the rows of a claim itself.
    let not_of_passes =
        "SELECT COUNT(*) FROM issued_coupons WHERE issued_by IN ('consumer', 'api')";
    assert_eq!(world.sql.number(not_of_passes).await, 1_505);
}

#[tokio::test]
async fn the_passes_of_a_starting_daemon_keep_the_pace_and_a_requested_pass_ignores_it() {
    let fixture = Fixture::new("pace-sweep").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Lost", 100, 100).await;
    let claimed = "MAX(claimed_at) FROM issued_coupons";
    let over = format!("SELECT (SELECT {claimed}) + {IN_FLIGHT} < UTC_TIMESTAMP(3)");
    eventually("no claim is in flight", LIMIT, async || {
        world.sql.number(&over).await == 1
    })
    .await;
    world.sql.query("DELETE FROM issued_coupons").await;
    eventually("all rows are due", LIMIT, async || {
        let planned = world.once_with(&["--dry-run"], &[]).await.run();
        let drop = planned.drops.iter().find(|it| it.coupon_id.0 == coupon.id);
        drop.is_some_and(|it| (it.before.users, it.before.in_flight) == (100, 0))
    })
    .await;
    world.set("ROWS_PER_SECOND", "1");
    let daemon = world.daemon().await;
    let rows = rows(world, coupon.drop).await.len();
    assert!((30..60).contains(&rows), "{rows}: {}", daemon.process.log());
    world.pass().await;
    all_issued(world, coupon.drop, 100).await;
}

/// While nobody waits for the barrier, nothing writes more rows than the pace allows: no promotion
/// beside a backlog, no coupon that MySQL's refusal of a row keeps closed, and no daemon that
/// starts.
#[tokio::test]
async fn nothing_exceeds_the_pace_while_no_coupon_waits_for_the_consumer() {
    const PACE: u32 = 40;
    const CLAIMS: u32 = 900;
    let world = World::new("pace-above").await;
    world.set("ROWS_PER_SECOND", &PACE.to_string());
    let fixture = Fixture::of(world).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (line, holders) = fixture.held_of(&coupon_body("Line", 2, 9), 2).await;
    let (stuck, _) = fixture.held("Stuck", 5, 2).await;
    all_issued(world, line.drop, 2).await;
    all_issued(world, stuck.drop, 2).await;
    let _daemon = world.daemon().await;
    refuse_rows(world, &format!("NEW.drop_id = {}", stuck.drop)).await;
    lose_rows(world, &stuck, "= 2").await;
    close(world, &stuck).await;
    eventually("the coupon is kept closed", LIMIT, async || {
        let failed = "SELECT COUNT(*) FROM reconcile_findings WHERE kind = 'redis_lost' AND result = 'failed'";
        world.sql.number(failed).await > 0
    })
    .await;
    // The consumer had read everything when it was closed.
    let suspended = "SELECT COUNT(*) FROM reconciler_state WHERE name = 'rows_unpaced'";
    assert_eq!(world.sql.number(suspended).await, 0);
    for user in ["w-1", "w-2"] {
        api.claim(line.id, user).await;
    }
    let crowded = api.open_coupon(CLAIMS).await;
    rush_until_answered(&[api], crowded.id, &people(CLAIMS as usize), 4).await;
    api.give_back(line.id, &holders[0].0).await.unwrap();
    // A daemon that starts would wait for the consumer, too, if a coupon were still closed.
    accept_rows(world).await;
    eventually("the coupon is open again", LIMIT, async || {
        world.redis.gates_are_open().await
    })
    .await;
    let _second = world.daemon().await;
    api.give_back(line.id, &holders[1].0).await.unwrap();
    let rows = format!(
        "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {}",
        crowded.drop
    );
    eventually("all rows", Duration::from_secs(60), async || {
        world.sql.number(&rows).await == i64::from(CLAIMS)
    })
    .await;
    // Any ten seconds.
    let most = format!(
        "SELECT MAX(n) FROM (SELECT COUNT(*) AS n FROM issued_coupons a JOIN issued_coupons b \
         ON b.issued_at BETWEEN a.issued_at AND a.issued_at + INTERVAL 10 SECOND \
         WHERE a.drop_id = {0} AND b.drop_id = {0} GROUP BY a.slot) m",
        crowded.drop
    );
    let most = world.sql.number(&most).await;
    println!("{most} rows in ten seconds at {PACE} a second");
    // A batch is a quarter of a second, and its last message has up to four claims.
    let allowed = i64::from(PACE) * 10 * 102 / 100 + i64::from(PACE) / 4 + 4;
    assert!(most <= allowed, "{most} > {allowed}");
    let not_of_consumers = format!(
        "SELECT COUNT(*) FROM issued_coupons WHERE issued_by = 'reconciler' AND drop_id <> {}",
        stuck.drop
    );
    assert_eq!(
        world.sql.number(&not_of_consumers).await,
        2,
        "the promoted ones"
    );
}

/// The backlog lasts for more than two minutes. A claim without a row is overdue after one minute,
/// but not while its consumer waits for the pace.
#[tokio::test]
#[ignore = "release"]
async fn consumers_write_a_backlog_at_the_pace_although_one_is_killed() {
    let world = World::new("pace-backlog").await;
    world.set("ROWS_PER_SECOND", "20");
    let fixture = Fixture::of(world).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let second = world.consume().await;
    let _daemon = world.daemon().await;
    world.mail.clear();
    let coupon = api.open_coupon(2_600).await;
    let begun = Instant::now();
    rush(&[api], coupon.id, &people(2_600), AT_ONCE).await;
    let rows = "SELECT COUNT(*) FROM issued_coupons";
    let long = Duration::from_secs(300);
    eventually("half of the rows", long, async || {
        world.sql.number(rows).await >= 1_600
    })
    .await;
    second.process.kill().await;
    eventually("all rows", long, async || {
        world.sql.number(rows).await == 2_600
    })
    .await;
    let took = begun.elapsed().as_secs();
    println!("2,600 rows at 20 a second: {took} s");
    assert!((100..170).contains(&took), "{took}");
    assert_eq!(world.sql.number(OF_CONSUMERS).await, 2_600);
    let most = "SELECT MAX(n) FROM (SELECT COUNT(*) AS n FROM issued_coupons a JOIN issued_coupons b \
                ON b.issued_at BETWEEN a.issued_at AND a.issued_at + INTERVAL 60 SECOND GROUP BY a.drop_id, a.slot) m";
    let most = world.sql.number(most).await;
    // The tolerance is a quarter of a second, and one message of each of the two consumers.
    assert!(most <= 20 * 60 + 5 + 2 * 128, "{most} rows in a minute");
    assert_eq!(world.mail.mails().len(), 0);
    let run = world.pass().await;
    assert_eq!(run.findings.len(), 0, "{run:#?}");
}
