//! A process refuses each wrong setting with a specific message, and no message contains a secret.

use firstcome_stack::{PASSWORD, USER};
use firstcome_testkit::{Process, World, shared};

use crate::start_up::{PROCESSES, refuses};
use crate::tls::{servers, world};

/// The changed settings, and the words that the message must contain.
type RefusedCase<'a> = (Vec<(&'a str, String)>, &'a [&'a str]);

/// Two processes that use the store: a long-running one and a single pass.
const TWO: [(&str, &[&str]); 2] = [
    ("firstcome-api", &["serve"]),
    ("firstcome-reconciler", &["once"]),
];

/// Starts all cases concurrently. Each process must exit with the words of its case in one line.
async fn are_refused(world: &World, processes: &[(&str, &[&str])], cases: &[RefusedCase<'_>]) {
    let mut started: Vec<(Process, &[&str])> = Vec::new();
    for (env, words) in cases {
        let mut env: Vec<(&str, &str)> = env
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        env.extend([
            ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "3"),
            ("STORE_TIMEOUT_MS", "1000"),
        ]);
        started.extend(
            processes
                .iter()
                .map(|(program, args)| (world.start(program, args, &env), *words)),
        );
    }
    for (process, words) in started {
        refuses(&process, words).await;
        let log = process.log();
        assert!(!log.contains(PASSWORD) && !log.contains("hunter2"), "{log}");
    }
}

fn unset(names: &[&'static str]) -> Vec<(&'static str, String)> {
    names.iter().map(|name| (*name, String::new())).collect()
}

const FILES_OF_REDIS: [&str; 3] = ["REDIS_CA_FILE", "REDIS_CERT_FILE", "REDIS_KEY_FILE"];
const FILES_OF_MYSQL: [&str; 3] = [
    "DATABASE_CA_FILE",
    "DATABASE_CERT_FILE",
    "DATABASE_KEY_FILE",
];
const LOGIN_TO_KAFKA: [&str; 3] = [
    "KAFKA_SASL_MECHANISM",
    "KAFKA_SASL_USERNAME",
    "KAFKA_SASL_PASSWORD",
];

#[tokio::test]
async fn a_redis_with_a_wrong_identity_or_login_is_refused_with_the_reason() {
    let world = world("tls-redis").await;
    let servers = servers().await;
    let file = |name| servers.certificates.path(name);
    let good = servers.redis_url(PASSWORD);
    let plain_port = shared().await.redis.url().replace("redis://", "rediss://");
    let mut in_plain_text = unset(&FILES_OF_REDIS);
    in_plain_text.push(("REDIS_URL", good.replace("rediss://", "redis://")));
    let cases: [RefusedCase; 9] = [
        (
            vec![("REDIS_CA_FILE", file("foreign-ca.pem"))],
            &["Redis at", "UnknownIssuer", "REDIS_CA_FILE"],
        ),
        (
            vec![("REDIS_CA_FILE", String::new())],
            &["UnknownIssuer", "REDIS_CA_FILE"],
        ),
        (
            vec![("REDIS_URL", good.replace("127.0.0.1", "localhost"))],
            &["not valid for name", "localhost", "REDIS_URL"],
        ),
        (
            vec![("REDIS_URL", servers.expired_redis_url())],
            &["Redis at", "certificate expired"],
        ),
        (
            vec![("REDIS_URL", servers.redis_url("hunter2"))],
            &["Redis does not let this process in", "REDIS_URL"],
        ),
        (in_plain_text, &["begins with rediss:// for TLS"]),
        (
            vec![("REDIS_URL", plain_port)],
            &["Redis cannot be reached", "REDIS_URL"],
        ),
        (
            unset(&["REDIS_CERT_FILE", "REDIS_KEY_FILE"]),
            &["received fatal alert", "REDIS_CERT_FILE"],
        ),
        (
            vec![
                ("REDIS_CERT_FILE", file("foreign.pem")),
                ("REDIS_KEY_FILE", file("foreign.key")),
            ],
            &["received fatal alert", "REDIS_CERT_FILE"],
        ),
    ];
    are_refused(&world, &TWO, &cases).await;
}

#[tokio::test]
async fn a_mysql_with_a_wrong_identity_or_login_is_refused_with_the_reason() {
    let world = world("tls-mysql").await;
    let servers = servers().await;
    let file = |name| servers.certificates.path(name);
    let at = |url: String| vec![("DATABASE_URL", format!("{url}{}", world.database()))];
    let good = servers.mysql_url(PASSWORD);
    let mut in_plain_text = unset(&FILES_OF_MYSQL);
    in_plain_text.push(("DATABASE_TLS", "off".to_owned()));
    let unknown: RefusedCase = (
        vec![("DATABASE_CA_FILE", file("foreign-ca.pem"))],
        &[
            "MySQL does not let this process in",
            "UnknownIssuer",
            "DATABASE_CA_FILE",
        ],
    );
    let cases: [RefusedCase; 8] = [
        (
            vec![("DATABASE_URL", format!("{good}nodb"))],
            &["no database nodb", "CREATE DATABASE `nodb`", "DATABASE_URL"],
        ),
        (
            vec![("DATABASE_CA_FILE", String::new())],
            &["UnknownIssuer", "DATABASE_CA_FILE"],
        ),
        (
            at(good.replace("127.0.0.1", "localhost")),
            &["not valid for name", "localhost", "DATABASE_URL"],
        ),
        (
            at(servers.expired_mysql_url()),
            &["MySQL does not let this process in", "certificate expired"],
        ),
        (
            at(servers.mysql_url("hunter2")),
            &[
                "MySQL does not let this process in",
                "Access denied",
                "DATABASE_URL",
            ],
        ),
        (in_plain_text, &["MySQL does not let this process in"]),
        (
            unset(&["DATABASE_CERT_FILE", "DATABASE_KEY_FILE"]),
            &["Access denied", "DATABASE_CERT_FILE"],
        ),
        (
            vec![
                ("DATABASE_CERT_FILE", file("foreign.pem")),
                ("DATABASE_KEY_FILE", file("foreign.key")),
            ],
            &["received fatal alert", "DATABASE_CERT_FILE"],
        ),
    ];
    are_refused(&world, &PROCESSES, &[unknown]).await;
    are_refused(&world, &TWO, &cases).await;
}

#[tokio::test]
async fn a_kafka_with_a_wrong_identity_or_login_is_refused_with_the_reason() {
    let world = world("tls-refused-kafka").await;
    let servers = servers().await;
    let file = |name| servers.certificates.path(name);
    let good = servers.kafka_by_login();
    let mut in_plain_text = unset(&LOGIN_TO_KAFKA);
    in_plain_text.extend([
        ("KAFKA_SECURITY_PROTOCOL", "PLAINTEXT".to_owned()),
        ("KAFKA_CA_FILE", String::new()),
    ]);
    let mut no_certificate = unset(&LOGIN_TO_KAFKA);
    no_certificate.extend([
        ("KAFKA_SECURITY_PROTOCOL", "SSL".to_owned()),
        ("KAFKA_BROKERS", servers.kafka_by_certificate()),
    ]);
    let plain =
        |more: (&'static str, String)| vec![("KAFKA_SASL_MECHANISM", "PLAIN".to_owned()), more];
    let unknown: RefusedCase = (
        vec![("KAFKA_CA_FILE", file("foreign-ca.pem"))],
        &["certificate verify failed", "KAFKA_CA_FILE"],
    );
    let wrong_user = vec![("KAFKA_SASL_USERNAME", format!("not-{USER}"))];
    let cases: [RefusedCase; 6] = [
        (
            vec![("KAFKA_BROKERS", good.replace("127.0.0.1", "localhost"))],
            &["certificate verify failed", "KAFKA_BROKERS"],
        ),
        (
            plain(("KAFKA_BROKERS", servers.expired_kafka())),
            &["certificate verify failed", "KAFKA_CA_FILE"],
        ),
        (
            vec![("KAFKA_SASL_PASSWORD", "hunter2".to_owned())],
            &["Kafka does not let this process in", "KAFKA_SASL_PASSWORD"],
        ),
        (
            wrong_user,
            &["Kafka does not let this process in", "KAFKA_SASL_USERNAME"],
        ),
        (
            plain(("KAFKA_SASL_PASSWORD", "hunter2".to_owned())),
            &["Kafka does not let this process in"],
        ),
        (no_certificate, &["certificate", "KAFKA_CERT_FILE"]),
    ];
    are_refused(&world, &PROCESSES, &[unknown]).await;
    are_refused(&world, &TWO, &cases).await;
    // Only the pass exits. The API runs without Kafka, because a broker that is shutting down also
    // breaks off handshakes.
    let plain_port: RefusedCase = (
        vec![("KAFKA_BROKERS", servers.door_to_kafka())],
        &["SSL handshake failed", "KAFKA_SECURITY_PROTOCOL"],
    );
    let in_plain_text: RefusedCase = (in_plain_text, &["KAFKA_SECURITY_PROTOCOL"]);
    are_refused(&world, &TWO[1..], &[plain_port, in_plain_text]).await;
}

#[tokio::test]
async fn one_broker_with_a_wrong_identity_is_tolerated_and_all_are_refused() {
    let world = world("tls-one-of-two").await;
    let servers = servers().await;
    world.set("KAFKA_SASL_MECHANISM", "PLAIN");
    let expired = servers.expired_kafka();
    let good = servers.kafka_by_login();
    for brokers in [format!("{expired},{good}"), format!("{good},{expired}")] {
        for _ in 0..2 {
            // librdkafka picks one of them at random.
            let consumer = world.start(
                "firstcome-api",
                &["consume"],
                &[("KAFKA_BROKERS", &brokers)],
            );
            consumer.line("consuming ").await;
            assert_eq!(consumer.stop().await, 0, "{}", consumer.log());
        }
    }
    let other_name = good.replace("127.0.0.1", "localhost");
    let all: RefusedCase = (
        vec![("KAFKA_BROKERS", format!("{expired},{other_name}"))],
        &["certificate verify failed", "KAFKA_CA_FILE"],
    );
    are_refused(&world, &TWO, &[all]).await;
    // A pass waits for the unreachable broker, which may be healthy, before it exits.
    let away = format!("{expired},127.0.0.1:1");
    are_refused(
        &world,
        &TWO[1..],
        &[(
            vec![("KAFKA_BROKERS", away)],
            &["certificate verify failed"],
        )],
    )
    .await;
}
