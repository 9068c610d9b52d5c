//! A process refuses each wrong setting with a specific message, and no message contains a secret.

use firstcome_stack::{PASSWORD, USER, kafka_login, with_database};
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

/// A setting of Kafka that replaces the login.
fn no_login(properties: String) -> Vec<(&'static str, String)> {
    vec![
        ("KAFKA_SASL_PASSWORD", String::new()),
        ("KAFKA_PROPERTIES", properties),
    ]
}

#[tokio::test]
async fn unknown_authorities_and_identities_are_refused_with_the_setting() {
    let world = world("tls-files").await;
    let servers = servers().await;
    let file = |name: &str| servers.certificates.path(name);
    let identity = |name: &str| {
        vec![
            ("TLS_CERT_FILE", file(&format!("{name}.pem"))),
            ("TLS_KEY_FILE", file(&format!("{name}.key"))),
        ]
    };
    let foreign = vec![("SSL_CERT_FILE", file("foreign-ca.pem"))];
    let cases: [RefusedCase; 4] = [
        (foreign, &["SSL_CERT_FILE"]),
        (unset(&["SSL_CERT_FILE"]), &["SSL_CERT_FILE"]),
        (
            identity("foreign"),
            &["received fatal alert", "TLS_CERT_FILE"],
        ),
        (
            unset(&["TLS_CERT_FILE", "TLS_KEY_FILE"]),
            &["TLS_CERT_FILE"],
        ),
    ];
    are_refused(&world, &PROCESSES[..1], &cases).await;
    are_refused(&world, &PROCESSES[2..], &cases).await;
}

#[tokio::test]
async fn a_redis_with_a_wrong_identity_or_login_is_refused_with_the_reason() {
    let world = world("tls-redis").await;
    let servers = servers().await;
    let good = servers.redis_url(PASSWORD);
    let plain_port = shared().await.redis.url().replace("redis://", "rediss://");
    let at = |url: String| vec![("REDIS_URL", url)];
    let cases: [RefusedCase; 5] = [
        (
            at(good.replace("127.0.0.1", "localhost")),
            &["not valid for name", "localhost", "REDIS_URL"],
        ),
        (
            at(servers.expired_redis_url()),
            &["Redis at", "certificate expired"],
        ),
        (
            at(servers.redis_url("hunter2")),
            &["Redis does not let this process in", "REDIS_URL"],
        ),
        (
            at(good.replace("rediss://", "redis://")),
            &["begins with rediss:// for TLS"],
        ),
        (at(plain_port), &["Redis cannot be reached", "REDIS_URL"]),
    ];
    are_refused(&world, &TWO, &cases).await;
}

#[tokio::test]
async fn a_mysql_with_a_wrong_identity_or_login_is_refused_with_the_reason() {
    let world = world("tls-mysql").await;
    let servers = servers().await;
    let at = |url: String| vec![("DATABASE_URL", with_database(&url, world.database()))];
    let good = servers.mysql_url(PASSWORD);
    let cases: [RefusedCase; 5] = [
        (
            vec![("DATABASE_URL", with_database(&good, "nodb"))],
            &["no database nodb", "CREATE DATABASE `nodb`", "DATABASE_URL"],
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
        (
            at(good.replace("?require_ssl=true", "")),
            &["MySQL does not let this process in"],
        ),
    ];
    are_refused(&world, &TWO, &cases).await;
}

#[tokio::test]
async fn a_kafka_with_a_wrong_identity_or_login_is_refused_with_the_reason() {
    let world = world("tls-refused-kafka").await;
    let servers = servers().await;
    let file = |name| servers.certificates.path(name);
    let good = servers.kafka_by_login();
    let in_plain_text = no_login("security.protocol=PLAINTEXT".to_owned());
    let mut foreign_identity = no_login(format!(
        "security.protocol=SSL; ssl.certificate.location={}; ssl.key.location={}",
        file("foreign.pem"),
        file("foreign.key")
    ));
    foreign_identity.push(("KAFKA_BROKERS", servers.kafka_by_certificate()));
    let login = |mechanism, user: &str| ("KAFKA_PROPERTIES", kafka_login(mechanism, user));
    let plain = |more: (&'static str, String)| vec![login("PLAIN", USER), more];
    let unknown: RefusedCase = (
        vec![(
            "KAFKA_PROPERTIES",
            format!(
                "{}; ssl.ca.location={}",
                kafka_login("SCRAM-SHA-512", USER),
                file("foreign-ca.pem")
            ),
        )],
        &["certificate verify failed", "SSL_CERT_FILE"],
    );
    let wrong_user = vec![login("SCRAM-SHA-512", &format!("not-{USER}"))];
    let cases: [RefusedCase; 6] = [
        (
            vec![("KAFKA_BROKERS", good.replace("127.0.0.1", "localhost"))],
            &["certificate verify failed", "KAFKA_BROKERS"],
        ),
        (
            plain(("KAFKA_BROKERS", servers.expired_kafka())),
            &["certificate verify failed", "SSL_CERT_FILE"],
        ),
        (
            vec![("KAFKA_SASL_PASSWORD", "hunter2".to_owned())],
            &["Kafka does not let this process in", "KAFKA_SASL_PASSWORD"],
        ),
        (
            wrong_user,
            &["Kafka does not let this process in", "sasl.username"],
        ),
        (
            plain(("KAFKA_SASL_PASSWORD", "hunter2".to_owned())),
            &["Kafka does not let this process in"],
        ),
        (foreign_identity, &["certificate", "TLS_CERT_FILE"]),
    ];
    are_refused(&world, &PROCESSES, &[unknown]).await;
    are_refused(&world, &TWO, &cases).await;
    // Only the pass exits. The API runs without Kafka, because a broker that is shutting down also
    // breaks off handshakes.
    let plain_port: RefusedCase = (
        vec![("KAFKA_BROKERS", servers.door_to_kafka())],
        &["SSL handshake failed", "security.protocol"],
    );
    let in_plain_text: RefusedCase = (in_plain_text, &["security.protocol"]);
    are_refused(&world, &TWO[1..], &[plain_port, in_plain_text]).await;
}

#[tokio::test]
async fn one_broker_with_a_wrong_identity_is_tolerated_and_all_are_refused() {
    let world = world("tls-one-of-two").await;
    let servers = servers().await;
    world.set("KAFKA_PROPERTIES", &kafka_login("PLAIN", USER));
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
        &["certificate verify failed", "SSL_CERT_FILE"],
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
