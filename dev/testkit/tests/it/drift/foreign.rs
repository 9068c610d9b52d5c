//! Foreign data that was written into the stores manually does not delay other users or drops.

use firstcome_reconciler::report::{Kind, Outcome, Status};
use firstcome_testkit::{
    Fixture, MadeCoupon, all_issued, coupon_body, open_world, redis_holders, rows,
};
use serde_json::json;

use crate::drift::support::{clean_pass, lose_rows, report};

/// Creates a coupon with foreign data in a store.
async fn broken(fixture: &Fixture, name: &str, commands: &[&[&str]]) -> MadeCoupon {
    let world = &fixture.world;
    let (coupon, _) = fixture.held(name, 20, 3).await;
    for words in commands {
        let key = |word: &str| match word.strip_prefix('@') {
            Some("claimants") => world.redis.claimants(coupon.id),
            Some("gate") => world.redis.own(&format!("{{{}}}:gate", coupon.id)),
            Some(of_drop) => world.redis.of_drop(coupon.id, coupon.drop, of_drop),
            None => word.to_owned(),
        };
        let words: Vec<String> = words.iter().map(|word| key(word)).collect();
        let _: firstcome_shared::redis::Value = world.redis.command(&words).await;
    }
    coupon
}

#[tokio::test]
async fn a_drop_that_cannot_be_examined_or_repaired_delays_no_other() {
    let fixture = Fixture::new("foreign").await;
    let world = &fixture.world;
    let mut left = Vec::new();
    for (name, commands) in [
        (
            "people",
            &[&["DEL", "@users"][..], &["SET", "@users", "x"]][..],
        ),
        ("counter", &[&["DEL", "@count"], &["LPUSH", "@count", "x"]]),
        ("settings", &[&["DEL", "@meta"], &["SET", "@meta", "x"]]),
        ("waiting", &[&["SET", "@waiting", "x"]]),
        (
            "claimants",
            &[&["DEL", "@claimants"], &["SET", "@claimants", "x"]],
        ),
    ] {
        left.push(broken(&fixture, name, commands).await);
    }
    // These scores are not slots, but their users were promised a slot and can get a free one.
    let mut mended = Vec::new();
    for score in ["3.5", "1e300"] {
        mended.push(broken(&fixture, score, &[&["ZADD", "@users", score, "u-odd"]]).await);
    }
    // These user IDs are invalid, so no user can claim with them. They keep their slots until an
    // operator removes them, and all other users have a row.
    let long = "long".repeat(33);
    let names: &[&[&str]] = &[
        &[
            "ZADD",
            "@users",
            "4",
            "josé",
            "5",
            "odd person",
            "6",
            "u-6",
            "7",
            &long,
        ],
        &["SET", "@count", "7"],
    ];
    let named = broken(&fixture, "names", names).await;
    let (whole, _) = fixture.held("whole", 20, 12).await;
    lose_rows(world, &whole, "<= 3").await;

    let once = world.once_with(&[], &[]).await;
    let run = once.run();
    assert_eq!((run.status, &run.error), (Status::Drift, &None), "{run:#?}");
    assert_eq!(rows(world, whole.drop).await.len(), 12, "{run:#?}");
    for coupon in &left {
        let report = report(&run, coupon.drop);
        let named = report
            .findings
            .iter()
            .any(|f| f.result == Outcome::Failed && f.needs_person);
        assert!(
            named && !report.exact,
            "{:?}: {report:#?}",
            coupon.body["name"]
        );
    }
    let report = report(&run, named.drop);
    let told = report
        .findings
        .iter()
        .filter(|f| f.kind == Kind::Unissued && f.needs_person);
    assert_eq!(
        told.map(|f| f.slot).collect::<Vec<_>>(),
        [Some(4), Some(5), Some(7)],
        "{report:#?}"
    );
    let recorded = format!(
        "SELECT COUNT(*) FROM reconcile_findings WHERE drop_id = {} AND kind = 'unissued' AND needs_person",
        named.drop
    );
    assert_eq!(world.sql.number(&recorded).await, 3);
    let of_named = rows(world, named.drop).await;
    assert!(
        of_named.len() == 4 && of_named[&6] == "u-6" && !report.exact,
        "{of_named:?} {report:#?}"
    );
    for coupon in &mended {
        let rows = rows(world, coupon.drop).await;
        assert_eq!(
            rows.get(&4).map(String::as_str),
            Some("u-odd"),
            "{rows:?} {run:#?}"
        );
    }
}

#[tokio::test]
async fn too_many_members_beyond_the_last_slot_delay_no_other_drop() {
    let fixture = Fixture::new("crowded").await;
    let world = &fixture.world;
    let many = "for i = 1, 250000 do redis.call('ZADD', KEYS[1], ARGV[1], 'odd-' .. i) end";
    let mut left = Vec::new();
    for score in ["-5", "1790000000000", "3"] {
        left.push(broken(&fixture, score, &[&["EVAL", many, "1", "@users", score]]).await);
    }
    let (whole, _) = fixture.held("whole", 20, 12).await;
    lose_rows(world, &whole, "<= 3").await;
    let run = world.once_with(&[], &[]).await.run();
    assert_eq!((run.status, &run.error), (Status::Drift, &None), "{run:#?}");
    assert_eq!(rows(world, whole.drop).await.len(), 12, "{run:#?}");
    for coupon in &left {
        let report = report(&run, coupon.drop);
        let told = report
            .findings
            .iter()
            .find(|f| f.result == Outcome::Failed && f.needs_person)
            .unwrap();
        assert!(
            told.detail.contains("200,000 people or free slots") && !report.exact,
            "{report:#?}"
        );
    }
}

#[tokio::test]
async fn a_coupon_opens_after_a_loss_even_with_garbage_in_its_token_keys() {
    let fixture = Fixture::new("tokens").await;
    let world = &fixture.world;
    let (coupon, _) = fixture.held("tokens", 20, 3).await;
    let compared = world.redis.own("compared");
    let tokens =
        ["gate", "revision"].map(|name| world.redis.own(&format!("{{{}}}:{name}", coupon.id)));
    for (held, is_text) in [(4, false), (5, true)] {
        for key in tokens.iter().chain([&compared]) {
            world.redis.command::<i64>(&["DEL", key]).await;
            let words: [&[u8]; 3] = if is_text {
                [b"SET", key.as_bytes(), b"\xff\x00 not UTF-8"]
            } else {
                [b"SADD", key.as_bytes(), b"not a string"]
            };
            world
                .redis
                .try_command::<redis::Value>(&words)
                .await
                .unwrap();
        }
        let once = world.once_with(&[], &[]).await;
        assert_eq!(once.code, 0, "{}", once.log);
        let user = format!("u-late-{held}");
        assert!(fixture.api.claim(coupon.id, &user).await.is_accepted());
        all_issued(world, coupon.drop, held).await;
        clean_pass(world, &coupon).await;
    }
}

#[tokio::test]
async fn invalid_user_ids_lose_their_slots_and_places_on_the_waiting_list() {
    let fixture = Fixture::new("d-odd-names").await;
    let api = &fixture.api;
    let world = &fixture.world;
    let (coupon, _) = fixture.held_of(&coupon_body("Odd names", 2, 5), 2).await;
    for user in ["w-1", "w-2"] {
        api.claim(coupon.id, user).await;
    }
    // One member is beyond the quantity, and one is on another user's slot.
    let users = world.redis.of_drop(coupon.id, coupon.drop, "users");
    let odd = ["ZADD", &users, "500", "odd person", "1", "another one"];
    world.redis.command::<i64>(&odd).await;
    let run = world.pass().await;
    assert_eq!(run.status, Status::Repaired, "{run:?}");
    let listed = "SELECT COUNT(*) FROM broken_promises";
    assert_eq!(world.sql.number(listed).await, 0);
    clean_pass(world, &coupon).await;

    // These members are at the head of the waiting list. The first name is not UTF-8, and the
    // reconciler reads names as text.
    let waiting = world.redis.of_drop(coupon.id, coupon.drop, "waiting");
    for name in [&b"\xff\xfe\x00"[..], b"odd person"] {
        let words = [&b"ZADD"[..], waiting.as_bytes(), b"-5", name];
        world.redis.try_command::<i64>(&words).await.unwrap();
    }
    clean_pass(world, &coupon).await;
    api.change(coupon.id, &json!({"quantity": 4})).await;
    let run = world.pass().await;
    assert_eq!(run.status, Status::Repaired, "{run:?}");
    assert!(
        run.all_findings()
            .any(|found| found.detail.contains("taken off the waiting list")),
        "{run:?}"
    );
    let rows = rows(world, coupon.drop).await;
    let later: Vec<_> = rows.range(3..).map(|(_, user)| user.as_str()).collect();
    assert_eq!(later, ["w-1", "w-2"]);
    assert_eq!(redis_holders(world, &coupon).await.len(), 4);
    clean_pass(world, &coupon).await;
}

const UNRESOLVED: &str = "SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL";

#[tokio::test]
async fn only_a_dead_letter_with_a_possible_slot_unseals_a_drop() {
    let (world, api) = open_world("unseal").await;
    let coupon = api.open_coupon(1).await;
    // Each case gives the number of rows at sealing, whether they still exist, and whether the dead
    // letter was made from a message.
    let cases = [
        (1, true, false),
        (0, true, false),
        (1, false, false),
        (0, true, true),
    ];
    let mut drops = Vec::new();
    for (drop, (sealed_rows, has_them, of_message)) in (1..).zip(cases) {
        let insert = format!(
            "INSERT INTO drops (id, coupon_id, opens_at, closes_at, quantity, sealed_at, sealed_rows)
             VALUES ({drop}, {}, '2026-01-01', '2026-01-02', 1, '2026-01-03', {sealed_rows})",
            coupon.id
        );
        world.sql.query(&insert).await;
        drops.push(drop);
        if sealed_rows == 1 && has_them {
            let columns = "INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, issued_by, slot_limit, person_scope)";
            let statement = format!(
                "{columns} SELECT l.drop_id, 1, l.coupon_id, 'early', 'consumer', l.slot_limit, l.person_scope \
                 FROM slot_limits l WHERE l.drop_id = {drop}"
            );
            world.sql.query(&statement).await;
        }
        let partition = if of_message { "0" } else { "NULL" };
        let letter = format!(
            "INSERT INTO failed_claims (coupon_id, drop_id, slot, user_id, reason, source_partition)
             VALUES ({}, {drop}, 1, 'late-{drop}', 'by hand', {partition})",
            coupon.id,
        );
        world.sql.query(&letter).await;
    }
    let told = |run: &firstcome_reconciler::report::Run| {
        let left = run
            .findings
            .iter()
            .filter(|f| f.kind == Kind::FailedClaim && f.needs_person);
        let mut left: Vec<_> = left.map(|f| f.drop_id.unwrap().0).collect();
        left.sort_unstable();
        left
    };
    let run = world.once_with(&[], &[]).await.run();
    assert_eq!(told(&run), [drops[0], drops[3]], "{run:#?}");
    let compared: Vec<_> = run
        .drops
        .iter()
        .map(|report| report.drop_id.0)
        .filter(|id| drops.contains(id))
        .collect();
    assert_eq!(compared, [drops[1], drops[2]], "{run:#?}");
    for (number, user) in [(0, "early"), (1, "late-2"), (2, "late-3")] {
        assert_eq!(
            rows(&world, drops[number])
                .await
                .into_values()
                .collect::<Vec<_>>(),
            [user],
            "{run:#?}"
        );
    }
    assert_eq!(
        (
            rows(&world, drops[3]).await.len(),
            world.sql.number(UNRESOLVED).await
        ),
        (0, 2)
    );

    // A pass over one coupon reports only that coupon's drops.
    for (id, expected) in [
        (coupon.id, vec![drops[0], drops[3]]),
        (api.open_coupon(1).await.id, vec![]),
    ] {
        let once = world.once_with(&["--coupon", &id.to_string()], &[]).await;
        assert_eq!(
            (told(&once.run()), once.code),
            (expected.clone(), i32::from(!expected.is_empty())),
            "{}",
            once.log
        );
    }

    // An operator confirms the message.
    let correct = format!(
        "UPDATE failed_claims SET reason = 'corrected' WHERE drop_id = {}",
        drops[3]
    );
    world.sql.query(&correct).await;
    let run = world.once_with(&[], &[]).await.run();
    assert_eq!(
        rows(&world, drops[3])
            .await
            .into_values()
            .collect::<Vec<_>>(),
        ["late-4"],
        "{run:#?}"
    );
}
