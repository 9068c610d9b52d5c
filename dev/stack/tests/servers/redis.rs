use firstcome_stack::{RedisOptions, RedisServer};

use crate::{Wire, eventually, redis};

async fn start() -> RedisServer {
    RedisServer::start(RedisOptions::default()).await.unwrap()
}

#[tokio::test]
async fn killed_redis_comes_back_on_the_same_port_with_its_data() {
    let server = start().await;
    let port = server.port();
    let pid = server.pid();
    assert_eq!(server.url(), format!("redis://127.0.0.1:{port}"));
    assert_eq!(redis(port, "SET a 1").await.unwrap(), "+OK");
    server.kill().await.unwrap();
    assert_eq!(server.pid(), None);
    assert!(redis(port, "PING").await.is_err());
    server.start_again().await.unwrap();
    assert_ne!(server.pid(), pid);
    assert_eq!(redis(port, "GET a").await.unwrap(), "1");
    assert!(
        server.log_tail(5).contains("Ready to accept connections"),
        "{}",
        server.log_tail(5)
    );
    assert_eq!(server.log_tail(2).lines().count(), 2);
}

#[tokio::test]
async fn redis_is_configured_as_the_product_requires() {
    let server = start().await;
    for (name, value) in [
        ("appendonly", "yes"),
        ("appendfsync", "always"),
        ("maxmemory-policy", "noeviction"),
    ] {
        let mut wire = Wire::connect(server.port()).await.unwrap();
        assert_eq!(wire.ask(&format!("CONFIG GET {name}")).await.unwrap(), "*2");
        assert_eq!(
            [wire.hear().await.unwrap(), wire.hear().await.unwrap()][1],
            name
        );
        assert_eq!(
            [wire.hear().await.unwrap(), wire.hear().await.unwrap()][1],
            value
        );
    }
}

#[tokio::test]
async fn stopped_redis_keeps_its_data_and_cannot_be_stopped_twice() {
    let server = start().await;
    redis(server.port(), "SET a 1").await.unwrap();
    server.stop().await.unwrap();
    assert!(
        server
            .stop()
            .await
            .unwrap_err()
            .to_string()
            .contains("not running")
    );
    server.start_again().await.unwrap();
    assert!(
        server
            .start_again()
            .await
            .unwrap_err()
            .to_string()
            .contains("running already")
    );
    assert_eq!(redis(server.port(), "GET a").await.unwrap(), "1");
}

#[tokio::test]
async fn frozen_redis_answers_when_it_is_thawed() {
    let server = start().await;
    server.freeze().await.unwrap();
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", server.pid().unwrap())).unwrap();
    assert!(status.contains("T (stopped)"), "{status}");
    let mut wire = Wire::connect(server.port()).await.unwrap();
    wire.say("PING").await.unwrap();
    server.thaw().await.unwrap();
    assert_eq!(wire.hear().await.unwrap(), "+PONG");
}

#[tokio::test]
async fn frozen_redis_can_be_stopped() {
    let server = start().await;
    server.freeze().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_replica_follows_its_primary() {
    let primary = start().await;
    let options = RedisOptions {
        replica_of: Some(primary.port()),
        ..RedisOptions::default()
    };
    let replica = RedisServer::start(options).await.unwrap();
    redis(primary.port(), "SET a 1").await.unwrap();
    eventually("the replica has the key", async || {
        redis(replica.port(), "GET a").await.is_ok_and(|a| a == "1")
    })
    .await;
}

#[tokio::test]
async fn data_can_be_taken_back_in_time() {
    let server = start().await;
    redis(server.port(), "SET a old").await.unwrap();
    server.stop().await.unwrap();
    let data = server.data_dir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let cp = |from: &std::path::Path, to: &std::path::Path| {
        assert!(
            std::process::Command::new("cp")
                .arg("-a")
                .arg(from.join("."))
                .arg(to)
                .status()
                .unwrap()
                .success()
        );
    };
    cp(data, copy.path());
    server.start_again().await.unwrap();
    redis(server.port(), "SET a new").await.unwrap();
    server.kill().await.unwrap();
    std::fs::remove_dir_all(data).unwrap();
    std::fs::create_dir(data).unwrap();
    cp(copy.path(), data);
    server.start_again().await.unwrap();
    assert_eq!(redis(server.port(), "GET a").await.unwrap(), "old");
}

#[tokio::test]
async fn a_failed_start_shows_the_log() {
    let options = RedisOptions {
        extra_args: vec!["--no-such-option".into(), "1".into()],
        ..RedisOptions::default()
    };
    let error = RedisServer::start(options).await.unwrap_err().to_string();
    assert!(
        error.contains("ended while starting") && error.contains("no-such-option"),
        "{error}"
    );
}
