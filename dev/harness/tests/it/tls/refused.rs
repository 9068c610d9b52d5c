//! A process refuses each wrong setting with a specific message, and no message contains a secret.

use firstcome_harness::World;
use firstcome_stack::{PASSWORD, Stack, with_database};

use crate::start_up::refuses;
use crate::tls::{servers, world};

/// The changed settings, and the words that one line of the log must contain.
type Case<'a> = (Vec<(&'a str, String)>, &'a [&'a str]);

/// Two processes that use all stores: a long-running one and a single pass.
const TWO: [(&str, &[&str]); 2] = [
    ("firstcome-api", &["serve"]),
    ("firstcome-reconciler", &["once"]),
];

/// Starts all cases concurrently. Each process must exit with the words of its case in one line.
async fn are_refused<'a>(
    world: &World,
    processes: &[(&str, &[&str])],
    cases: impl IntoIterator<Item = Case<'a>>,
) {
    let mut started = Vec::new();
    for (mut env, words) in cases {
        env.push(("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "20".into()));
        env.push(("STORE_TIMEOUT_MS", "1000".into()));
        let env: Vec<_> = env
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        for (program, args) in processes {
            started.push((world.start(program, args, &env), words));
        }
    }
    for (process, words) in started {
        refuses(&process, words).await;
        let log = process.log();
        assert!(!log.contains(PASSWORD) && !log.contains("hunter2"), "{log}");
    }
}

#[tokio::test]
#[ignore = "release"]
async fn wrong_certificates_logins_and_addresses_are_refused_with_the_setting() {
    let world = world("tls-refused").await;
    let servers = servers().await;
    let file = |name: &str| servers.certificates.path(name);
    let empty = String::new;
    let redis = servers.redis_url(PASSWORD);
    let plain = Stack::shared().await.unwrap();
    let plain_redis = plain.redis.url().replace("redis://", "rediss://");
    let mysql = servers.mysql_url(PASSWORD);
    let database = |url: String| with_database(&url, world.database());
    let kafka = servers.kafka_by_login().replace("127.0.0.1", "localhost");
    #[rustfmt::skip]
    let cases: [Case<'_>; 13] = [
        (vec![("SSL_CERT_FILE", file("foreign-ca.pem"))], &["SSL_CERT_FILE"]),
        (vec![("SSL_CERT_FILE", empty())], &["SSL_CERT_FILE"]),
        (vec![("TLS_CERT_FILE", file("foreign.pem")), ("TLS_KEY_FILE", file("foreign.key"))],
            &["received fatal alert", "TLS_CERT_FILE"]),
        (vec![("TLS_CERT_FILE", empty()), ("TLS_KEY_FILE", empty())], &["TLS_CERT_FILE"]),
        (vec![("REDIS_URL", redis.replace("127.0.0.1", "localhost"))],
            &["not valid for name", "localhost", "REDIS_URL"]),
        (vec![("REDIS_URL", servers.redis_url("hunter2"))],
            &["Redis does not let this process in", "REDIS_URL"]),
        (vec![("REDIS_URL", redis.replace("rediss://", "redis://"))],
            &["begins with rediss:// for TLS"]),
        (vec![("REDIS_URL", plain_redis)], &["Redis cannot be reached", "REDIS_URL"]),
        (vec![("DATABASE_URL", with_database(&mysql, "nodb"))],
            &["no database nodb", "CREATE DATABASE `nodb`", "DATABASE_URL"]),
        (vec![("DATABASE_URL", database(mysql.replace("127.0.0.1", "localhost")))],
            &["not valid for name", "localhost", "DATABASE_URL"]),
        (vec![("DATABASE_URL", database(servers.mysql_url("hunter2")))],
            &["MySQL does not let this process in", "Access denied", "DATABASE_URL"]),
        (vec![("KAFKA_BROKERS", kafka)], &["certificate verify failed", "KAFKA_BROKERS"]),
        (vec![("KAFKA_SASL_PASSWORD", "hunter2".to_owned())],
            &["Kafka does not let this process in", "KAFKA_SASL_PASSWORD"]),
    ];
    are_refused(&world, &TWO, cases).await;
}
