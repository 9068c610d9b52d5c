//! Damage of a size at which one statement, or one transaction, would be refused or take too long.

use firstcome_harness::holders;
use firstcome_reconciler::report::Run;

use crate::prelude::*;

/// Selects the numbers from 1 to `last` as `n`.
fn numbers(last: u32) -> String {
    format!(
        "(WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < {last}) \
         SELECT n FROM t) numbers"
    )
}

/// Runs a statement in a session that allows these numbers.
async fn bulk(world: &World, sql: &str) {
    let mut session = HeldTransaction::begin(&world.sql).await;
    session
        .run("SET SESSION cte_max_recursion_depth = 100000")
        .await;
    session.run(sql).await;
    session.commit().await;
}

/// MySQL refuses a statement with more than 65,535 parameters.
#[tokio::test]
#[ignore = "release"]
async fn thirty_three_thousand_dead_letters_of_one_page_end_in_one_pass() {
    let fixture = Fixture::new("d-letters").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Letters", 330, 330).await;
    let letters = format!(
        "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason) SELECT \
         i.coupon_id, i.drop_id, i.slot, i.user_id, 'row_locked' FROM issued_coupons i JOIN {} \
         WHERE i.drop_id = {}",
        numbers(100),
        coupon.drop
    );
    bulk(world, &letters).await;
    pass_ends(world, &[], REPAIRED).await;
    let ended = "SELECT COUNT(*) FROM failed_claims WHERE resolution = 'duplicate'";
    assert_eq!(world.sql.number(ended).await, 33_000);
    pass_ends(world, &[], CLEAN).await;
}

/// Redis has 12,000 users on slots whose rows are those of others, all of whom are owed a slot.
#[tokio::test]
#[ignore = "release"]
async fn twelve_thousand_users_who_lose_their_slots_are_all_listed() {
    const USERS: u32 = 12_000;
    let fixture = Fixture::new("d-owed").await;
    let world = &fixture.world;
    world.set("FIRSTCOME_TEST_RECONCILE_BRAKE_PERCENT", "100");
    let coupon = fixture.api.open_coupon(USERS).await;
    let rows = format!(
        "INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, \
         person_scope) SELECT l.drop_id, n, l.coupon_id, CONCAT('row-', n), 'consumer', \
         l.slot_limit, l.person_scope FROM {} JOIN slot_limits l ON l.drop_id = {} \
         AND l.slot_limit = {USERS}",
        numbers(USERS),
        coupon.drop
    );
    bulk(world, &rows).await;
    let of = |key: &str| world.redis.of_drop(coupon.id, coupon.drop, key);
    let mut add = vec!["ZADD".to_owned(), of("users")];
    add.extend((1..=USERS).flat_map(|n| [n.to_string(), format!("user-{n}")]));
    let add: Vec<&str> = add.iter().map(String::as_str).collect();
    world.redis.command::<i64>(&add).await;
    let set = ["SET", &of("count"), &USERS.to_string()];
    world.redis.command::<()>(&set).await;
    pass_ends(world, &[], DRIFT).await;
    let owed = "SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL";
    assert_eq!(world.sql.number(owed).await, i64::from(USERS));
    assert_eq!(holders(world, &coupon).await, i64::from(USERS));
    let waiting = ["ZCARD", &of("waiting")];
    assert_eq!(world.redis.command::<u32>(&waiting).await, USERS);
}

/// If the rows of a sealed drop are lost, all its uses are without a row.
#[tokio::test]
async fn stray_uses_of_a_lost_table_are_listed_up_to_a_limit_and_counted() {
    const USES: u32 = 20_000;
    let fixture = Fixture::new("d-stray").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Stray", 3, 3).await;
    let (other, _) = fixture.held("Other", 3, 3).await;
    fixture
        .api
        .change(coupon.id, &json!({"close_now": true}))
        .await;
    until_sealed(world, &coupon).await;
    for drop in [coupon.drop, other.drop] {
        let uses = format!(
            "INSERT INTO coupon_uses (drop_id, slot, claimed_at, reference, used_by, used_at) \
             SELECT {drop}, 10 + n, UTC_TIMESTAMP(3), CONCAT('order-', n), 'shop', \
             UTC_TIMESTAMP(3) FROM {}",
            numbers(USES)
        );
        bulk(world, &uses).await;
    }
    let is_stray = |run: &Run, drop: i64| -> (usize, u64) {
        let all = run.findings.iter().filter(|it| it.kind == Kind::BadUse);
        let own = all.filter(|it| it.drop_id.is_some_and(|id| id.0 == drop));
        own.fold((0, 0), |(listed, number), found| {
            let of_more = found
                .detail
                .split(' ')
                .next()
                .and_then(|it| it.parse().ok());
            (listed + 1, number + of_more.unwrap_or(1))
        })
    };
    let run = pass_ends(world, &["--deep"], DRIFT).await;
    for drop in [coupon.drop, other.drop] {
        assert_eq!(is_stray(&run, drop), (201, u64::from(USES)), "{drop}");
    }
    let id = coupon.id.to_string();
    let run = pass_ends(world, &["--deep", "--coupon", &id], DRIFT).await;
    assert_eq!(is_stray(&run, coupon.drop).0, 201);
    assert_eq!(is_stray(&run, other.drop).0, 0, "of another coupon");
}
