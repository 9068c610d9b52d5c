//! Settings with which a process must not start, and `migrate`.

use std::process::{Command, Output};

use firstcome_stack::{RedisOptions, RedisServer};

use crate::world::{OPS_TOKEN, World};

fn serve(settings: &[(&str, &str)]) -> Output {
    let fine = [
        ("USER_AUTH", "trusted-header"),
        ("OPS_TOKEN", OPS_TOKEN),
        ("DATABASE_URL", "mysql://root:hunter2@127.0.0.1:1/x"),
        ("REDIS_URL", "redis://127.0.0.1:1"),
        ("KAFKA_BROKERS", "127.0.0.1:1"),
        ("LISTEN_ADDR", "127.0.0.1:0"),
        ("STARTUP_WAIT_SECONDS", "0"),
        ("RUST_LOG", "off"),
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_firstcome-api"));
    command.arg("serve").env_clear().envs(fine);
    for (name, value) in settings {
        if value.is_empty() {
            command.env_remove(name)
        } else {
            command.env(name, value)
        };
    }
    command.output().unwrap()
}

#[test]
fn a_wrong_setting_stops_the_start_with_a_sentence_and_no_secret() {
    type Setting = (&'static str, &'static str);
    let cases: [(&[Setting], &str, i32); 10] = [
        (&[("USER_AUTH", "")], "--user-auth", 2),
        (&[("USER_AUTH", "nobody")], "trusted-header", 2),
        (&[("OPS_TOKEN", "")], "--ops-token", 2),
        (&[("OPS_TOKEN", "hunter2")], "at least 32", 1),
        (&[("USER_AUTH", "jwt")], "JWT_ALGORITHM", 1),
        (&[("USER_AUTH", "jwt"), ("JWT_ALGORITHM", "none")], "HS256", 2),
        (&[("JWT_ISSUER", "shop")], "trusted-header", 1),
        (&[("JWT_SECRET", "hunter2")], "JWT_SECRET is set but USER_AUTH=trusted-header", 1),
        (&[("MAX_CLAIMS_IN_HAND", "0")], "--max-claims-in-hand", 2),
        (&[], "did not answer", 1),
    ];
    for (settings, expected, status) in cases {
        let output = serve(settings);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{settings:?}: {said}");
        assert!(said.contains(expected), "{settings:?}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
        assert!(output.stdout.is_empty());
        if status == 1 {
            assert_eq!(said.trim().lines().count(), 1, "{said}");
        }
    }
}

#[test]
fn help_names_every_setting_with_its_variable() {
    let help = |command: &str| {
        let program = Command::new(env!("CARGO_BIN_EXE_firstcome-api")).args([command, "--help"]).env_clear().output();
        String::from_utf8(program.unwrap().stdout).unwrap()
    };
    let help = help("serve") + &help("migrate");
    for variable in [
        "DATABASE_URL",
        "REDIS_URL",
        "KAFKA_BROKERS",
        "LISTEN_ADDR",
        "OPS_TOKEN",
        "USER_AUTH",
        "COUPON_PAGE",
        "JWT_SECRET",
        "PUBLISH_DEADLINE_MS",
        "KAFKA_PARTITIONS",
    ] {
        assert!(help.contains(&format!("[env: {variable}")), "{variable}");
    }
}

#[tokio::test]
async fn a_redis_that_may_forget_is_refused_at_once() {
    let world = World::new().await;
    for (options, expected) in [
        (RedisOptions { appendonly: false, ..RedisOptions::default() }, "appendonly yes"),
        (RedisOptions { maxmemory_policy: "allkeys-lru".into(), ..RedisOptions::default() }, "noeviction"),
    ] {
        let server = RedisServer::start(options).await.unwrap();
        let refused = world.with("redis-url", server.url()).try_api().await.err().unwrap().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}

#[tokio::test]
async fn a_database_without_tables_and_a_missing_topic_are_refused_with_what_to_run() {
    let world = World::new().await;
    let refused = world.with("kafka-topic", "no-such-topic").try_api().await.err().unwrap().to_string();
    assert!(refused.contains("no-such-topic") && refused.contains("migrate"), "{refused}");
    world.sql("CREATE DATABASE {db}_bare").await;
    let bare = crate::world::stack().await.mysql.database_url(&format!("{}_bare", world.name));
    let refused = world.with("database-url", bare).try_api().await.err().unwrap().to_string();
    assert!(refused.contains("firstcome-api migrate"), "{refused}");
}

#[tokio::test]
async fn migrating_again_and_twice_at_once_changes_nothing() {
    let world = World::new().await;
    let tables = async || world.sql("SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = '{db}'").await;
    let before = tables().await;
    tokio::join!(world.migrate(), world.migrate());
    assert_eq!(tables().await, before);
}
