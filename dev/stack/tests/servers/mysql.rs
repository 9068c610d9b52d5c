use firstcome_stack::{MysqlOptions, MysqlServer, mysql_client};

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
