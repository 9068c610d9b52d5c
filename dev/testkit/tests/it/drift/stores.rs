//! Damage to a whole store: everything in Redis is lost, MySQL goes back or loses a table, the
//! topic is created again, or positions are moved. Promises survive, and coupons open again.

use firstcome_stack::{MysqlOptions, MysqlServer, RedisOptions, RedisServer};
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{
    Fixture, HeldTransaction, LIMIT, OldCopy, World, WorldStores, all_issued, assert_exact,
    assert_kept, coupon_body, eventually, people, rows, rush,
};
use serde_json::json;

use crate::drift::support::{
    DRIFT, REPAIRED, assert_settled, assert_whole, clean_pass, found_in, inject, lose_rows, mailed,
    pass_ends,
};

/// Allow list, revocations and owed users are in force before anybody is admitted.
#[tokio::test]
async fn a_flushed_redis_opens_with_lists_revocations_and_owed_users() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&redis);
    let fixture = Fixture::on(stores, "d-flushed").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let mut body = coupon_body("Listed", 20, 0);
    body["allow"] = json!("list");
    let listed = api.create_coupon(&body).await;
    api.try_list(listed.id, &people(12), true).await.unwrap();
    let mut answers = rush(&[&**api], listed.id, &people(10), 10).await;
    all_issued(world, listed.drop, 10).await;
    let fraud = json!({"reason": "fraud", "by": "Ann"});
    api.revoke(listed.id, &people(1)[0], &fraud).await.unwrap();
    answers.retain(|(user, _)| *user != people(1)[0]);
    let (full, _) = fixture.held("Full", 20, 20).await;
    let owed = inject(world, &full, Drift::OverShrunk, 3).await;
    pass_ends(world, &[], DRIFT).await;

    inject(world, &listed, Drift::RedisFlushed, 1).await;
    assert!(
        api.claim(listed.id, &people(11)[10])
            .await
            .is("unavailable")
    );
    api.change(full.id, &json!({"quantity": 20})).await;
    let newcomers: Vec<String> = (0..200).map(|n| format!("new-{n}")).collect();
    let (newcomers, _) = tokio::join!(
        rush(&[&**api], full.id, &newcomers, 5),
        pass_ends(world, &[], REPAIRED)
    );
    let won = newcomers.iter().filter(|(_, answer)| answer.is_accepted());
    assert_eq!(won.count(), 0, "owed users come first");
    let now = rows(world, full.drop).await;
    assert!(
        owed.people
            .iter()
            .all(|hit| now.values().any(|user| *user == hit.user))
    );
    assert_whole(world, &full, 20, 20).await;
    assert!(api.claim(listed.id, &people(1)[0]).await.is("revoked"));
    assert!(api.claim(listed.id, "u-unlisted").await.is("not_allowed"));
    let late = people(12)[11].clone();
    answers.push((late.clone(), api.claim(listed.id, &late).await));
    assert!(answers.last().unwrap().1.is_accepted());
    all_issued(world, listed.drop, 10).await;
    assert_settled(world, &listed, 20, 10, &answers).await;
    clean_pass(world, &listed).await;
}

/// Positions that name nothing of the log must neither hide unread messages nor keep a coupon
/// closed.
#[tokio::test]
async fn moved_positions_and_a_recreated_topic_lose_no_claim_and_keep_nothing_closed() {
    let fixture = Fixture::new("d-positions").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, mut answers) = fixture.held("Positions", 100, 10).await;
    for damage in ["ahead", "back", "lost", "recreated"] {
        fixture.consumer.process.freeze();
        let some: Vec<String> = (0..10).map(|n| format!("u-{damage}-{n}")).collect();
        answers.extend(rush(&[&**api], coupon.id, &some, 10).await);
        match damage {
            "ahead" => {
                world
                    .sql
                    .query("UPDATE topic_positions SET next_offset = next_offset + 1000")
                    .await
            }
            "back" => {
                world
                    .sql
                    .query("UPDATE topic_positions SET next_offset = 0")
                    .await
            }
            "lost" => world.sql.query("DELETE FROM topic_positions").await,
            _ => {
                world.topic.recreate().await;
                Vec::new()
            }
        };
        fixture.consumer.process.thaw();
        // Redis has lost nothing, so it knows each claim whose message is skipped or gone.
        eventually(
            &format!("every claim has its row: {damage}"),
            LIMIT,
            async || {
                world.once_with(&[], &[]).await;
                rows(world, coupon.drop).await.len() == answers.len()
            },
        )
        .await;
        inject(world, &coupon, Drift::RedisLost, 1).await;
        eventually(
            &format!("the coupon is open again: {damage}"),
            LIMIT,
            async || {
                world.once_with(&[], &[]).await;
                api.claim(coupon.id, &some[0]).await.promised().is_some()
            },
        )
        .await;
        assert_settled(world, &coupon, 100, answers.len(), &answers).await;
    }
}

/// The settings of a higher revision in Redis are adopted, promises get their rows again, and a
/// return that MySQL has forgotten stands again.
#[tokio::test]
async fn a_mysql_back_from_an_older_copy_breaks_no_promise() {
    let mysql = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let stores = WorldStores::shared().await.with_mysql(&mysql);
    let fixture = Fixture::of(World::on(stores, "d-older").await).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, mut answers) = fixture.held("Raised", 10, 10).await;
    mysql.freeze().await.unwrap();
    let old = OldCopy::of_folder(mysql.data_dir()).unwrap();
    mysql.thaw().await.unwrap();
    let (returned, slot) = (answers[0].0.clone(), answers[0].1.promised().unwrap().1);
    api.give_back(coupon.id, &returned).await.unwrap();
    api.change(coupon.id, &json!({"quantity": 20})).await;
    answers.extend(rush(&[&**api], coupon.id, &people(21)[10..], 11).await);
    all_issued(world, coupon.drop, 20).await;
    let later = api.open_coupon(5).await;
    mysql.kill().await.unwrap();
    old.put_back_into(mysql.data_dir()).unwrap();
    mysql.start_again().await.unwrap();
    let owed = "SELECT user_id FROM broken_promises";
    eventually("passes have restored the rows", LIMIT, async || {
        world.once_with(&[], &[]).await;
        rows(world, coupon.drop).await.len() == 20
    })
    .await;
    // The slot of the forgotten return was given again. Its new holder is owed, by name.
    let on_slot = answers
        .iter()
        .rev()
        .find(|(_, answer)| answer.promised().is_some_and(|p| p.1 == slot));
    let owed = world.sql.query(owed).await.concat();
    assert_eq!(owed, [on_slot.unwrap().0.clone()]);
    assert_eq!(rows(world, coupon.drop).await[&slot], returned);
    assert_kept(world, &coupon, &answers, &[&owed[0], &returned]).await;
    let other = api.open_coupon(5).await;
    assert!(
        other.id != later.id && other.drop != later.drop,
        "no id is given twice"
    );
    let claims = rush(&[&**api], other.id, &people(5), 5).await;
    all_issued(world, other.drop, 5).await;
    assert_exact(world, &other, 5, &claims).await;
}

/// Deletes all rows of a table without checking references, as a restore of a single table does.
async fn lose(world: &World, table: &str) {
    let mut session = HeldTransaction::begin(&world.sql).await;
    session.run("SET FOREIGN_KEY_CHECKS = 0").await;
    session.run(&format!("DELETE FROM {table}")).await;
    session.commit().await;
}

#[tokio::test]
async fn lost_drops_come_back_under_their_own_ids() {
    let fixture = Fixture::new("d-drops").await;
    let world = &fixture.world;
    let body = firstcome_testkit::daily_body(20, 1);
    let daily = fixture.held_of(&body, 12).await;
    let once = fixture.held("Once", 20, 12).await;
    let (lowered, kept) = fixture.held("Lowered", 20, 12).await;
    lose(world, "drops").await;
    let lower = format!("UPDATE coupons SET quantity = 9 WHERE id = {}", lowered.id);
    world.sql.query(&lower).await;
    for (coupon, answers) in [daily, once] {
        let back = format!("SELECT COUNT(*) FROM drops WHERE id = {}", coupon.drop);
        eventually("the drop is back", LIMIT, async || {
            world.once_with(&["--deep"], &[]).await;
            world.sql.number(&back).await == 1
        })
        .await;
        assert_settled(world, &coupon, 20, 12, &answers).await;
        // The API reads the catalogue every second.
        eventually("the drop goes on", LIMIT, async || {
            let late = fixture.api.claim(coupon.id, "u-late").await;
            late.promised() == Some((coupon.drop, 13))
        })
        .await;
    }
    // Rows above a quantity that was lowered meanwhile stay.
    world.once_with(&["--deep"], &[]).await;
    assert_settled(world, &lowered, 12, 12, &kept).await;
}

#[tokio::test]
async fn rows_that_mysql_refuses_stay_as_they_are_and_the_finding_quotes_mysql() {
    let fixture = Fixture::new("d-limits").await;
    let world = &fixture.world;
    let (coupon, answers) = fixture.held("Limits", 20, 12).await;
    let refuse = "CREATE TRIGGER by_hand BEFORE INSERT ON issued_coupons FOR EACH ROW \
         SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'firstcome: refused by hand'";
    world.sql.query(refuse).await;
    lose_rows(world, &coupon, "<= 3").await;
    let run = pass_ends(world, &[], DRIFT).await;
    let found = found_in(&run, &coupon);
    let quotes = |detail: &str| detail.contains("refused by hand");
    assert!(
        found.iter().any(|finding| quotes(&finding.detail)),
        "{found:#?}"
    );
    let owed = "SELECT COUNT(*) FROM broken_promises";
    assert_eq!(world.sql.number(owed).await, 0, "nobody is owed for that");
    world.sql.query("DROP TRIGGER by_hand").await;
    pass_ends(world, &[], REPAIRED).await;
    assert_settled(world, &coupon, 20, 12, &answers).await;
    // No row can be inserted without the limits, which follow from the quantities.
    lose(world, "slot_limits").await;
    lose_rows(world, &coupon, "<= 3").await;
    pass_ends(world, &[], REPAIRED).await;
    assert_settled(world, &coupon, 20, 12, &answers).await;
}

/// A foreign transaction locks what every insert of a row of one drop reads.
#[tokio::test]
async fn locked_rows_of_one_coupon_delay_no_rows_of_another() {
    let fixture = Fixture::new("d-locked").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let [first, second] = [api.open_coupon(20).await, api.open_coupon(20).await];
    let mut held = HeldTransaction::begin(&world.sql).await;
    let lock = "SELECT drop_id FROM slot_limits WHERE drop_id";
    held.run(&format!("{lock} = {} FOR UPDATE", first.drop))
        .await;
    let answers =
        [&first, &second].map(|coupon| async { rush(&[&**api], coupon.id, &people(10), 10).await });
    let [locked, free] = answers;
    let (locked, free) = tokio::join!(locked, free);
    all_issued(world, second.drop, 10).await;
    lose_rows(world, &second, "<= 3").await;
    pass_ends(world, &[], DRIFT).await;
    assert_kept(world, &second, &free, &[]).await;
    mailed(world, &["action needed"]).await;
    held.commit().await;
    eventually("the locked claims have rows", LIMIT, async || {
        world.once_with(&[], &[]).await;
        rows(world, first.drop).await.len() == 10
    })
    .await;
    assert_kept(world, &first, &locked, &[]).await;
    clean_pass(world, &first).await;
}

/// A foreign transaction hides later messages from readers of committed ones, and its marker takes
/// the last offset.
#[tokio::test]
async fn a_foreign_transaction_hides_no_claims_and_keeps_nothing_closed() {
    let fixture = Fixture::new("d-transaction").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let coupon = api.open_coupon(20).await;
    let foreign = world.topic.open_transaction(b"not ours").await;
    let mut answers = rush(&[&**api], coupon.id, &people(10), 10).await;
    all_issued(world, coupon.drop, 10).await;
    let reopens = async |user: &str| {
        inject(world, &coupon, Drift::RedisLost, 1).await;
        eventually(&format!("{user} is admitted"), LIMIT, async || {
            world.once_with(&[], &[]).await;
            api.claim(coupon.id, user).await.promised().is_some()
        })
        .await;
        (user.to_owned(), api.claim(coupon.id, user).await)
    };
    answers.push(reopens("u-beside").await);
    foreign.abort().await;
    answers.push(reopens("u-behind").await);
    all_issued(world, coupon.drop, 12).await;
    assert_kept(world, &coupon, &answers, &[]).await;
}
