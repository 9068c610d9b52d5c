//! A file that does not fit their tables is refused before anything is planned. The refusal says
//! what does not fit, and what to write.

use firstcome_attach::config::AttachFile;

use crate::world::{World, pass, refusal};

const TABLES: [&str; 4] = [
    "CREATE TABLE coupon (id INT AUTO_INCREMENT PRIMARY KEY, event_id INT NOT NULL, user_id VARCHAR(40) NOT NULL, \
     code CHAR(8) NOT NULL DEFAULT '', UNIQUE KEY (event_id, user_id))",
    "CREATE TABLE failed (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40) NOT NULL, resolved INT)",
    "CREATE TABLE letters (id INT AUTO_INCREMENT PRIMARY KEY, user_id VARCHAR(40) NOT NULL)",
    "CREATE TABLE stock (id INT PRIMARY KEY, remaining INT NOT NULL)",
];

const FILE: &str = "[[campaign]]
name = 'Winter'
mode = 'repair'
quantity = 20
in_flight = '0.01s'
users = { key = '@users', type = 'set' }
rows = { table = 'coupon', user = 'user_id', where = { event_id = 7 }, duplicates = 'locked' }
failed = { table = 'failed', user = 'user_id', where = {}, done = { column = 'resolved', value = 1 } }
stock = { table = 'stock', where = { id = 7 }, left = 'remaining' }";

async fn world() -> World {
    let world = World::empty().await;
    for table in TABLES {
        world.sql(table).await;
    }
    world.sql("INSERT INTO stock VALUES (7, 20)").await;
    world
}

#[test]
fn word_in_braces_that_means_nothing_is_refused() {
    let parse = |code: &str| {
        let insert = format!("duplicates = 'locked', insert = {{ code = '{code}' }}");
        let file = FILE.replace("duplicates = 'locked'", &insert);
        AttachFile::parse(&format!(
            "database = 'mysql://db/shop'\nredis = 'redis://cache'\n{file}"
        ))
    };
    for known in [
        "{uuid}",
        "{random:64}",
        "{now+30d}",
        "{null}",
        "{}",
        "{\"a\": 1}",
        "A{1}",
    ] {
        parse(known).unwrap();
    }
    for unknown in [
        "{random:65}",
        "{random}",
        "{uid}",
        "{uuid:binary}",
        "{now+1h}",
    ] {
        let why = format!("{:#}", parse(unknown).unwrap_err());
        assert!(why.contains("would be written as this text"), "{why}");
    }
}

#[test]
fn list_of_values_that_mark_processed_events_is_refused() {
    let file = FILE.replace("value = 1", "value = [1, 2]");
    let file = format!("database = 'mysql://db/shop'\nredis = 'redis://cache'\n{file}");
    let why = format!("{:#}", AttachFile::parse(&file).unwrap_err());
    assert!(why.contains("failed.done: write one value"), "{why}");
}

#[tokio::test]
async fn all_unknown_columns_are_reported_at_once_and_so_are_all_unknown_tables() {
    let world = world().await;
    let wrong = FILE
        .replace("event_id", "events_id")
        .replace("'resolved'", "'resolve'")
        .replace("'remaining'", "'remain'");
    let why = refusal(&world.attached(&wrong)).await;
    for said in [
        "campaign \"Winter\": rows: table coupon has no column \"events_id\"; the nearest is \"event_id\"",
        "failed: table failed has no column \"resolve\"; the nearest is \"resolved\"",
        "stock: table stock has no column \"remain\"; the nearest is \"remaining\"",
    ] {
        assert!(why.contains(said), "{said}: {why}");
    }
    let wrong = FILE
        .replace("'coupon'", "'coupons'")
        .replace("'stock'", "'stocks'");
    let why = refusal(&world.attached(&wrong)).await;
    for said in [
        "rows.table: this database has no table \"coupons\"; the nearest is \"coupon\"",
        "stock.table: this database has no table \"stocks\"; the nearest is \"stock\"",
    ] {
        assert!(why.contains(said), "{said}: {why}");
    }
}

#[tokio::test]
async fn view_is_refused_with_the_name_of_its_table() {
    let world = world().await;
    world.sql("CREATE VIEW seen AS SELECT * FROM coupon").await;
    let file = FILE.replace("'coupon'", "'seen'");
    let why = refusal(&world.attached(&file)).await;
    assert!(why.contains("\"seen\" is a view"), "{why}");
    assert!(why.ends_with("name its table \"coupon\""), "{why}");
}

#[tokio::test]
async fn key_with_an_expression_is_not_a_unique_key_of_the_user() {
    let world = world().await;
    let key = "ALTER TABLE coupon DROP INDEX event_id, ADD UNIQUE KEY (user_id, (LOWER(code)))";
    world.sql(key).await;
    let lines = FILE.lines().filter(|line| !line.starts_with("stock"));
    let file = lines.collect::<Vec<_>>().join("\n");
    let file = file.replace(", duplicates = 'locked'", "");
    let why = refusal(&world.attached(&file)).await;
    assert!(
        why.contains("has no unique key on (event_id, user_id)"),
        "{why}"
    );
}

#[tokio::test]
async fn all_missing_rights_are_reported_before_the_first_repair() {
    let world = world().await;
    let name = world.login("reads").await;
    let database = world.database_name();
    let grant = async |rights: &str| {
        world.sql(&format!("GRANT {rights} TO {name}")).await;
    };
    grant(&format!("SELECT ON {database}.*")).await;
    let letters = FILE
        .replace("'failed'", "'letters'")
        .replace("{ column = 'resolved', value = 1 }", "'delete'");
    for (file, said) in [
        (
            FILE,
            &[
                "rows: the login of `database` lacks INSERT on column event_id, user_id of coupon",
                "failed: the login of `database` lacks UPDATE on column resolved of failed",
                "stock: the login of `database` lacks UPDATE on column remaining of stock",
                "stock.table: ",
            ][..],
        ),
        (&letters, &["failed.table: DELETE command denied"]),
    ] {
        let mut attached = world.attached(file);
        attached.theirs = world.mysql_as(&name);
        let why = refusal(&attached).await;
        for said in said {
            assert!(why.contains(said), "{said}: {why}");
        }
        assert!(why.contains("campaign \"Winter\""), "{why}");
        let observed = file.replace("mode = 'repair'\n", "");
        let mut attached = world.attached(&observed);
        attached.theirs = world.mysql_as(&name);
        attached.check().await.unwrap();
        let findings = pass(&attached).await;
        assert!(findings.is_empty(), "{findings:#?}");
    }
    // Rights that a role grants count, too.
    world.sql(&format!("CREATE ROLE {name}_role")).await;
    let rights = format!("SELECT, INSERT, UPDATE, DELETE ON {database}.*");
    world.sql(&format!("GRANT {rights} TO {name}_role")).await;
    grant(&format!("{name}_role")).await;
    world.sql(&format!("SET DEFAULT ROLE ALL TO {name}")).await;
    let mut attached = world.attached(FILE);
    attached.theirs = world.mysql_as(&name);
    attached.check().await.unwrap();
}

#[tokio::test]
async fn counting_column_of_the_stock_row_must_be_described() {
    let world = world().await;
    let undescribed = FILE.replace(", left = 'remaining'", "");
    let mut before = "remaining";
    for (column, counts) in [
        ("stock", true),
        ("quantity", true),
        ("issued_qty", true),
        ("total_quantity", false),
        ("max_stock", false),
        ("stock_id", false),
    ] {
        let rename = format!("ALTER TABLE stock RENAME COLUMN {before} TO {column}");
        world.sql(&rename).await;
        before = column;
        let why = refusal(&world.attached(&undescribed)).await;
        let is_refused = why.contains("seems to count coupons");
        assert_eq!(is_refused, counts, "{column}: {why}");
    }
    let fixed = undescribed.replace("{ id = 7 } }", "{ id = 7 }, counts = false }");
    let rename = "ALTER TABLE stock RENAME COLUMN stock_id TO stock";
    world.sql(rename).await;
    let attached = world.attached(&fixed);
    attached.check().await.unwrap();
}

#[tokio::test]
async fn repairs_are_refused_if_a_row_may_be_for_several_coupons() {
    let world = world().await;
    let column = "ALTER TABLE coupon ADD COLUMN quantity INT NOT NULL DEFAULT 1";
    world.sql(column).await;
    let why = refusal(&world.attached(FILE)).await;
    let says = "column \"quantity\" of coupon seems to say how many coupons a row is for";
    assert!(why.contains(says), "{why}");
    let always_one = FILE.replace("event_id = 7 }", "event_id = 7, quantity = 1 }");
    let why = refusal(&world.attached(&always_one)).await;
    assert!(!why.contains(says), "{why}");
}
