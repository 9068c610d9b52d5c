//! Connections to MySQL: a query that is dropped or times out before it completes never gives
//! another caller its row, lock waits and deadlocks keep their connection, and connections to a
//! demoted primary are replaced.

use diesel::dsl::{select, sql};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use firstcome_harness::LOCK_WAITS;
use firstcome_shared::mysql::{Conn, Db, DbError, DbSettings};
use firstcome_shared::schema::coupons;
use tokio::sync::oneshot;

use crate::prelude::*;

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

/// Reads the name of a coupon. Waits while another client locks the row.
async fn name_of(conn: &mut Conn, id: i64) -> QueryResult<String> {
    let name = coupons::table.find(id).select(coupons::name);
    name.for_update().get_result(conn).await
}

/// Lets the next queries of a connection wait longer for a lock than a slow test holds one.
async fn wait_for_locks(conn: &mut Conn) -> QueryResult<()> {
    let wait = sql_query("SET SESSION innodb_lock_wait_timeout = 60");
    wait.execute(conn).await.map(drop)
}

/// Returns once a query waits for a lock.
async fn under_way(world: &World) {
    eventually("the query runs on the server", LIMIT, async || {
        world.sql.number(LOCK_WAITS).await > 0
    })
    .await;
}

fn pool_of_one(url: &str) -> Db {
    let settings = DbSettings {
        url: url.to_owned().into(),
        pool_size: 1,
        limit: Duration::from_secs(10),
    };
    Db::new(&settings).unwrap()
}

/// Returns MySQL's id of a connection.
async fn id_of(conn: &mut Conn) -> QueryResult<i64> {
    let id = select(sql::<BigInt>("CONNECTION_ID()"));
    id.get_result(conn).await
}

async fn connection(db: &Db) -> Result<i64, DbError> {
    db.run("connection", async |conn| id_of(conn).await).await
}

async fn ask(db: &Db, id: i64) -> Result<String, DbError> {
    db.run("the name", async move |conn| {
        wait_for_locks(conn).await?;
        name_of(conn, id).await
    })
    .await
}

/// Demonstrates the hazard. If this test ever fails, the libraries have fixed it and the wrapper
/// can be removed.
#[tokio::test]
async fn without_the_wrapper_the_next_query_does_not_read_its_own_row() {
    let (world, holding) = two_rows("poison").await;
    let mut conn = Conn::establish(world.sql.url()).await.unwrap();
    assert_eq!(name_of(&mut conn, 2).await.unwrap(), "two");
    tokio::select! {
        answer = name_of(&mut conn, 1) => panic!("the query was not dropped half-way: {answer:?}"),
        () = under_way(&world) => {}
    }
    holding.commit().await;
    // The next query takes the first query's row, or the rest of that reply, for its own.
    let poisoned = name_of(&mut conn, 2).await;
    assert_ne!(poisoned.ok().as_deref(), Some("two"));
}

#[tokio::test]
async fn with_the_wrapper_the_next_query_reads_its_own_row() {
    let (world, holding) = two_rows("wrapped").await;
    let db = pool_of_one(world.sql.url());
    assert_eq!(ask(&db, 2).await.unwrap(), "two");
    tokio::select! {
        answer = ask(&db, 1) => panic!("the query was not dropped half-way: {answer:?}"),
        () = under_way(&world) => {}
    }
    holding.commit().await;
    assert_eq!(ask(&db, 2).await.unwrap(), "two");
}

#[tokio::test]
async fn the_next_query_after_a_timeout_reads_its_own_row() {
    let (world, holding) = two_rows("too-slow").await;
    let db = pool_of_one(world.sql.url());
    let hasty = db.within(Duration::from_millis(200));
    let late = hasty.run("slow", async |conn| {
        wait_for_locks(conn).await?;
        name_of(conn, 1).await
    });
    let late = late.await;
    assert!(
        matches!(late, Err(DbError::TimedOut { what: "slow", .. })),
        "{late:?}"
    );
    holding.commit().await;
    assert_eq!(ask(&db, 2).await.unwrap(), "two");
}

#[tokio::test]
async fn a_lock_wait_and_a_deadlock_keep_their_connection() {
    let (world, mut holding) = two_rows("contention").await;
    let db = pool_of_one(world.sql.url());
    let (tell, first) = oneshot::channel();
    let waits = db.run("the name", async move |conn| {
        tell.send(id_of(conn).await?).unwrap();
        name_of(conn, 1).await
    });
    let waited = waits.await.unwrap_err();
    assert!(waited.is_lock_wait(), "{waited}");
    let first = first.await.unwrap();
    assert_eq!(connection(&db).await.unwrap(), first, "after a lock wait");

    // MySQL rolls back the transaction that has changed less.
    holding
        .run("UPDATE coupons SET name = 'new' WHERE id = 1")
        .await;
    let (tell, second) = oneshot::channel();
    let both = db.run("both rows", async move |conn| {
        wait_for_locks(conn).await?;
        tell.send(id_of(conn).await?).unwrap();
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
    let second = second.await.unwrap();
    assert_eq!(connection(&db).await.unwrap(), second, "after a deadlock");
}

#[tokio::test]
#[ignore = "release"]
async fn connections_to_a_demoted_primary_are_replaced_and_its_rows_not_trusted() {
    let server = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let db = pool_of_one(&server.database_url(""));
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
    // The connection is in constant use, and no write on it is ever refused.
    eventually("the connection is left", LIMIT, async || {
        connection(&db).await.unwrap() != next
    })
    .await;
}
