//! Changes of meaning between two stores. Each looks like a lost promise, and the obvious repair
//! would harm somebody: it is named, or waits for a person, although the text was confirmed.

use std::time::Duration;

use firstcome_attach::file::AttachFile;
use firstcome_shared::report::Outcome;

use crate::daemon::{told, why};
use crate::system::Sold as _;
use crate::world::{World, users};
use firstcome_shops::System;
use firstcome_shops::published::DOWN;

pub(crate) async fn rows(world: &World) -> i64 {
    world.number("SELECT COUNT(*) FROM coupon").await
}

/// A set alone, so that no counter contradicts.
pub(crate) const SET: System = System {
    admits: &["SADD @users {U}"],
    file: "[[campaign]]
name = 'Winter'
quantity = 100
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
queue = []
mode = 'repair'
issue = ['INSERT INTO coupon (user_id) VALUES (:user)']
check = []",
    ..DOWN
};

const STATES: System = System {
    opens: &[
        "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT UNIQUE, is_active INT NOT NULL DEFAULT 1)",
    ],
    file: "[[campaign]]
name = 'Winter'
quantity = 100
promised = { set = '@users' }
issued = 'SELECT user_id, is_active FROM coupon'
queue = []
mode = 'repair'
issue = ['INSERT INTO coupon (user_id) VALUES (:user)']
check = []",
    ..SET
};

/// Refuses a file, and returns why.
fn refused(text: &str) -> String {
    let text = format!("database = 'mysql://x/y'\nredis = 'redis://x'\n{text}");
    AttachFile::parse(&text).unwrap_err().to_string()
}

#[tokio::test]
async fn transferred_coupon_is_not_issued_again() {
    let (world, daemon) = SET.trusted().await;
    for (giver, receiver) in [(5, 500), (6, 501)] {
        world
            .run(&[&format!(
                "UPDATE coupon SET user_id = {receiver} WHERE user_id = {giver}"
            )])
            .await;
        let found = told(&daemon.settle().await);
        let number = receiver - 499;
        let expected = ["missing_admission skipped", "unissued planned"];
        assert_eq!(found, expected.map(|it| format!("{number} {it}")));
    }
    // A new user waits, too: nobody knows what moved.
    SET.admit(&world, 40).await;
    let found = daemon.settle().await;
    assert!(
        told(&found).contains(&"3 unissued planned".to_owned()),
        "{found:#?}"
    );
    assert_eq!(rows(&world).await, 21);
}

#[tokio::test]
async fn purged_rows_are_not_written_again_even_after_a_restart() {
    let (world, daemon) = SET.trusted().await;
    world.run(&["DELETE FROM coupon WHERE user_id <= 10"]).await;
    SET.admit(&world, 40).await;
    assert_eq!(told(&daemon.settle().await), ["11 unissued planned"]);
    // Their users leave, too. Nobody knows which other rows went with theirs.
    world.run(&["SREM @users 1 2 3 4 5 6 7 8 9 10"]).await;
    assert_eq!(told(&daemon.settle().await), ["1 unissued planned"]);
    world.run(&["SADD @users 1 2 3 4 5 6 7 8 9 10"]).await;
    let restarted = daemon.restarted();
    assert_eq!(told(&restarted.settle().await), ["11 unissued planned"]);
    assert_eq!(rows(&world).await, 11);
}

#[tokio::test]
async fn unpaid_hold_gets_no_row_and_a_text_whose_users_left_is_not_trusted() {
    let (world, daemon) = SET.sold().await;
    // A hold in the set of those who were promised one.
    SET.admit(&world, 30).await;
    assert_eq!(told(&daemon.settle().await), ["1 unissued planned"]);
    world.run(&["SREM @users 30"]).await;
    assert_eq!(told(&daemon.settle().await), [""; 0]);
    SET.admit(&world, 31).await;
    daemon.settle().await;
    daemon.confirm().await;
    SET.admit(&world, 32).await;
    let found = daemon.settle().await;
    assert_eq!(told(&found), ["1 unissued planned"]);
    assert!(
        why(&found).contains("does the key hold reservations?"),
        "{found:#?}"
    );
    assert_eq!(rows(&world).await, 21);
}

#[tokio::test]
async fn refused_user_in_a_hash_gets_no_row() {
    let promised = "promised = { set = '@users' }";
    let file = SET
        .file
        .replace(promised, "promised = { hash = '@users', value = 'ISSUED' }");
    let hash = System {
        admits: &["HSET @users {U} ISSUED"],
        file: file.leak(),
        ..SET
    };
    let (world, daemon) = hash.trusted().await;
    world.run(&["HSET @users 30 FAILED 31 PENDING"]).await;
    assert_eq!(told(&daemon.settle().await), [""; 0]);
    let without = SET.file.replace(promised, "promised = { hash = '@users' }");
    assert!(refused(&without).contains("which values mean that the coupon is theirs?"));
}

/// A refusal gives the seat back, so the counter is lower than what is owed.
#[tokio::test]
async fn user_whose_refusal_gave_the_seat_back_gets_no_row() {
    let (world, daemon) = DOWN.trusted().await;
    DOWN.admit(&world, 30).await;
    world.run(&["INCR @stock"]).await;
    let found = daemon.settle().await;
    assert_eq!(
        told(&found),
        ["1 count_mismatch skipped", "1 unissued planned"]
    );
    assert!(why(&found).contains("were some refused?"), "{found:#?}");
    assert_eq!(rows(&world).await, 21);
}

#[tokio::test]
async fn cancelled_coupon_is_neither_written_nor_taken_from_the_sale() {
    let (world, daemon) = STATES.trusted().await;
    // One cancels and leaves the set, the other stays in it.
    world
        .run(&[
            "UPDATE coupon SET is_active = 0 WHERE user_id IN (5, 6)",
            "SREM @users 5",
        ])
        .await;
    STATES.admit(&world, 30).await;
    assert_eq!(told(&daemon.settle().await), ["1 unissued applied"]);
    assert_eq!(rows(&world).await, 22);
    assert_eq!(world.redis::<i64>("SISMEMBER @users 5").await, 0);
}

/// Nobody is added to Redis, also not if the file forgets the column.
#[tokio::test]
async fn redis_is_never_written() {
    let (world, daemon) = DOWN.trusted().await;
    world
        .run(&["SREM @users 5", "SET @stock 25", "RENAME @stock @stock"])
        .await;
    let state = async || {
        (
            world.redis::<Vec<u8>>("DUMP @users").await,
            world.redis::<i64>("GET @stock").await,
        )
    };
    let before = state().await;
    let found = daemon.settle().await;
    assert_eq!(
        told(&found),
        ["1 count_mismatch skipped", "1 missing_admission skipped"]
    );
    daemon.confirm().await;
    assert_eq!(state().await, before);
    let commands = daemon.commands().join("\n");
    assert!(
        commands.contains("SADD") && commands.contains("EVAL"),
        "{commands}"
    );
}

/// What their people moved meanwhile is not moved back by the printed command.
#[tokio::test]
async fn printed_command_changes_a_counter_only_if_it_still_has_the_value() {
    let (world, daemon) = DOWN.trusted().await;
    world.run(&["SET @stock 5"]).await;
    daemon.settle().await;
    world.run(&["SET @stock 6"]).await;
    daemon.run_commands(&world).await.unwrap();
    assert_eq!(world.redis::<i64>("GET @stock").await, 6);
    daemon.settle().await;
    daemon.run_commands(&world).await.unwrap();
    assert_eq!(world.redis::<i64>("GET @stock").await, 9);
}

#[tokio::test]
async fn strangers_of_another_campaign_are_named_and_repairs_wait() {
    let (world, daemon) = SET.trusted().await;
    world.add_rows(users(200..215)).await;
    SET.admit(&world, 30).await;
    let found = daemon.settle().await;
    assert_eq!(
        told(&found),
        ["15 missing_admission skipped", "1 unissued planned"]
    );
    assert_eq!(world.redis::<i64>("SCARD @users").await, 22);
}

const EVENTS: System = System {
    opens: &[
        firstcome_shops::published::COUPON,
        "CREATE TABLE failed (id INT, user_id BIGINT, done INT NOT NULL DEFAULT 0)",
    ],
    file: "[[campaign]]
name = 'Winter'
quantity = 100
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
failed = 'SELECT id, user_id FROM failed WHERE done = 0'
queue = []
mode = 'repair'
resolve = 'UPDATE failed SET done = 1 WHERE id = :failed'
issue = ['INSERT INTO coupon (user_id) VALUES (:user)']
check = []",
    ..SET
};

#[tokio::test]
async fn event_is_closed_only_with_the_row_that_is_written_for_it() {
    let (world, daemon) = EVENTS.trusted().await;
    // Two of other topics, whose users have rows, and one of a lost message.
    world
        .run(&["INSERT INTO failed (id, user_id) VALUES (1, 5), (2, 6), (3, 30)"])
        .await;
    EVENTS.admit(&world, 30).await;
    let found = daemon.settle().await;
    assert_eq!(
        told(&found),
        ["1 failed_claim applied", "2 failed_claim skipped"],
        "{found:#?}"
    );
    let open = world
        .sql("SELECT id FROM failed WHERE done = 0")
        .await
        .concat();
    assert_eq!(open, ["1", "2"]);
    assert_eq!(rows(&world).await, 22);
}

/// The condition of `resolve` is not unique.
#[tokio::test]
async fn statement_that_changes_two_rows_or_none_is_rolled_back() {
    let (world, daemon) = EVENTS.trusted().await;
    world
        .run(&["INSERT INTO failed (id, user_id) VALUES (3, 30), (3, 5)"])
        .await;
    EVENTS.admit(&world, 30).await;
    let found = daemon.settle().await;
    assert!(why(&found).contains("resolve changed 2 rows"), "{found:#?}");
    let open = "SELECT COUNT(*) FROM failed WHERE done = 0";
    assert_eq!([world.number(open).await, rows(&world).await], [2, 21]);
}

#[tokio::test]
async fn counter_that_operators_moved_stays_and_repairs_wait() {
    let (world, daemon) = DOWN.trusted().await;
    world.run(&["DECRBY @stock 5"]).await;
    DOWN.admit(&world, 30).await;
    let found = daemon.settle().await;
    assert_eq!(
        told(&found),
        ["1 count_mismatch skipped", "1 unissued planned"]
    );
    assert_eq!(world.redis::<i64>("GET @stock").await, 3);
}

/// A consumer that stands before 30 of its 70 messages, which no stage names.
#[tokio::test]
async fn at_most_fifty_rows_are_written_unasked_and_none_if_more_lack_one() {
    let (world, daemon) = SET.trusted().await;
    world.add_members("@users", users(100..130)).await;
    let found = daemon.settle().await;
    assert_eq!(
        told(&found),
        ["30 unissued planned"],
        "more lack a row than have one"
    );
    let many = SET.file.replace("quantity = 100", "quantity = 100000");
    let (world, daemon) = System {
        file: many.leak(),
        ..SET
    }
    .trusted()
    .await;
    world.add_members("@users", users(1_000..2_000)).await;
    world.add_rows(users(1_000..2_000)).await;
    assert_eq!(told(&daemon.settle().await), [""; 0]);
    world.add_members("@users", users(5_000..5_300)).await;
    daemon.pass().await;
    daemon.engine.clock.forward(Duration::from_mins(1));
    let run = daemon.pass().await;
    let found: Vec<_> = run.all_findings().cloned().collect();
    assert_eq!(
        told(&found),
        ["50 unissued applied", "250 unissued planned"]
    );
}

#[tokio::test]
async fn names_that_do_not_meet_are_one_finding_with_examples() {
    let text = System {
        opens: &["CREATE TABLE coupon (user_id CHAR(36) UNIQUE)"],
        admits: &["SADD @users {UUID}"],
        issues: &["INSERT INTO coupon VALUES ('{UUID}')"],
        ..SET
    };
    let (world, daemon) = text.sold().await;
    let upper = (1..2_000).map(|user| format!("0193A1F2-7C00-7D31-8000-{user:012}"));
    world.run(&["DEL @users"]).await;
    world.add_members("@users", upper).await;
    let found = daemon.settle().await;
    assert_eq!(told(&found), ["1 stalled skipped"]);
    assert!(
        why(&found).contains("999A9A9-") && why(&found).contains("999a9a9-"),
        "{found:#?}"
    );
}

#[tokio::test]
async fn empty_key_beside_rows_is_one_finding() {
    let (world, daemon) = SET.trusted().await;
    world.run(&["DEL @users"]).await;
    let found = daemon.settle().await;
    assert_eq!(told(&found), ["1 stalled skipped"]);
    assert!(
        why(&found).contains("it has expired, or has another name"),
        "{found:#?}"
    );
}

/// Applicants, of whom a counter admits the first.
#[tokio::test]
async fn set_of_applicants_is_a_number_and_names_nobody() {
    let (world, daemon) = SET.trusted().await;
    world.add_members("@users", users(1_000..2_000)).await;
    let found = daemon.settle().await;
    assert_eq!(told(&found), ["1 over_admitted skipped"], "{}", why(&found));
    assert_eq!(rows(&world).await, 21);
}

#[tokio::test]
async fn member_that_the_column_would_convert_is_named_and_never_written() {
    let (world, daemon) = SET.trusted().await;
    world.run(&["SADD @users 44.4 4.3e1 042 5abc"]).await;
    let found = daemon.settle().await;
    assert_eq!(told(&found), ["4 unissued skipped"]);
    daemon.confirm().await;
    assert_eq!(rows(&world).await, 21);
}

#[tokio::test]
async fn placeholder_is_excepted_and_rows_without_a_user_count() {
    let file = SET
        .file
        .replace("'@users' }", "'@users', except = ['init'] }");
    let system = System {
        opens: &[
            "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT UNIQUE)",
            "SADD @users init",
        ],
        file: file.replace("quantity = 100", "quantity = 21").leak(),
        ..SET
    };
    let (world, daemon) = system.sold().await;
    world
        .run(&["INSERT INTO coupon (user_id) VALUES (NULL), (NULL)"])
        .await;
    let found = told(&daemon.settle().await);
    assert_eq!(found, ["1 over_admitted skipped", "1 over_issued skipped"]);
}

#[tokio::test]
async fn confirmed_names_that_still_hold_are_repaired_and_a_growing_plan_is_confirmable() {
    let (world, daemon) = SET.sold().await;
    world.add_members("@users", users(30..33)).await;
    daemon.settle().await;
    let shown = daemon.pass().await;
    // One gets its row, one leaves, and another comes.
    world.add_rows(users(30..31)).await;
    world.run(&["SREM @users 31", "SADD @users 33"]).await;
    let found = daemon.confirm_shown_by(&shown).await;
    let written = found.iter().filter(|it| it.result == Outcome::Applied);
    let written: Vec<_> = written.filter_map(|it| it.user_id.as_deref()).collect();
    assert_eq!(written, ["32"], "{found:#?}");
    assert_eq!(rows(&world).await, 22);
}

#[tokio::test]
async fn mode_repair_asks_for_queue_and_check_and_old_words_name_the_new_line() {
    for (without, expected) in [
        (
            "queue = []\n",
            "what stands between your answer and the row?",
        ),
        (
            "check = []",
            "which of your numbers counts these rows, too?",
        ),
        (
            "issue = ['INSERT INTO coupon (user_id) VALUES (:user)']\n",
            "issue is missing",
        ),
    ] {
        let why = refused(&SET.file.replace(without, ""));
        assert!(why.contains(expected), "{why}");
    }
    let old =
        "[[campaign]]\nname = 'W'\nquantity = 1\nrows = { table = 'coupon', user = 'user_id' }";
    assert!(refused(old).contains("write issued = \"SELECT user_id FROM coupon"));
}
