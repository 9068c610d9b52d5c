//! A repair proves itself in its transaction or is rolled back, whatever their schema and their
//! statements do.

use crate::daemon::{told, why};
use crate::harm::{SET, rows};
use crate::system::Sold as _;
use crate::world::{World, users};
use firstcome_shops::System;
use firstcome_shops::published::DOWN;

/// A campaign whose table and `issue` are given.
fn with(opens: &'static [&'static str], issue: &str) -> System {
    let standard = "issue = ['INSERT INTO coupon (user_id) VALUES (:user)']";
    let file = SET.file.replace(standard, &format!("issue = [{issue}]"));
    System {
        opens,
        file: file.leak(),
        ..SET
    }
}

const CODES: &[&str] = &[
    "CREATE TABLE coupon (user_id BIGINT, code VARCHAR(40) NOT NULL DEFAULT (UUID()), UNIQUE (code))",
];

/// The key is on a value that `issue` makes from the user, so that the same user collides with
/// itself, and not with the row of their consumer.
#[tokio::test]
async fn key_that_does_not_refuse_a_row_beside_theirs_is_no_proof() {
    let deleted: &[&str] = &[
        "CREATE TABLE coupon (user_id BIGINT, deleted_at DATETIME NULL, UNIQUE (user_id, deleted_at))",
    ];
    for (opens, issue) in [
        (
            CODES,
            "\"INSERT INTO coupon (user_id, code) VALUES (:user, CONCAT('repair-', :user))\"",
        ),
        (deleted, "'INSERT INTO coupon (user_id) VALUES (:user)'"),
    ] {
        let system = with(opens, issue);
        let (world, daemon) = system.trusted().await;
        system.admit(&world, 30).await;
        let found = daemon.settle().await;
        assert_eq!(told(&found), ["1 unissued planned"]);
        assert!(why(&found).contains("ADD UNIQUE"), "{found:#?}");
        assert_eq!(rows(&world).await, 21);
    }
}

/// A row of ours refuses itself, so that it proves nothing. Of a name that does not fit our records,
/// they have the hash.
#[tokio::test]
async fn row_of_ours_is_no_proof_and_every_name_is_recorded() {
    let issue = "\"INSERT INTO coupon (name, code) VALUES (:user, CONCAT('repair-', :user))\"";
    let opens: &[&str] = &["CREATE TABLE coupon (name VARCHAR(200), code VARCHAR(220) UNIQUE)"];
    let system = with(opens, issue);
    let file = system.file.replace("SELECT user_id", "SELECT name");
    let long = "x".repeat(129);
    for first in [
        users(1..13).collect::<Vec<_>>(),
        (1..13).map(|user| format!("김{user}")).collect(),
    ] {
        let world = World::new(opens).await;
        let daemon = world.daemon(&file);
        daemon.pass().await;
        world.add_members("@users", first).await;
        assert_eq!(told(&daemon.settle().await), ["12 unissued planned"]);
        let confirmed = daemon.confirm().await;
        assert_eq!(told(&confirmed), ["12 unissued applied"]);
        // Nothing of it is recorded, as of a single pass without a database of ours.
        for (daemon, new) in [(&daemon, 1), (&daemon.restarted(), 2)] {
            daemon.settle().await;
            SET.admit(&world, 29 + new).await;
            let found = daemon.settle().await;
            assert_eq!(told(&found), [format!("{new} unissued planned")]);
            assert!(why(&found).contains("ADD UNIQUE"), "{found:#?}");
        }
    }
    let unique = System {
        opens: &["CREATE TABLE coupon (user_id VARCHAR(200) UNIQUE)"],
        ..SET
    };
    let (world, daemon) = unique.trusted().await;
    world.run(&[&format!("SADD @users 30 김민수 {long}")]).await;
    assert_eq!(told(&daemon.settle().await), ["3 unissued applied"]);
    assert_eq!(rows(&world).await, 24);
}

/// Each is confirmed by a person, so that only the transaction stands between it and a wrong row.
#[tokio::test]
async fn statement_that_does_not_write_exactly_one_right_row_is_rolled_back() {
    let plain: &[&str] = &[firstcome_shops::published::COUPON];
    let free: &[&str] = &[
        "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT, code INT)",
        "CREATE TABLE free (n INT)",
    ];
    let two: &[&str] = &[
        "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT, event INT DEFAULT 7)",
    ];
    let parents: &[&str] = &[
        "CREATE TABLE user (id INT PRIMARY KEY)",
        "INSERT INTO user WITH RECURSIVE n AS (SELECT 1 AS u UNION ALL SELECT u + 1 FROM n WHERE u < 20) SELECT u FROM n",
        "CREATE TABLE coupon (user_id INT UNIQUE, FOREIGN KEY (user_id) REFERENCES user (id))",
    ];
    for (opens, issue, expected) in [
        (
            parents,
            "'INSERT INTO coupon (user_id) VALUES (:user)'",
            "refuses issue 1: 1452",
        ),
        (
            free,
            "'INSERT INTO coupon (user_id) SELECT :user FROM free'",
            "changed 0 rows",
        ),
        (
            free,
            "'INSERT INTO coupon (user_id) VALUES (:user), (:user)'",
            "changed 2 rows",
        ),
        (
            plain,
            "'INSERT INTO coupon (user_id) VALUES (:user + 1000)'",
            "the user 0 times",
        ),
        (
            two,
            "'INSERT INTO coupon (user_id, event) VALUES (:user, 8)'",
            "the user 0 times",
        ),
        (
            plain,
            "'INSERT INTO coupon (user_id) VALUES (:user)', 'UPDATE coupon SET id = id WHERE user_id = :user'",
            "changed 0 rows",
        ),
    ] {
        let mut system = with(opens, issue);
        if opens == two {
            system.file = system
                .file
                .replace("FROM coupon'", "FROM coupon WHERE event = 7'")
                .leak();
        }
        let (world, daemon) = system.sold().await;
        system.admit(&world, 30).await;
        assert_eq!(
            told(&daemon.settle().await),
            ["1 unissued planned"],
            "{issue}"
        );
        let found = daemon.confirm().await;
        assert_eq!(told(&found), ["1 unissued failed"], "{issue}");
        assert!(why(&found).contains(expected), "{issue}: {found:#?}");
        assert_eq!(rows(&world).await, 20, "{issue}");
    }
}

/// `ON DUPLICATE KEY UPDATE` changes two rows, or with FOUND_ROWS one that is as it was.
#[tokio::test]
async fn upsert_does_not_bring_a_cancelled_row_back() {
    let opens: &[&str] = &["CREATE TABLE coupon (user_id BIGINT UNIQUE, is_active INT DEFAULT 1)"];
    let issue =
        "'INSERT INTO coupon (user_id) VALUES (:user) ON DUPLICATE KEY UPDATE is_active = 1'";
    let system = with(opens, issue);
    let (world, daemon) = system.trusted().await;
    world
        .run(&["UPDATE coupon SET is_active = 0, user_id = 31 WHERE user_id = 5"])
        .await;
    let active = "SELECT COUNT(*) FROM coupon WHERE is_active = 1";
    let before = world.number(active).await;
    // `issued` selects live rows only, so that user 31 seems to lack one.
    let live = system
        .file
        .replace("FROM coupon'", "FROM coupon WHERE is_active = 1'");
    let daemon_of_live = world.daemon(&live);
    world.run(&["SREM @users 5", "SADD @users 31"]).await;
    daemon_of_live.settle().await;
    let found = daemon_of_live.confirm().await;
    assert!(why(&found).contains("changed 2 rows"), "{found:#?}");
    assert_eq!(world.number(active).await, before);
    drop(daemon);
}

#[tokio::test]
async fn parameter_in_quotes_is_refused() {
    let system = with(
        &[firstcome_shops::published::COUPON],
        "\"INSERT INTO coupon (user_id) VALUES (':user')\"",
    );
    let world = crate::world::World::new(system.opens).await;
    let said = world.daemon(system.file).engine.check().await;
    let why = format!("{said:?}");
    assert!(
        why.contains("a `:user` stands in quotes or in a comment"),
        "{why}"
    );
}

#[tokio::test]
async fn table_that_cannot_be_rolled_back_is_refused_before_anything_is_tried() {
    let opens: &[&str] = &["CREATE TABLE coupon (user_id BIGINT UNIQUE) ENGINE = MyISAM"];
    let system = System { opens, ..SET };
    let (world, daemon) = system.sold().await;
    system.admit(&world, 30).await;
    daemon.settle().await;
    let found = daemon.confirm().await;
    assert!(why(&found).contains("cannot be taken back"), "{found:#?}");
    assert_eq!(rows(&world).await, 20);
}

const STOCK: System = System {
    opens: &[
        firstcome_shops::published::COUPON,
        "CREATE TABLE stock (id INT PRIMARY KEY, sold INT NOT NULL)",
        "INSERT INTO stock VALUES (7, 0)",
    ],
    issues: &["INSERT INTO coupon (user_id) VALUES ({U})", "UPDATE stock SET sold = sold + 1"],
    file: "[[campaign]]
name = 'Winter'
quantity = 100
promised = { set = '@users' }
issued = 'SELECT user_id FROM coupon'
queue = []
mode = 'repair'
issue = ['INSERT INTO coupon (user_id) VALUES (:user)', 'UPDATE stock SET sold = sold + 1 WHERE id = 7']
check = ['SELECT id FROM stock WHERE sold <> (SELECT COUNT(*) FROM coupon)']",
    ..SET
};

#[tokio::test]
async fn number_beside_the_rows_is_moved_once_or_the_repair_is_rolled_back() {
    let (world, daemon) = STOCK.trusted().await;
    let sold = "SELECT sold FROM stock";
    assert_eq!(world.number(sold).await, 21);
    // A trigger that moves it, too.
    world.run(&["CREATE TRIGGER moves AFTER INSERT ON coupon FOR EACH ROW UPDATE stock SET sold = sold + 1"]).await;
    STOCK.admit(&world, 30).await;
    let found = daemon.settle().await;
    assert_eq!(told(&found), ["1 unissued failed"]);
    assert!(
        why(&found).contains("check 1 then returns a row"),
        "{found:#?}"
    );
    assert_eq!([world.number(sold).await, rows(&world).await], [21, 21]);

    // An `issue` that forgets it.
    world.run(&["DROP TRIGGER moves"]).await;
    let forgets = STOCK
        .file
        .replace(", 'UPDATE stock SET sold = sold + 1 WHERE id = 7'", "");
    let daemon = world.daemon(&forgets);
    daemon.settle().await;
    let found = daemon.confirm().await;
    assert_eq!(told(&found), ["1 unissued failed"]);
    assert_eq!([world.number(sold).await, rows(&world).await], [21, 21]);
}

/// A consumer stands, or died, between its column and its row.
#[tokio::test]
async fn failing_check_stops_repairs_before_they_begin() {
    let (world, daemon) = STOCK.trusted().await;
    world.run(&["UPDATE stock SET sold = sold + 1"]).await;
    STOCK.admit(&world, 30).await;
    let found = daemon.settle().await;
    assert_eq!(told(&found), ["1 check skipped", "1 unissued planned"]);
    assert!(why(&found).contains("check 1 returns a row"), "{found:#?}");
    assert_eq!(rows(&world).await, 21);
}

/// With a file that forgets the column, the insert itself would make the check pass.
#[tokio::test]
async fn failing_check_is_not_mended_by_a_row() {
    let forgets = STOCK
        .file
        .replace(", 'UPDATE stock SET sold = sold + 1 WHERE id = 7'", "");
    let system = System {
        file: forgets.leak(),
        ..STOCK
    };
    let (world, daemon) = system.sold().await;
    system.admit(&world, 30).await;
    daemon.settle().await;
    let shown = daemon.pass().await;
    world.run(&["UPDATE stock SET sold = sold + 1"]).await;
    let found = daemon.confirm_shown_by(&shown).await;
    assert!(
        !told(&found).contains(&"1 unissued applied".to_owned()),
        "{found:#?}"
    );
    assert_eq!(rows(&world).await, 20);
}

#[tokio::test]
async fn promises_beyond_the_quantity_get_no_row() {
    let file = SET.file.replace("quantity = 100", "quantity = 22").leak();
    let system = System { file, ..SET };
    let (world, daemon) = system.trusted().await;
    world.run(&["SADD @users 30 31"]).await;
    let found = daemon.settle().await;
    assert_eq!(told(&found), ["1 over_admitted skipped"], "{found:#?}");
    assert_eq!(rows(&world).await, 21);
}

#[tokio::test]
async fn user_whom_the_column_cannot_hold_stops_no_other() {
    let system = System {
        opens: &["CREATE TABLE coupon (user_id VARCHAR(20) CHARACTER SET ascii UNIQUE)"],
        ..SET
    };
    let (world, daemon) = system.trusted().await;
    system.admit(&world, 30).await;
    world.run(&["SADD @users 김민수"]).await;
    let found = daemon.settle().await;
    assert_eq!(told(&found), ["1 unissued applied", "1 unissued failed"]);
    daemon.confirm().await;
    assert_eq!(rows(&world).await, 22);
}

/// Their collation says that Kim is kim; the bytes do not.
#[tokio::test]
async fn user_in_another_spelling_is_named_and_not_written() {
    let system = System {
        opens: &["CREATE TABLE coupon (user_id VARCHAR(20) UNIQUE)"],
        ..SET
    };
    let (world, daemon) = system.trusted().await;
    world
        .run(&["INSERT INTO coupon VALUES ('kim')", "SADD @users Kim"])
        .await;
    let found = daemon.settle().await;
    assert_eq!(
        told(&found),
        ["1 missing_admission skipped", "1 unissued planned"]
    );
    let found = daemon.confirm().await;
    assert!(
        told(&found).contains(&"1 unissued failed".to_owned()),
        "{found:#?}"
    );
    assert_eq!(rows(&world).await, 22);
}

/// Coupons are made ahead, and a claim takes one.
#[tokio::test]
async fn coupon_made_ahead_is_given_to_the_user() {
    let issue = "'UPDATE coupon SET user_id = :user WHERE user_id IS NULL ORDER BY id LIMIT 1'";
    let opens: &[&str] = &[
        "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id BIGINT UNIQUE)",
        "INSERT INTO coupon (user_id) VALUES (NULL), (NULL), (NULL), (NULL), (NULL), (NULL), (NULL), (NULL), \
        (NULL), (NULL), (NULL), (NULL), (NULL), (NULL), (NULL), (NULL), (NULL), (NULL), (NULL), (NULL), (NULL), (NULL)",
    ];
    let mut system = with(opens, issue);
    system.issues = &["UPDATE coupon SET user_id = {U} WHERE user_id IS NULL ORDER BY id LIMIT 1"];
    system.file = system
        .file
        .replace(
            "SELECT user_id FROM coupon",
            "SELECT user_id FROM coupon WHERE user_id IS NOT NULL",
        )
        .leak();
    let (world, daemon) = system.trusted().await;
    system.admit(&world, 30).await;
    assert_eq!(told(&daemon.settle().await), ["1 unissued applied"]);
    system.admit(&world, 31).await;
    daemon.settle().await;
    let found = daemon.confirm().await;
    assert!(why(&found).contains("changed 0 rows"), "{found:#?}");
}

#[tokio::test]
async fn two_processes_write_one_row() {
    let (world, first) = DOWN.trusted().await;
    let second = first.restarted();
    assert_eq!(told(&second.settle().await), [""; 0]);
    DOWN.admit(&world, 30).await;
    let found = tokio::join!(first.settle(), second.settle());
    assert_eq!(rows(&world).await, 22, "{found:#?}");
    assert_eq!(told(&first.settle().await), [""; 0]);
}
