use firstcome_stack::{
    MysqlOptions, MysqlPair, MysqlServer, Replication, mysql_client, mysql_rows,
};

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
async fn pair_fails_over_repeatedly_and_keeps_only_acknowledged_commits() {
    let pair = MysqlPair::start(Replication::SemiSynchronous)
        .await
        .unwrap();
    let url = pair.primary.database_url_via(&pair.address, "firstcome");
    let run = async |sql: &str| mysql_rows(&url, sql).await.unwrap();
    run("CREATE TABLE t (a INT PRIMARY KEY)").await;
    run("INSERT INTO t VALUES (1)").await;
    pair.stop_replication().await.unwrap();
    let never_answered = tokio::spawn({
        let url = url.clone();
        async move { mysql_rows(&url, "INSERT INTO t VALUES (9)").await }
    });
    let waiting = "SELECT COUNT(*) FROM performance_schema.processlist WHERE state LIKE 'Waiting for semi-sync ACK%replica'";
    eventually("the commit waits for the replica", async || {
        pair.primary
            .query(waiting)
            .await
            .is_ok_and(|rows| rows == [["1"]])
    })
    .await;

    pair.primary.kill().await.unwrap();
    assert!(never_answered.await.unwrap().is_err());
    pair.fail_over().await.unwrap();
    run("INSERT INTO t VALUES (2)").await;
    // The former primary has the commit that was never acknowledged, and must discard it.
    pair.take_back().await.unwrap();
    for number in [3, 4] {
        pair.lose_primary().await.unwrap();
        pair.fail_over().await.unwrap();
        run(&format!("INSERT INTO t VALUES ({number})")).await;
        pair.take_back().await.unwrap();
    }
    pair.catch_up().await.unwrap();
    for server in [&pair.primary, &pair.replica] {
        let rows = server
            .query("SELECT GROUP_CONCAT(a ORDER BY a), @@super_read_only FROM firstcome.t")
            .await
            .unwrap();
        let read_only = if server.port() == pair.in_office().port() {
            "0"
        } else {
            "1"
        };
        assert_eq!(rows, [["1,2,3,4", read_only]]);
    }
}
