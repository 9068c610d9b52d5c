//! MySQL is replaced by a server restored from an older dump, or fails over to a replica that lacks
//! a coupon. The tests run the commands of OPERATIONS. Redis and the topic still have everything.

use std::collections::BTreeSet;

use chrono::{Timelike as _, Utc};
use firstcome_harness::{OperatorsShell, commands_of};

use crate::prelude::*;
use crate::uses::{Shop, codes, problem, used};

/// Starts a server with the options that managed services use.
async fn mysql() -> MysqlServer {
    let extra_args = ["--gtid-mode=ON", "--enforce-gtid-consistency=ON"];
    let extra_args = extra_args.map(Into::into).into();
    MysqlServer::start(MysqlOptions::with(extra_args))
        .await
        .unwrap()
}

/// Returns a shell for the commands that name the database and the port of MySQL.
async fn shell_at(world: &World, mysql: &MysqlServer) -> OperatorsShell {
    let mut shell = OperatorsShell::of(world).await;
    shell.set("DATABASE", world.database());
    shell.set("MYSQL_TCP_PORT", &mysql.port().to_string());
    shell
}

/// Returns all rows: coupon, drop, slot, user, code.
async fn rows(world: &World) -> BTreeSet<Vec<String>> {
    let rows = "SELECT coupon_id, drop_id, slot, user_id, code FROM issued_coupons";
    world.sql.query(rows).await.into_iter().collect()
}

#[tokio::test]
#[ignore = "release"]
async fn claims_returns_and_quantities_newer_than_a_dump_are_restored_if_redis_is_intact() {
    let [dump, load, adopt, left] = commands_of("Restore MySQL from a dump")
        .try_into()
        .expect("the number of blocks that this test expects");
    let (first, restored) = tokio::join!(mysql(), mysql());
    let address = FaultProxy::start(first.port()).await.unwrap();
    let url = first.database_url_via(&address, "");
    let stores = WorldStores::shared().await.with_mysql_at(&url);
    let world = World::on(stores, "restore").await;
    world.set("RECONCILE_CRON", "* * * * * *");
    let mut shell = shell_at(&world, &first).await;
    let fixture = Fixture::of(world).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let daemon = world.daemon().await;
    let body = coupon_body("Winter", 20, 5);
    let (winter, held) = fixture.held_of(&body, 10).await;
    let shop = Shop::of(world, api.http());
    let codes = codes(world, winter.drop).await;
    let code = |number: usize| {
        let (_, slot) = held[number].1.promised().unwrap();
        codes[slot as usize - 1].as_str()
    };
    assert_eq!(shop.use_code(code(0), "order-1").await, used());
    let (autumn, _) = fixture.held("Autumn", 30, 5).await;
    shell.run(&dump).await;
    assert_eq!(shop.use_code(code(1), "order-2").await, used());

    // What the dump lacks: claims, a return, a revocation, changed quantities, and a coupon.
    rush_until_answered(&[api], winter.id, &people(20)[10..], 10).await;
    let [giver, again] = [&held[2].0, &held[3].0];
    let slot = api.give_back(winter.id, giver).await.unwrap().1.unwrap();
    let next = api.until_answered(winter.id, "late-1").await;
    assert_eq!(next.promised(), Some((winter.drop, slot)));
    api.revoke(winter.id, again, &order(true)).await.unwrap();
    let again = api.until_answered(winter.id, again).await;
    assert!(again.promised().is_some(), "{again:?}");
    api.change(winter.id, &json!({"quantity": 23})).await;
    let more = api.until_answered(winter.id, "more-1").await;
    assert!(more.promised().is_some(), "{more:?}");
    all_issued(world, winter.drop, 21).await;
    api.change(autumn.id, &json!({"quantity": 12})).await;
    let (spring, spring_held) = fixture.held("Spring", 6, 5).await;
    let spring_giver = spring_held[0].0.as_str();
    api.give_back(spring.id, spring_giver).await.unwrap();
    api.change(spring.id, &json!({"paused": true})).await;
    assert_eq!(fixture.consumer.process.stop().await, 0);
    assert_eq!(daemon.process.stop().await, 0);
    let before = rows(world).await;
    first.kill().await.unwrap();
    let out = ["out-1".to_owned(), "out-2".to_owned()];
    let during = rush_until_answered(&[api], winter.id, &out, 2).await;
    let goes_on = during.iter().all(|(_, answer)| answer.promised().is_some());
    assert!(goes_on, "claims continue while MySQL is down: {during:?}");

    shell.set("MYSQL_TCP_PORT", &restored.port().to_string());
    let user = "CREATE USER without_super";
    restored.query(user).await.unwrap();
    let grant = format!("GRANT ALL ON `{}`.* TO without_super", world.database());
    restored.query(&grant).await.unwrap();
    shell.set("MYSQL_LOGIN", "without_super");
    shell.run(&load).await;
    shell.run(&adopt).await;
    address.set_upstream(restored.port());
    shell.run("firstcome-api migrate").await;
    let consumer = world.consume().await;
    eventually("all messages are read again", LIMIT, async || {
        consumer.metric("firstcome_consumer_lag", &[]).await == Some(0.0)
    })
    .await;
    let unwritten = world.unwritten().await.unwrap();
    assert_eq!(unwritten, 0, "the lag counts every message");
    let _daemon = world.daemon().await;

    all_issued(world, winter.drop, 23).await;
    let now = rows(world).await;
    let lost: Vec<_> = before.difference(&now).collect();
    assert!(lost.is_empty() && now.len() == before.len() + 2, "{lost:?}");
    let listed = shell.run(&left).await;
    let mut listed = listed.lines().map(|line| line.split('\t').next());
    let is_user = |coupon: Option<&str>| coupon.is_some_and(|id| id.parse::<i64>().is_ok());
    assert!(!listed.any(is_user), "nobody is left without a row");
    eventually("passes find nothing else", LIMIT, async || {
        world.once_with(&[], &[]).await.run().all_findings().count() == 0
    })
    .await;
    assert_eq!(shop.use_code(code(0), "order-9").await, problem("used"));
    // The dump lacks this use, so the shop repeats it.
    for _ in 0..2 {
        assert_eq!(shop.use_code(code(1), "order-2").await, used());
    }
    assert_eq!(shop.use_code(code(1), "order-9").await, problem("used"));
    assert!(api.claim(winter.id, giver).await.is("revoked"));
    assert!(api.claim(spring.id, spring_giver).await.is("revoked"));
    assert_eq!(api.coupon(autumn.id).await["quantity"], json!(12));
    let [winter, spring] = [api.coupon(winter.id).await, api.coupon(spring.id).await];
    let found = (&winter["quantity"], &winter["name"]);
    assert_eq!(found, (&json!(23), &json!("Winter")));
    let found = (&spring["quantity"], &spring["paused"]);
    assert_eq!(found, (&json!(6), &json!(true)));
}

/// Creates a daily coupon with one claim in its current drop, and revokes the claim.
async fn daily_with_revocation(fixture: &Fixture, zone: &str, opens: &str) -> MadeCoupon {
    let mut body = coupon_body("Daily", 3, 0);
    body["once_per"] = json!("drop");
    body["schedule"] = json!({
        "type": "daily", "time_zone": zone, "opens": opens, "closes": opens,
        "first_day": "2026-01-01",
    });
    let (coupon, holders) = fixture.held_of(&body, 1).await;
    let revoked = fixture
        .api
        .revoke(coupon.id, &holders[0].0, &order(false))
        .await;
    revoked.unwrap();
    coupon
}

/// Returns the commands after a failover: those that load what Redis has, and the pass.
fn restore_commands() -> (String, &'static str) {
    let [commands] = commands_of("MySQL fails over")
        .try_into()
        .expect("the number of blocks that this test expects");
    let compare = "firstcome-reconciler once";
    let load = commands.trim_end().strip_suffix(compare);
    (load.expect("the pass is last").to_owned(), compare)
}

/// The asynchronous replica that took over lacks a coupon, and the drops and revocations of two
/// daily coupons. One of these drops has ended, also by its coupon's schedule, so no pass creates
/// it. The date in UTC of each opening is one day before or after the local date.
#[tokio::test]
async fn a_coupon_that_a_failover_lost_comes_back_with_its_rows_and_codes() {
    let (load, compare) = restore_commands();
    let fixture = Fixture::new("failover").await;
    let world = &fixture.world;
    let shared = &Stack::shared().await.unwrap().mysql;
    let shell = shell_at(world, shared).await;
    let (coupon, _) = fixture.held("Winter", 20, 10).await;
    // No drop begins or ends in the hour around this test: 00:00 in Kiritimati is 10:00 UTC, and
    // 20:00 in Honolulu is 06:00.
    let hour = Utc::now().hour();
    let is_near_ten = (8..12).contains(&hour);
    let [opens, closes] = if is_near_ten {
        ["13:00", "13:01"]
    } else {
        ["00:00", "00:01"]
    };
    let ended = daily_with_revocation(&fixture, "Pacific/Kiritimati", opens).await;
    let change = json!({"close_now": true, "closes": closes});
    fixture.api.change(ended.id, &change).await;
    let opens = if hour < 8 { "23:00" } else { "20:00" };
    let live = daily_with_revocation(&fixture, "Pacific/Honolulu", opens).await;
    // This revocation has not ended yet.
    let in_progress = format!(
        "UPDATE revoked_coupons SET may_claim_again = 1 WHERE coupon_id = {}",
        live.id
    );
    world.sql.query(&in_progress).await;
    let revoked = world.redis.of_coupon(live.id, "revoked");
    let field = world.sql.query("SELECT CONCAT(drop_id, ':', user_id), CONCAT(id, ':') FROM revoked_coupons WHERE may_claim_again").await;
    let note = ["HSET", &revoked, &field[0][0], &field[0][1]];
    world.redis.command::<i64>(&note).await;
    let before = rows(world).await;
    let daily = format!("({}, {})", ended.id, live.id);
    let drops_with = |condition: &str| {
        format!(
            "SELECT id, local_date, opens_at, closes_at, closed_early FROM drops d \
            WHERE coupon_id IN {daily} AND {condition} ORDER BY id"
        )
    };
    let revoked_here = "EXISTS (SELECT 1 FROM revoked_coupons r WHERE r.drop_id = d.id)";
    let drops = drops_with(revoked_here);
    let drops_before = world.sql.query(&drops).await;
    assert_eq!(drops_before.len(), 2);
    let untouched = drops_with(&format!("NOT {revoked_here}"));
    assert!(!world.sql.query(&untouched).await.is_empty(), "later days");
    let revoked =
        "SELECT id, drop_id, user_id, may_claim_again, again_from FROM revoked_coupons ORDER BY id";
    let revoked_before = world.sql.query(revoked).await;
    assert_eq!(revoked_before.len(), 2);
    let shop = Shop::of(world, fixture.api.http());
    let codes = codes(world, coupon.drop).await;
    assert_eq!(shop.use_code(&codes[0], "order-1").await, used());
    let tables = ["issued_coupons", "revoked_coupons", "slot_limits", "drops"];
    let delete = tables.map(|table| format!("DELETE FROM {table};")).concat();
    let lose = format!(
        "SET FOREIGN_KEY_CHECKS = 0; {delete} DELETE FROM coupons WHERE id NOT IN {daily}; \
        SET FOREIGN_KEY_CHECKS = 1"
    );
    world.sql.query(&lose).await;
    shell.run(&load).await;
    let by_schedule = world.sql.query(&untouched).await;
    assert!(by_schedule.is_empty(), "perhaps removed: {by_schedule:?}");
    assert_eq!(world.sql.query(revoked).await, revoked_before);
    assert_eq!(world.sql.query(&drops).await, drops_before);
    shell.run(compare).await;
    eventually("every row is back", LIMIT, async || {
        world.once_with(&[], &[]).await;
        rows(world).await == before
    })
    .await;
    assert_kept(world, &coupon, &[]).await;
    assert_eq!(shop.use_code(&codes[0], "order-9").await, problem("used"));
}

/// The replica that took over lacks two revocations of a drop that is sealed: that of a user with a
/// row, and that of a user to whom the drop owes a slot.
#[tokio::test]
async fn restored_revocations_correct_a_sealed_drops_number_of_rows_and_its_promises() {
    let (load, _) = restore_commands();
    let fixture = Fixture::new("sealed_dump").await;
    let world = &fixture.world;
    let shared = &Stack::shared().await.unwrap().mysql;
    let shell = shell_at(world, shared).await;
    let (coupon, held) = fixture.held("Winter", 20, 3).await;
    let [with_row, owed] = [held[0].0.as_str(), held[1].0.as_str()];
    let columns = "drop_id, slot, coupon_id, user_id, code, claimed_at, issued_at, issued_by, \
        slot_limit, person_scope";
    let keep = format!("CREATE TABLE earlier AS SELECT {columns} FROM issued_coupons");
    world.sql.query(&keep).await;
    for user in [with_row, owed] {
        fixture
            .api
            .revoke(coupon.id, user, &order(false))
            .await
            .unwrap();
    }
    let drop = coupon.drop;
    let go_back = format!(
        "DELETE FROM revoked_coupons; \
        INSERT INTO issued_coupons ({columns}) \
            SELECT {columns} FROM earlier WHERE user_id = '{with_row}'; \
        INSERT INTO broken_promises (drop_id, coupon_id, slot, user_id, reason, run_id) \
            SELECT drop_id, coupon_id, slot, user_id, 'slot_lost', REPEAT('0', 36) FROM earlier \
            WHERE user_id = '{owed}'; \
        UPDATE drops SET sealed_at = UTC_TIMESTAMP(3), sealed_rows = 2 WHERE id = {drop}"
    );
    world.sql.query(&go_back).await;
    shell.run(&load).await;
    let sealed = "SELECT sealed_rows, (SELECT COUNT(*) FROM issued_coupons i WHERE i.drop_id = d.id), \
        (SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL) FROM drops d";
    assert_eq!(world.sql.query(sealed).await, [["1", "1", "0"]]);
}
