//! A query future that is dropped before it completes never gives another caller the wrong row.

use std::sync::Arc;
use std::time::Duration;

use diesel::QueryResult;
use diesel_async::{AsyncConnection as _, SimpleAsyncConnection as _};
use firstcome_shared::mysql::{Conn, Db, DbError, DbSettings, migrations};
use firstcome_shared::sql;
use firstcome_testkit::{HeldTransaction, LIMIT, LOCK_WAITS, World, WorldStores, eventually};
use tokio::sync::Barrier;

use crate::faults::waves::breakable_mysql;

/// Creates two rows, of coupon 1 and of coupon 2. `HeldTransaction` locks the first row, so that
/// the test controls how long a read of it takes.
async fn two_rows(name: &str) -> (World, HeldTransaction) {
    let world = World::of_tables(name).await;
    let rows = "INSERT INTO coupons (id, name, quantity, once_per) VALUES (1, 'one', 1, 'drop'), (2, 'two', 1, 'drop')";
    world.sql.query(rows).await;
    let mut holding = HeldTransaction::begin(&world.sql).await;
    holding
        .run("SELECT * FROM coupons WHERE id = 1 FOR UPDATE")
        .await;
    (world, holding)
}

/// Reads the name of a coupon. Waits if another client is changing the row.
async fn name_of(conn: &mut Conn, id: i64) -> QueryResult<String> {
    let name = sql!("SELECT name FROM coupons WHERE id = ? FOR UPDATE", id);
    name.one(conn).await
}

/// Returns once a query waits for the lock.
async fn under_way(world: &World) {
    eventually("the query runs on the server", LIMIT, async || {
        world.sql.number(LOCK_WAITS).await > 0
    })
    .await;
}

fn pool_of_one(world: &World) -> Db {
    pool(world, 1)
}

fn pool(world: &World, pool_size: usize) -> Db {
    let settings = DbSettings {
        url: world.sql.url().to_owned().into(),
        pool_size,
        limit: Duration::from_secs(10),
    };
    Db::new(&settings).unwrap()
}

/// Returns MySQL's id of a connection.
async fn id_of(conn: &mut Conn) -> QueryResult<i64> {
    sql!("SELECT CONNECTION_ID()").one(conn).await
}

async fn connection(db: &Db) -> Result<i64, DbError> {
    db.run("connection", async |conn| id_of(conn).await).await
}

async fn ask(db: &Db, id: i64) -> Result<String, DbError> {
    db.run("the name", async move |conn| name_of(conn, id).await)
        .await
}

/// Demonstrates the hazard. If this test ever fails, the libraries have fixed it and the wrapper
/// can be removed.
#[tokio::test]
async fn without_the_wrapper_the_next_query_reads_the_row_of_the_dropped_query() {
    let (world, holding) = two_rows("poison").await;
    let mut conn = Conn::establish(world.sql.url()).await.unwrap();
    assert_eq!(name_of(&mut conn, 2).await.unwrap(), "two");
    tokio::select! {
        answer = name_of(&mut conn, 1) => panic!("the query was not dropped half-way: {answer:?}"),
        () = under_way(&world) => {}
    }
    holding.commit().await;
    assert_eq!(
        name_of(&mut conn, 2).await.unwrap(),
        "one",
        "the query for the second row returned the first"
    );
}

#[tokio::test]
async fn with_the_wrapper_the_next_query_reads_its_own_row() {
    let (world, holding) = two_rows("wrapped").await;
    let db = pool_of_one(&world);
    assert_eq!(ask(&db, 2).await.unwrap(), "two");
    tokio::select! {
        answer = ask(&db, 1) => panic!("the query was not dropped half-way: {answer:?}"),
        () = under_way(&world) => {}
    }
    holding.commit().await;
    assert_eq!(ask(&db, 2).await.unwrap(), "two");
}

#[tokio::test]
async fn a_query_that_times_out_discards_its_connection() {
    let (world, holding) = two_rows("too-slow").await;
    let db = pool_of_one(&world);
    let hasty = db.within(Duration::from_millis(200));
    let late = hasty.run("slow", async |conn| name_of(conn, 1).await);
    let late = late.await;
    assert!(
        matches!(late, Err(DbError::TimedOut { what: "slow", .. })),
        "{late:?}"
    );
    holding.commit().await;
    assert_eq!(ask(&db, 2).await.unwrap(), "two");
}

#[tokio::test]
async fn a_query_that_times_out_discards_no_other_connection() {
    let (world, _holding) = two_rows("too-slow-alone").await;
    let db = pool(&world, 2);
    let both = Arc::new(Barrier::new(2));
    let one = || {
        let both = both.clone();
        db.run("both connections", async move |conn| {
            both.wait().await;
            id_of(conn).await
        })
    };
    let (one, other) = tokio::try_join!(one(), one()).unwrap();
    let hasty = db.within(Duration::from_millis(200));
    let late = hasty.run("slow", async |conn| name_of(conn, 1).await);
    assert!(matches!(late.await, Err(DbError::TimedOut { .. })));
    let next = connection(&db).await.unwrap();
    assert!([one, other].contains(&next), "{next}: {one} and {other}");
}

#[tokio::test]
async fn a_lock_wait_and_a_deadlock_keep_their_connection() {
    let (world, mut holding) = two_rows("contention").await;
    let db = pool_of_one(&world);
    let first = connection(&db).await.unwrap();
    let waited = ask(&db, 1).await.unwrap_err();
    assert!(waited.is_lock_wait(), "{waited}");
    assert_eq!(connection(&db).await.unwrap(), first, "after a lock wait");

    // MySQL rolls back the transaction that has changed less.
    holding
        .run("UPDATE coupons SET name = 'new' WHERE id = 1")
        .await;
    let both = db.run("both rows", async |conn| {
        conn.transaction(async |conn| {
            name_of(conn, 2).await?;
            name_of(conn, 1).await
        })
        .await
    });
    let crossing = async {
        under_way(&world).await;
        holding
            .run("UPDATE coupons SET name = 'new' WHERE id = 2")
            .await;
    };
    let (dead, ()) = tokio::join!(both, crossing);
    let dead = dead.unwrap_err().to_string();
    assert!(dead.contains("Deadlock"), "{dead}");
    assert_eq!(connection(&db).await.unwrap(), first, "after a deadlock");
}

#[tokio::test]
async fn a_refused_statement_leaves_the_pool_usable() {
    let (world, _holding) = two_rows("refused").await;
    let db = pool_of_one(&world);
    let nonsense = db.run("nonsense", async |conn| {
        conn.batch_execute("SELECT nonsense").await
    });
    assert!(matches!(nonsense.await, Err(DbError::Query { .. })));
    assert_eq!(ask(&db, 2).await.unwrap(), "two");
}

#[tokio::test]
async fn errors_are_distinguished_in_any_server_language() {
    let (server, _turn) = breakable_mysql().await;
    let world = World::on(WorldStores::shared().await.with_mysql(server), "language").await;
    world.sql.query("SET GLOBAL lc_messages = 'de_DE'").await;
    let german = world.sql.refusal(
        "INSERT INTO coupons (id, name, quantity, once_per) VALUES (1, REPEAT('x', 300), 1, 'drop')",
    );
    assert!(
        german.await.message.contains("zu lang"),
        "this server speaks German"
    );
    let db = pool_of_one(&world);
    for bad in [
        "REPEAT('x', 300), 1, 'drop'",
        "'x', -1, 'drop'",
        "'x', 'many', 'drop'",
        "'x', 0, 'drop'",
    ] {
        let sql = format!("INSERT INTO coupons (id, name, quantity, once_per) VALUES (1, {bad})");
        let refused = db
            .run("bad data", async move |conn| conn.batch_execute(&sql).await)
            .await
            .unwrap_err();
        assert!(refused.is_refusal(), "{bad}: {refused}");
    }
    let wrong = |url: String| DbSettings {
        url: url.into(),
        pool_size: 1,
        limit: Duration::from_secs(10),
    };
    let nobody = world.sql.url().replace("//root", "//nobody");
    let nowhere = world.sql.url().replace(world.database(), "nowhere");
    let statement = "CREATE USER old@'%' IDENTIFIED WITH sha256_password BY ''";
    world.sql.query(statement).await;
    let old_plugin = world.sql.url().replace("//root", "//old");
    for url in [nobody, nowhere, old_plugin] {
        let refused = Db::new(&wrong(url.clone()))
            .unwrap()
            .ping()
            .await
            .unwrap_err();
        assert!(matches!(refused, DbError::Refused(_)), "{url}: {refused:?}");
        assert!(matches!(
            Db::dedicated(&wrong(url)).await,
            Err(DbError::Refused(_))
        ));
    }
    let hasty = DbSettings {
        limit: Duration::from_secs(1),
        ..wrong(world.sql.url().to_owned())
    };
    let mut holding = HeldTransaction::begin(&world.sql).await;
    holding
        .run("LOCK TABLES __diesel_schema_migrations WRITE")
        .await;
    let waited = tokio::time::timeout(LIMIT, migrations::check(&hasty))
        .await
        .expect("it has a time limit");
    assert!(matches!(
        waited.unwrap_err().downcast_ref(),
        Some(DbError::TimedOut { .. })
    ));
    holding.run("UNLOCK TABLES").await;
    holding.commit().await;
    let statement = "DROP TABLE __diesel_schema_migrations";
    world.sql.query(statement).await;
    let lacking = migrations::check(&wrong(world.sql.url().to_owned()))
        .await
        .unwrap_err()
        .to_string();
    assert!(lacking.contains("firstcome-api migrate"), "{lacking}");
}

#[tokio::test]
async fn connections_to_a_demoted_primary_are_replaced_and_its_rows_not_trusted() {
    let (server, _turn) = breakable_mysql().await;
    let settings = DbSettings {
        url: server.database_url("firstcome").into(),
        pool_size: 1,
        limit: Duration::from_secs(10),
    };
    let db = Db::new(&settings).unwrap();
    let first = connection(&db).await.unwrap();
    assert_eq!(connection(&db.of_primary()).await.unwrap(), first);
    server
        .query("SET GLOBAL super_read_only = ON")
        .await
        .unwrap();
    let believed = connection(&db.of_primary()).await;
    assert!(
        matches!(believed, Err(DbError::ReadOnly { .. })),
        "{believed:?}"
    );
    let next = connection(&db).await.unwrap();
    assert_ne!(next, first, "a connection that gave an old row is left");
    // The connection is in constant use, and MySQL never refuses a write on it.
    eventually("the connection is left", LIMIT, async || {
        connection(&db).await.unwrap() != next
    })
    .await;
}
