//! Damage to a whole store that no schedule of `faults::single` covers: data that an emptied Redis
//! or an older MySQL lacks, lost drops and coupons, rows that MySQL refuses or takes too long to
//! write, and a foreign transaction in the topic.

use firstcome_harness::{OldCopy, daily_body};
use firstcome_reconciler::report::{Outcome, Status};
use firstcome_shared::crash::Point;

use crate::drift::support::{
    accept_rows, assert_whole, found_in, is_sealed, lose_rows, refuse_rows, until_claims_are_old,
};
use crate::prelude::*;

/// Allow list, revocations and owed users are in force before anybody is admitted.
#[tokio::test]
async fn a_flushed_redis_opens_with_lists_revocations_and_owed_users() {
    let (fixture, _redis) = Fixture::with_own_redis("d-flushed", &[]).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let mut body = coupon_body("Listed", 20, 0);
    body["allow"] = json!("list");
    let listed = api.create_coupon(&body).await;
    api.try_list(listed.id, &people(12), true).await.unwrap();
    rush_until_answered(&[api], listed.id, &people(10), 10).await;
    all_issued(world, listed.drop, 10).await;
    let [first, .., late] = <[String; 12]>::try_from(people(12)).unwrap();
    api.revoke(listed.id, &first, &order(false)).await.unwrap();
    let (full, _) = fixture.held("Full", 20, 20).await;
    let owed = inject(world, &full, Drift::OverShrunk, 3).await;
    pass_ends(world, &[], DRIFT).await;

    inject(world, &listed, Drift::RedisFlushed, 1).await;
    assert!(api.claim(listed.id, &late).await.is("unavailable"));
    api.change(full.id, &json!({"quantity": 20})).await;
    let newcomers: Vec<String> = (0..200).map(|n| format!("new-{n}")).collect();
    let newcomers = rush(&[api], full.id, &newcomers, 5);
    let (newcomers, _) = tokio::join!(newcomers, pass_ends(world, &[], REPAIRED));
    let won = newcomers.iter().filter(|(_, answer)| answer.is_accepted());
    assert_eq!(won.count(), 0, "owed users come first");
    let now = rows(world, full.drop).await;
    let has_row = |user: &String| now.values().any(|holder| holder == user);
    assert!(owed.people.iter().all(|hit| has_row(&hit.user)), "{now:?}");
    assert_whole(world, &full, 20, 20).await;
    assert!(api.claim(listed.id, &first).await.is("revoked"));
    assert!(api.claim(listed.id, "u-unlisted").await.is("not_allowed"));
    let answer = api.until_answered(listed.id, &late).await;
    assert!(answer.promised().is_some(), "{answer:?}");
    all_issued(world, listed.drop, 10).await;
    assert_settled(world, &listed, 20, 10).await;
    clean_pass(world, &listed).await;
}

/// The settings of a higher revision in Redis and the return are adopted, and promises get their
/// rows again, also the one of the next user of the returned slot.
#[tokio::test]
async fn a_mysql_back_from_an_older_copy_keeps_every_promise_and_every_return() {
    let mysql = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let stores = WorldStores::shared()
        .await
        .with_mysql_at(&mysql.database_url(""));
    let fixture = Fixture::of(World::on(stores, "d-older").await).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, mut answers) = fixture.held("Raised", 10, 10).await;
    mysql.freeze().await.unwrap();
    let old = OldCopy::of(mysql.data_dir()).unwrap();
    mysql.thaw().await.unwrap();
    let (returned, slot) = (answers[0].0.clone(), answers[0].1.promised().unwrap().1);
    api.give_back(coupon.id, &returned).await.unwrap();
    api.change(coupon.id, &json!({"quantity": 20})).await;
    let others = &people(21)[10..];
    answers.extend(rush_until_answered(&[api], coupon.id, others, 11).await);
    all_issued(world, coupon.drop, 20).await;
    let later = api.open_coupon(5).await;
    mysql.kill().await.unwrap();
    old.put_back(mysql.data_dir()).unwrap();
    mysql.start_again().await.unwrap();
    world.until_rows(&coupon, 20).await;
    // MySQL forgot the return of a slot that was given again.
    let has_it = |one: &&(String, _)| answers_slot(one) == Some(slot);
    let on_slot = answers.iter().rev().find(has_it).unwrap();
    eventually("the slot is its next user's", LIMIT, async || {
        world.once_with(&[], &[]).await;
        rows(world, coupon.drop).await.get(&slot) == Some(&on_slot.0)
    })
    .await;
    let owed = world.sql.query("SELECT user_id FROM broken_promises").await;
    assert_eq!(owed, [[""; 0]; 0]);
    assert_kept(world, &coupon, &[&returned]).await;
    assert!(api.claim(coupon.id, &returned).await.is("revoked"));
    let other = api.open_coupon(5).await;
    let is_new = other.id != later.id && other.drop != later.drop;
    assert!(is_new, "no id is given twice");
}

/// A failover may lose the era that a closing has just begun. Closing the coupon again would refuse
/// claims for nothing. An older MySQL may lack a coupon that Redis has.
#[tokio::test]
async fn an_era_that_mysql_has_lost_is_adopted_and_a_lost_coupon_is_reported() {
    let fixture = Fixture::new("d-era").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Era", 10, 3).await;
    close(world, &coupon).await;
    world.once_with(&[], &[]).await;
    let gate = ["GET", &world.redis.of_coupon(coupon.id, "gate")];
    let open: String = world.redis.command(&gate).await;
    let era = format!("SELECT era FROM coupons WHERE id = {}", coupon.id);
    let before = world.sql.number(&era).await;
    let lower = format!("UPDATE coupons SET era = era - 1 WHERE id = {}", coupon.id);
    world.sql.query(&lower).await;
    world.once_with(&[], &[]).await;
    assert_eq!(world.redis.command::<String>(&gate).await, open);
    assert_eq!(world.sql.number(&era).await, before);

    // Claims of a coupon that MySQL has lost get 503, so an operator must be alerted.
    let lost = fixture.held("Lost", 20, 0).await.0.id;
    clean_pass(world, &coupon).await;
    lose(world, &format!("coupons WHERE id = {lost}")).await;
    pass_ends(world, &[], DRIFT).await;
    let run = pass_ends(world, &[], DRIFT).await;
    let mut found = run
        .all_findings()
        .filter(|found| found.detail.contains("MySQL has lost this coupon"));
    let is_named = found.any(|found| found.coupon_id.is_some_and(|coupon| coupon.0 == lost));
    assert!(is_named, "{run:#?}");
}

/// Otherwise the user could never claim again. MySQL forgets a revocation before the API can end it,
/// or ends it when Redis does not: each then has as many revocations as the other.
#[tokio::test]
async fn a_revocation_that_mysql_forgot_or_ended_alone_ends_after_all() {
    let fixture = Fixture::new("d-again").await;
    let Fixture { api, world, .. } = &fixture;
    for point in [Point::RevocationReleased, Point::RevocationEnded] {
        let (coupon, held) = fixture.held("Again", 3, 1).await;
        let user = &held[0].0;
        let dying = world
            .serve_with(&[("FIRSTCOME_CRASH_AT", point.name())])
            .await;
        let revoked = dying.revoke(coupon.id, user, &order(true)).await;
        assert!(matches!(revoked, Err(Answer::Unknown(_))), "{revoked:?}");
        dying.process.ended(LIMIT).await;
        if point == Point::RevocationReleased {
            lose(world, "revoked_coupons").await;
        }
        eventually("the user has a coupon again", LIMIT, async || {
            world.once_with(&[], &[]).await;
            api.claim(coupon.id, user).await.promised().is_some()
        })
        .await;
    }
}

fn answers_slot(one: &(String, firstcome_harness::Answer)) -> Option<u32> {
    one.1.promised().map(|(_, slot)| slot)
}

/// Deletes rows of a table, all of them unless `table` has a condition. References are not checked,
/// as in a restore of a single table.
async fn lose(world: &World, table: &str) {
    let mut session = HeldTransaction::begin(&world.sql).await;
    session.run("SET FOREIGN_KEY_CHECKS = 0").await;
    session.run(&format!("DELETE FROM {table}")).await;
    session.commit().await;
}

/// A session that does not check foreign keys, such as that of a dump, can insert row 11 of 10.
#[tokio::test]
async fn rows_above_the_quantity_are_reported_by_name_and_never_reach_redis() {
    let fixture = Fixture::new("d-surplus").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Surplus", 10, 10).await;
    let (id, drop) = (coupon.id, coupon.drop);
    let mut session = HeldTransaction::begin(&world.sql).await;
    session.run("SET FOREIGN_KEY_CHECKS = 0").await;
    let insert = format!(
        "INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, code, claimed_at, \
         issued_by, slot_limit, person_scope) SELECT drop_id, 11, coupon_id, 'u-11', CONCAT(code, \
         'X'), claimed_at, issued_by, 11, person_scope FROM issued_coupons WHERE drop_id = {drop} \
         AND slot = 10"
    );
    session.run(&insert).await;
    session.commit().await;
    let users = world.redis.of_drop(id, drop, "users");
    let in_redis = async || -> Vec<String> {
        let words = ["ZRANGE", &users, "0", "-1"];
        world.redis.command(&words).await
    };
    for is_written_again in [false, true] {
        if is_written_again {
            inject(world, &coupon, Drift::CountHigher, 1).await;
        }
        let run = pass_ends(world, &[], DRIFT).await;
        let report = run.drops.iter().find(|it| it.drop_id.0 == drop).unwrap();
        assert!(!report.exact && report.after.rows == 11, "{report:#?}");
        let surplus = report.findings.iter().find(|it| it.needs_person).unwrap();
        assert_eq!(surplus.kind, Kind::OverIssued, "{report:#?}");
        let named = (surplus.slot, surplus.user_id.as_deref());
        assert_eq!(named, (Some(11), Some("u-11")), "{report:#?}");
        let users = in_redis().await;
        assert!(users.len() == 10 && !users.iter().any(|user| user == "u-11"));
    }
    fixture.api.change(id, &json!({"close_now": true})).await;
    pass_ends(world, &[], DRIFT).await;
    assert!(!is_sealed(world, &coupon).await, "it is not exact");
    // The operator takes the row back.
    lose_rows(world, &coupon, "= 11").await;
    assert_settled(world, &coupon, 10, 10).await;
    until_sealed(world, &coupon).await;
    // A sealed drop with a row too many.
    let mut session = HeldTransaction::begin(&world.sql).await;
    session.run("SET FOREIGN_KEY_CHECKS = 0").await;
    let lower = format!("UPDATE drops SET quantity = 9 WHERE id = {drop}");
    session.run(&lower).await;
    session.commit().await;
    let run = pass_ends(world, &["--deep"], DRIFT).await;
    let kinds: Vec<Kind> = found_in(&run, &coupon).iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [Kind::OverIssued], "{run:#?}");
}

#[tokio::test]
async fn a_day_that_mysql_refuses_is_reported_by_each_pass_until_its_drop_is_created() {
    let fixture = Fixture::new("d-refused-day").await;
    let world = &fixture.world;
    let daily = fixture.held_of(&daily_body(20, 2), 1).await.0;
    let refuse = "CREATE TRIGGER by_hand BEFORE INSERT ON drops FOR EACH ROW \
         SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no drops by hand'";
    world.sql.query(refuse).await;
    let id = daily.id;
    let tomorrow = format!("drops WHERE coupon_id = {id} AND id <> {}", daily.drop);
    let day = format!("SELECT MIN(local_date) FROM {tomorrow}");
    let day = world.sql.query(&day).await.concat().concat();
    lose(world, &tomorrow).await;
    for _ in 0..2 {
        let run = pass_ends(world, &[], DRIFT).await;
        let found = run.findings.iter().find(|it| it.kind == Kind::MissingDrop);
        let found = found.unwrap_or_else(|| panic!("{run:#?}"));
        assert_eq!(found.coupon_id.map(|id| id.0), Some(id));
        for words in [&day, "no drops by hand"] {
            assert!(found.detail.contains(words), "{found:?}");
        }
    }
    world.sql.query("DROP TRIGGER by_hand").await;
    clean_pass(world, &daily).await;
    let back = format!("SELECT id FROM {tomorrow}");
    let back = world.sql.number(&back).await;
    let meta = world.redis.of_drop(id, back, "meta");
    let is_known: bool = world.redis.command(&["EXISTS", &meta]).await;
    assert!(is_known, "admission does not know drop {back}");
}

#[tokio::test]
async fn a_refused_row_is_reported_in_the_words_of_mysql_and_written_by_a_later_pass() {
    let fixture = Fixture::new("d-limits").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Limits", 20, 12).await;
    refuse_rows(world, "NEW.slot = 2").await;
    lose_rows(world, &coupon, "<= 3").await;
    // A projection from the rows would lose the user who has no row.
    inject(world, &coupon, Drift::CountHigher, 1).await;
    let run = pass_ends(world, &[], DRIFT).await;
    assert_eq!(rows(world, coupon.drop).await.len(), 11);
    let found = found_in(&run, &coupon);
    let mut details = found.iter().map(|finding| &finding.detail);
    let is_quoted = details.any(|detail| detail.contains("refused by hand"));
    assert!(is_quoted, "{found:#?}");
    let owed = "SELECT COUNT(*) FROM broken_promises";
    assert_eq!(world.sql.number(owed).await, 0, "nobody is owed for that");
    accept_rows(world).await;
    pass_ends(world, &[], REPAIRED).await;
    assert_settled(world, &coupon, 20, 12).await;
    // No row can be inserted without the limits, which follow from the quantities.
    lose(world, "slot_limits").await;
    lose_rows(world, &coupon, "<= 3").await;
    pass_ends(world, &[], REPAIRED).await;
    assert_settled(world, &coupon, 20, 12).await;
}

/// MySQL is fast except when it inserts a row of the slow coupon.
#[tokio::test]
async fn an_insert_that_takes_too_long_delays_its_coupon_and_no_other() {
    let fixture = Fixture::new("d-slow").await;
    let world = &fixture.world;
    // Shorter than the insert takes.
    world.set("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "4000");
    let (slow, _) = fixture.held("Slow", 20, 5).await;
    let (other, _) = fixture.held("Other", 20, 12).await;
    let hang = format!(
        "CREATE TRIGGER by_hand BEFORE INSERT ON issued_coupons FOR EACH ROW \
         IF NEW.coupon_id = {} THEN DO SLEEP(9); END IF",
        slow.id
    );
    world.sql.query(&hang).await;
    until_claims_are_old(world, &slow).await;
    inject(world, &slow, Drift::FailedDuplicate, 1).await;
    lose_rows(world, &slow, "= 1").await;
    lose_rows(world, &other, "<= 3").await;
    let run = pass_ends(world, &[], DRIFT).await;
    let found = found_in(&run, &slow);
    let mut results = found.iter().map(|finding| finding.result);
    assert!(results.any(|it| it == Outcome::Applied), "{run:#?}");
    let mut details = found.iter().map(|finding| &finding.detail);
    assert!(details.any(|it| it.contains("did not answer")), "{run:#?}");
    let issued = found_in(&run, &other);
    let applied = issued.iter().filter(|it| it.result == Outcome::Applied);
    assert_eq!(applied.count(), 3, "{run:#?}");
    assert_settled(world, &other, 20, 12).await;
    world.sql.query("DROP TRIGGER by_hand").await;
    pass_ends(world, &[], REPAIRED).await;
    assert_settled(world, &slow, 20, 5).await;
}

/// The first repair is made, then MySQL ends the connection of the second.
#[tokio::test]
async fn a_pass_that_is_interrupted_reports_what_it_has_repaired_in_that_coupon() {
    let fixture = Fixture::new("d-interrupted").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("Interrupted", 20, 5).await;
    until_claims_are_old(world, &coupon).await;
    inject(world, &coupon, Drift::FailedDuplicate, 1).await;
    lose_rows(world, &coupon, "= 1").await;
    let mut lock = HeldTransaction::begin(&world.sql).await;
    let era = format!("SELECT era FROM coupons WHERE id = {}", coupon.id);
    lock.run(&format!("{era} FOR UPDATE")).await;
    let waiting = "SELECT t.processlist_id FROM performance_schema.data_lock_waits w \
        JOIN performance_schema.data_locks l ON l.engine_lock_id = w.requesting_engine_lock_id \
        JOIN performance_schema.threads t ON t.thread_id = l.thread_id \
        WHERE l.object_schema = DATABASE()";
    let interrupted = async {
        let insert = eventually_some("the insert waits", LIMIT, async || {
            let found = world.sql.query(waiting).await.concat();
            found.into_iter().next().ok_or("none waits")
        });
        world.sql.query(&format!("KILL {}", insert.await)).await;
    };
    let (once, ()) = tokio::join!(world.once_with(&[], &[]), interrupted);
    lock.commit().await;
    let run = once.run();
    assert_eq!(run.status, Status::Failed, "{run:#?}");
    let recorded = "SELECT action FROM reconcile_findings WHERE result = 'applied'";
    assert_eq!(world.sql.query(recorded).await, [["resolve"]], "{run:#?}");
    pass_ends(world, &[], REPAIRED).await;
    assert_settled(world, &coupon, 20, 5).await;
}

/// A foreign transaction hides later messages from readers of committed ones, and its marker takes
/// the last offset.
#[tokio::test]
async fn a_foreign_transaction_hides_no_claims_and_keeps_nothing_closed() {
    let fixture = Fixture::new("d-transaction").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let coupon = api.open_coupon(20).await;
    let foreign = world.topic.open_transaction(b"not ours").await;
    rush_until_answered(&[api], coupon.id, &people(10), 10).await;
    all_issued(world, coupon.drop, 10).await;
    let reopens = async |user: &str| {
        inject(world, &coupon, Drift::RedisLost, 1).await;
        eventually(&format!("{user} is admitted"), LIMIT, async || {
            world.once_with(&[], &[]).await;
            api.claim(coupon.id, user).await.promised().is_some()
        })
        .await;
    };
    reopens("u-beside").await;
    foreign.abort().await;
    reopens("u-behind").await;
    all_issued(world, coupon.drop, 12).await;
    assert_kept(world, &coupon, &[]).await;
}
