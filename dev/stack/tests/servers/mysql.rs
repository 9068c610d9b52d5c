use firstcome_stack::{
    LOCK_WAITS, MysqlOptions, MysqlServer, TABLE_LOCK_WAITS, mysql_client, mysql_connection,
    mysql_rows,
};
use mysql_async::prelude::Queryable as _;

use crate::eventually;

#[tokio::test]
async fn mysql_client_gets_no_password_as_an_argument() {
    let server = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    server
        .query("CREATE USER kim IDENTIFIED BY 'a b%c'")
        .await
        .unwrap();
    server
        .query("GRANT SELECT ON firstcome.* TO kim")
        .await
        .unwrap();
    let url = format!(
        "mysql://kim:a%20b%25c@127.0.0.1:{}/firstcome",
        server.port()
    );
    let mut client = mysql_client(&url, Some("SELECT DATABASE(), '쿠폰'")).unwrap();
    assert!(
        client
            .get_args()
            .all(|arg| !arg.to_string_lossy().contains("a b"))
    );
    let done = tokio::task::spawn_blocking(move || client.output())
        .await
        .unwrap()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(
        done.status.success() && said.contains("firstcome\t쿠폰"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
    let wrong = format!(
        "{:#}",
        mysql_client("http://kim:secret@x", None).unwrap_err()
    );
    assert!(
        wrong.contains("DATABASE_URL") && !wrong.contains("secret"),
        "{wrong}"
    );
}

#[tokio::test]
async fn lock_waits_are_counted_while_another_statement_contains_bytes_that_are_no_text() {
    let server = MysqlServer::start(MysqlOptions::default()).await.unwrap();
    let mut other = mysql_connection(&server.database_url("firstcome"))
        .await
        .unwrap();
    other.query_drop("SET NAMES binary").await.unwrap();
    let statement = &b"SELECT SLEEP(60), _binary '\xff\xfe'"[..];
    let sleeping = tokio::spawn(async move { other.query_drop(statement).await });
    let url = server.database_url("firstcome");
    let sleeps =
        "SELECT COUNT(*) FROM performance_schema.threads WHERE processlist_state = 'User sleep'";
    eventually("the other statement runs", async || {
        mysql_rows(&url, sleeps).await.unwrap() == [["1"]]
    })
    .await;
    for sql in [LOCK_WAITS, TABLE_LOCK_WAITS] {
        assert_eq!(mysql_rows(&url, sql).await.unwrap(), [["0"]], "{sql}");
    }
    sleeping.abort();
}
