//! `{null}` among the values of a column. A comparison in SQL selects NULL neither as equal nor as
//! different, so each condition has to name it.

use chrono::NaiveDate;
use firstcome_attach::Attached;
use firstcome_attach::condition::{Condition, Is};
use firstcome_attach::config::{AttachFile, Scalar, Target};
use firstcome_attach::schema::{Column, Table};
use firstcome_attach::shape::TableShape;
use firstcome_stack::mysql_connection;
use mysql_async::Params;
use mysql_async::prelude::Queryable as _;

use crate::world::{World, campaign, confirm, pass, told};

const COUPONS: &str = "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, user_id INT NOT NULL, \
    channel VARCHAR(9))";
const EVENTS: &str = "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, user_id INT NOT NULL, \
    reason VARCHAR(9), solved VARCHAR(9))";

/// A shop with twenty coupons. `stores` are those of its campaign.
async fn shop(stores: &str) -> (World, Attached) {
    let world = World::empty().await;
    for table in [COUPONS, EVENTS] {
        world.sql(table).await;
    }
    let attached = world.attached(&campaign("Winter", &format!("quantity = 20\n{stores}")));
    (world, attached)
}

/// Their web shop leaves the channel NULL, and their app writes `APP`.
#[tokio::test]
async fn row_with_null_in_a_listed_column_is_a_row_of_its_user() {
    let (world, attached) = shop(
        "users = { key = '@users', type = 'set' }
        rows = { table = 'coupon', user = 'user_id', where = { channel = ['{null}', 'APP'] }, duplicates = 'reported' }",
    )
    .await;
    let rows = "INSERT INTO coupon (user_id, channel) VALUES (1, NULL), (2, 'APP'), (3, 'GIFT')";
    world.sql(rows).await;
    let () = world.redis("SADD @users 1 2 3").await;
    pass(&attached).await;
    let findings = confirm(&attached).await;
    assert_eq!(told(&findings), ["1 unissued applied"], "{findings:#?}");
    let rows = "SELECT user_id, COUNT(*) FROM coupon GROUP BY user_id";
    assert_eq!(world.sql(rows).await, [["1", "1"], ["2", "1"], ["3", "2"]]);
}

/// A failed event may have no reason, and may be marked as solved.
#[tokio::test]
async fn events_that_are_skipped_or_done_get_no_row_and_all_others_get_one() {
    for (skip, done, open) in [
        ("'{null}'", "'delete'", ["2", "3"].as_slice()),
        ("['{null}', 'BLOCKED']", "'delete'", &["3"]),
        ("'BLOCKED'", "'delete'", &["1", "3"]),
        ("'-'", "{ column = 'solved', value = 'YES' }", &["1", "2"]),
        ("'-'", "{ column = 'solved', value = '{null}' }", &["3"]),
    ] {
        let case = format!("skip = {skip}, done = {done}");
        let (world, attached) = shop(&format!(
            "count = {{ key = '@count', means = 'tickets' }}
            rows = {{ table = 'coupon', user = 'user_id', duplicates = 'reported' }}
            failed = {{ table = 'failed', user = 'user_id', where = {{}}, skip = {{ reason = {skip} }}, done = {done} }}"
        ))
        .await;
        let events = "INSERT INTO failed (user_id, reason, solved) \
            VALUES (1, NULL, NULL), (2, 'BLOCKED', NULL), (3, 'TIMEOUT', 'YES')";
        world.sql(events).await;
        pass(&attached).await;
        confirm(&attached).await;
        let rows = world.sql("SELECT user_id FROM coupon ORDER BY 1").await;
        assert_eq!(rows.concat(), open, "{case}");
        let findings = pass(&attached).await;
        assert!(findings.is_empty(), "{case}: {findings:#?}");
    }
}

#[tokio::test]
async fn row_matches_either_a_condition_or_its_negation_even_with_null() {
    let world = World::empty().await;
    for sql in [
        "CREATE TABLE t (id INT PRIMARY KEY, word VARCHAR(9), number INT, at DATETIME)",
        "INSERT INTO t VALUES (1, NULL, NULL, NULL), (2, 'A', 1, '2026-11-28'), \
            (3, 'B', 2, '2026-11-28 23:59:59'), (4, 'C', 3, '2026-11-29')",
    ] {
        world.sql(sql).await;
    }
    let text = world.text(
        "[[campaign]]\nname = 'W'\nquantity = 1\ncount = { key = '@count', means = 'left' }\n\
        rows = { table = 't', user = 'id' }",
    );
    let file = AttachFile::parse(&text).unwrap();
    let target = Target {
        campaign: &file.campaigns[0],
        date: NaiveDate::from_ymd_opt(2026, 11, 28),
        is_over: false,
    };
    let table = TableShape::plain(&Table {
        columns: vec![datetime("at")],
        ..Table::default()
    });
    let null = || text_of("{null}");
    let any_of = |values: &[&str]| Scalar::AnyOf(values.iter().map(|it| text_of(it)).collect());
    let mut conn = mysql_connection(&world.database).await.unwrap();
    for (column, value, is_one) in [
        ("word", text_of("A"), [2].as_slice()),
        ("word", null(), &[1]),
        ("word", any_of(&["{null}"]), &[1]),
        ("word", any_of(&["{null}", "B"]), &[1, 3]),
        ("word", any_of(&["A", "B"]), &[2, 3]),
        ("word", any_of(&["C", "{null}", "A"]), &[1, 2, 4]),
        ("word", text_of("D"), &[]),
        ("number", Scalar::Number(2), &[3]),
        ("number", Scalar::Flag(true), &[2]),
        (
            "number",
            Scalar::AnyOf(vec![null(), Scalar::Number(1)]),
            &[1, 2],
        ),
        ("at", text_of("{date}"), &[2, 3]),
        ("at", null(), &[1]),
    ] {
        let is_none: Vec<i32> = (1..=4).filter(|id| !is_one.contains(id)).collect();
        for (is, expected) in [(Is::OneOf, is_one), (Is::NoneOf, &is_none)] {
            let of = Condition::column(is, column, &value, &target, &table);
            let sql = format!("SELECT id FROM t WHERE {} ORDER BY id", of.sql);
            let found: Vec<i32> = conn.exec(&sql, Params::from(of.values)).await.unwrap();
            assert_eq!(found, expected, "{column} {value:?} {is:?}: {sql}");
        }
    }
}

fn text_of(text: &str) -> Scalar {
    Scalar::Text(text.to_owned())
}

fn datetime(name: &str) -> Column {
    Column {
        name: name.to_owned(),
        kind: "datetime".to_owned(),
        length: 0,
        charset: String::new(),
        needs_value: false,
        is_null_by_default: true,
        is_generated: false,
        is_increasing: false,
        rights: String::new(),
    }
}
