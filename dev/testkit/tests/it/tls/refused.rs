//! A process refuses each wrong setting with a specific message, and no message contains a secret.

use firstcome_stack::{PASSWORD, USER, kafka_login, with_database};
use firstcome_testkit::{World, shared};

use crate::start_up::{PROCESSES, refuses};
use crate::tls::{servers, world};

/// The changed settings, and the words that one line of the log must contain.
type Case<'a> = (Vec<(&'a str, String)>, &'a [&'a str]);

/// Two processes that use the store: a long-running one and a single pass.
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
        env.push(("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "3".into()));
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
    let plain_redis = shared().await.redis.url().replace("redis://", "rediss://");
    let mysql = servers.mysql_url(PASSWORD);
    let database = |url: String| with_database(&url, world.database());
    #[rustfmt::skip]
    let cases: [Case<'_>; 11] = [
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
    ];
    are_refused(&world, &TWO, cases).await;
}

#[tokio::test]
#[ignore = "release"]
async fn a_kafka_with_a_wrong_identity_or_login_is_refused_with_the_reason() {
    let world = world("tls-refused-kafka").await;
    let servers = servers().await;
    let file = |name: &str| servers.certificates.path(name);
    let good = servers.kafka_by_login();
    let scram = |user: &str| kafka_login("SCRAM-SHA-512", user);
    let plain = || ("KAFKA_PROPERTIES", kafka_login("PLAIN", USER));
    let wrong_password = || ("KAFKA_SASL_PASSWORD", "hunter2".to_owned());
    let without_login = |properties: String| {
        vec![
            ("KAFKA_SASL_PASSWORD", String::new()),
            ("KAFKA_PROPERTIES", properties),
        ]
    };
    let foreign_ca = format!(
        "{}; ssl.ca.location={}",
        scram(USER),
        file("foreign-ca.pem")
    );
    let mut foreign_identity = without_login(format!(
        "security.protocol=SSL; ssl.certificate.location={}; ssl.key.location={}",
        file("foreign.pem"),
        file("foreign.key")
    ));
    foreign_identity.push(("KAFKA_BROKERS", servers.kafka_by_certificate()));
    let unknown: Case<'_> = (
        vec![("KAFKA_PROPERTIES", foreign_ca)],
        &["certificate verify failed", "SSL_CERT_FILE"],
    );
    are_refused(&world, &PROCESSES, [unknown]).await;
    #[rustfmt::skip]
    let cases: [Case<'_>; 5] = [
        (vec![("KAFKA_BROKERS", good.replace("127.0.0.1", "localhost"))],
            &["certificate verify failed", "KAFKA_BROKERS"]),
        (vec![wrong_password()], &["Kafka does not let this process in", "KAFKA_SASL_PASSWORD"]),
        (vec![("KAFKA_PROPERTIES", scram("nobody"))],
            &["Kafka does not let this process in", "sasl.username"]),
        (vec![plain(), wrong_password()], &["Kafka does not let this process in"]),
        (foreign_identity, &["certificate", "TLS_CERT_FILE"]),
    ];
    are_refused(&world, &TWO, cases).await;
    // Only the pass exits. The API runs without Kafka, because a broker that is shutting down also
    // breaks off handshakes.
    let cases: [Case<'_>; 2] = [
        (
            vec![("KAFKA_BROKERS", servers.door_to_kafka())],
            &["SSL handshake failed", "security.protocol"],
        ),
        (
            without_login("security.protocol=PLAINTEXT".to_owned()),
            &["security.protocol"],
        ),
    ];
    are_refused(&world, &TWO[1..], cases).await;
}
