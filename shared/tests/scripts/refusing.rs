//! Tests that a Redis that answers `PING` but refuses writes is recognized by its messages.

use std::time::Duration;

use firstcome_shared::redis::Redis;
use firstcome_shared::redis::refusing::text_of;
use firstcome_shared::report::{FailureCause, StoreRefusal};
use firstcome_stack::{RedisOptions, RedisServer, eventually, eventually_some};
use redis::{Value, cmd, pipe};

use crate::world::connect;

const LIMIT: Duration = Duration::from_secs(60);

async fn run(server: &RedisServer, words: &[&str]) -> Value {
    let mut conn = server.connection().await.unwrap();
    let (name, arguments) = words.split_first().unwrap();
    cmd(name)
        .arg(arguments)
        .query_async(&mut conn)
        .await
        .unwrap()
}

async fn is_refused(redis: &Redis, expected: StoreRefusal) {
    eventually_some("the refusal", LIMIT, async || {
        let error = redis.check_writes().await.err().ok_or("a write succeeds")?;
        let text = text_of(&error);
        // If the server is not a master, the connection is being replaced, and a check may fail for
        // that reason first.
        let refusal = StoreRefusal::from_error(FailureCause::Redis, &text);
        let is_it = refusal == Some(expected) && !text.contains('…');
        is_it.then_some(()).ok_or(format!("{expected:?}: {text}"))
    })
    .await;
}

/// Each command of a transaction is refused with the same words. The text must have them only once.
async fn is_quoted_once(server: &RedisServer) {
    let mut conn = server.connection().await.unwrap();
    let mut both = pipe();
    both.atomic().set("a", 1).set("b", 1);
    let refused = both.query_async::<Value>(&mut conn).await.unwrap_err();
    let text = text_of(&refused);
    let whole = "OOM command not allowed when used memory > 'maxmemory'.";
    assert_eq!(text, whole, "{refused}");
}

async fn is_over(redis: &Redis) {
    eventually("writes work again", LIMIT, async || {
        redis.check_writes().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn refusals_of_a_real_redis_are_recognized_until_they_end() {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let redis = connect(&server.url());
    redis.check_writes().await.unwrap();
    let set = async |name: &str, value: &str| run(&server, &["CONFIG", "SET", name, value]).await;

    set("maxmemory", "1").await;
    is_refused(&redis, StoreRefusal::RedisMemory).await;
    is_quoted_once(&server).await;
    set("maxmemory", "0").await;
    is_over(&redis).await;

    set("min-replicas-to-write", "1").await;
    is_refused(&redis, StoreRefusal::RedisOther).await;
    set("min-replicas-to-write", "0").await;
    is_over(&redis).await;

    run(&server, &["REPLICAOF", "127.0.0.1", "1"]).await;
    is_refused(&redis, StoreRefusal::RedisReplica).await;
    run(&server, &["REPLICAOF", "NO", "ONE"]).await;
    is_over(&redis).await;

    // A folder of this name makes every snapshot fail.
    std::fs::create_dir_all(server.data_dir().join("dump.rdb/x")).unwrap();
    set("save", "3600 1").await;
    run(&server, &["BGSAVE"]).await;
    is_refused(&redis, StoreRefusal::RedisDisk).await;
    set("save", "").await;
    is_over(&redis).await;

    set("busy-reply-threshold", "1").await;
    let mut conn = server.connection().await.unwrap();
    let script = tokio::spawn(async move {
        let mut forever = cmd("EVAL");
        forever.arg("while true do end").arg(0);
        forever.query_async::<Value>(&mut conn).await
    });
    is_refused(&redis, StoreRefusal::RedisOther).await;
    run(&server, &["SCRIPT", "KILL"]).await;
    script.abort();
    is_over(&redis).await;
}
