//! A process that cannot work reports why in one sentence and exits; one whose store is merely late
//! waits for it.

use std::collections::BTreeSet;
use std::time::Duration;

use firstcome_reconciler::report::Kind;
use firstcome_stack::{ProxyFault, RedisOptions, RedisServer};
use firstcome_testkit::{
    Fixture, Http, LIMIT, PrefixedKeys, Process, World, WorldStores, assert_exact, eventually,
    shared,
};
use reqwest::Method;

use crate::drift::support::{mailed, subjects};
use crate::faults::waves::{HEALED, follows, impatient};

const NOWHERE: [(&str, &str, &str); 3] = [
    (
        "MySQL",
        "DATABASE_URL",
        "mysql://root@127.0.0.1:1/firstcome",
    ),
    ("Redis", "REDIS_URL", "redis://127.0.0.1:1"),
    ("Kafka", "KAFKA_BROKERS", "127.0.0.1:1"),
];

/// Every long-running process, and one pass.
pub(crate) const PROCESSES: [(&str, &[&str]); 4] = [
    ("firstcome-api", &["serve"]),
    ("firstcome-api", &["consume"]),
    ("firstcome-reconciler", &["daemon"]),
    ("firstcome-reconciler", &["once"]),
];

/// Waits until it exits unsuccessfully, with all these words in one line of its log.
pub(crate) async fn refuses(process: &Process, words: &[&str]) {
    assert_ne!(process.ended(LIMIT).await, 0, "{}", process.log());
    let log = process.log();
    let says = |line: &str| words.iter().all(|word| line.contains(word));
    assert!(log.lines().any(says), "no line with {words:?}:\n{log}");
    assert!(!log.contains("panicked"), "{log}");
    let ready = process
        .stdout()
        .lines()
        .any(|line| line.starts_with("listening ") || line.starts_with("consuming "));
    assert!(!ready, "it reported that it was ready: {log}");
}

#[tokio::test]
async fn each_process_exits_with_the_name_of_the_store_that_is_down() {
    let world = World::new("missing").await;
    let mut started = Vec::new();
    for (program, args) in PROCESSES {
        for (store, variable, value) in NOWHERE {
            // The consumer does not use Redis.
            if args == ["consume"] && store == "Redis" {
                continue;
            }
            // The API starts without Kafka and stores claims in MySQL meanwhile. The daemon waits.
            if args == ["serve"] && store == "Kafka" || args == ["daemon"] {
                continue;
            }
            let env = [
                (variable, value),
                ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "1"),
            ];
            started.push((store, world.start(program, args, &env)));
        }
    }
    for (store, process) in started {
        refuses(&process, &[store]).await;
    }
}

/// Starts a daemon while a store is down. It must keep running, listen, and mail the people on
/// duty: a daemon that exited and restarted would never run long enough to send the mail.
async fn starts_without_a_store(world: &World, env: &[(&str, &str)], subject: &str) -> Process {
    let mut all = vec![
        ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "1"),
        ("FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS", "3"),
        ("STORE_TIMEOUT_MS", "1000"),
    ];
    all.extend(env);
    let daemon = world.start("firstcome-reconciler", &["daemon"], &all);
    let said = || {
        Some(
            daemon
                .log()
                .split_once(" starting address=")?
                .1
                .split_whitespace()
                .next()?
                .to_owned(),
        )
    };
    eventually("it listens", LIMIT, async || said().is_some()).await;
    let http = Http::new(&format!("http://{}", said().unwrap()));
    for (path, status) in [
        ("/healthz", 200),
        ("/readyz", 503),
        ("/", 503),
        ("/v1/runs", 503),
    ] {
        assert_eq!(http.get(path).await.status, status, "{path}");
    }
    mailed(world, &["action needed: ", subject]).await;
    let mails = world.mail.mails();
    assert!(
        mails.iter().all(|mail| mail.to == ["duty@example.com"]),
        "{mails:?}"
    );
    assert!(daemon.status().is_none(), "{}", daemon.log());
    daemon
}

#[tokio::test]
async fn a_daemon_that_starts_without_mysql_mails_and_works_once_it_is_there() {
    let world = World::new("cold-mysql").await;
    let proxy = shared().await.mysql.proxy().await.unwrap();
    let via = shared()
        .await
        .mysql
        .database_url_via(&proxy, world.database());
    proxy.set(ProxyFault::Cut).await.unwrap();
    let daemon =
        starts_without_a_store(&world, &[("DATABASE_URL", &via)], "MySQL cannot be used").await;
    proxy.set(ProxyFault::Pass).await.unwrap();
    daemon.line("listening on ").await;
    mailed(&world, &["resolved: MySQL can be used again"]).await;
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test]
async fn a_daemon_that_starts_without_redis_mails_and_works_once_it_is_there() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(WorldStores::shared().await.with_redis(&redis), "cold-redis").await;
    redis.stop().await.unwrap();
    let daemon =
        starts_without_a_store(&world, &[], "a pass failed: Redis refuses connections").await;
    redis.start_again().await.unwrap();
    daemon.line("listening on ").await;
    mailed(
        &world,
        &["resolved: a pass failed: Redis refuses connections"],
    )
    .await;
    let failed = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'failed'";
    assert_eq!(
        world.sql.number(failed).await,
        1,
        "all attempts are one run"
    );
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test]
async fn a_daemon_that_starts_without_kafka_mails_unless_another_daemon_works() {
    let nowhere = [("KAFKA_BROKERS", "127.0.0.1:1")];
    let (alone, helped) = tokio::join!(World::new("cold-kafka"), World::new("cold-kafka-helped"));
    let _works = helped
        .daemon_with(&[("RECONCILE_CRON", "0 0 0 1 1 *")])
        .await;
    let waits = helped.start("firstcome-reconciler", &["daemon"], &nowhere);
    let daemon =
        starts_without_a_store(&alone, &nowhere, "a pass failed: Kafka cannot be reached").await;
    assert_eq!(daemon.stop().await, 0);
    eventually("it waits", LIMIT, async || {
        waits.log().contains("waiting for Kafka")
    })
    .await;
    let subjects = subjects(&helped);
    assert!(subjects.is_empty(), "{subjects:?}");
    assert_eq!(waits.stop().await, 0);
}

#[tokio::test]
async fn processes_start_with_one_dead_broker_address() {
    let world = World::new("one-of-two").await;
    world.set(
        "KAFKA_BROKERS",
        &format!("127.0.0.1:1,{}", world.setting("KAFKA_BROKERS")),
    );
    let (api, _consumer) = tokio::join!(world.serve(), world.consume());
    assert!(
        !api.process.log().contains("starting without Kafka"),
        "{}",
        api.process.log()
    );
    assert_eq!(world.once_with(&[], &[]).await.code, 0);
}

#[tokio::test]
async fn a_reconciler_with_other_keys_or_group_than_the_api_exits_and_names_both() {
    let world = World::new("disagree").await;
    let _api = world.serve().await;
    let _consumer = world.consume().await;
    for (variable, role) in [("REDIS_KEY_PREFIX", "serve"), ("KAFKA_GROUP", "consume")] {
        let once = world.start("firstcome-reconciler", &["once"], &[(variable, "another")]);
        refuses(
            &once,
            &[variable, "another", &world.setting(variable), role],
        )
        .await;
    }
}

#[tokio::test]
async fn migrate_exits_with_the_name_of_the_store_that_is_down() {
    let world = World::bare(WorldStores::shared().await, "migrate-missing").await;
    for (store, variable, value) in NOWHERE {
        if store != "Redis" {
            let env = [
                (variable, value),
                ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "1"),
            ];
            refuses(&world.start("firstcome-api", &["migrate"], &env), &[store]).await;
        }
    }
}

#[tokio::test]
async fn start_up_waits_for_a_store_that_is_starting() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(WorldStores::shared().await.with_redis(&redis), "late").await;
    redis.stop().await.unwrap();
    let api = world.start("firstcome-api", &["serve"], &[("RUST_LOG", "info")]);
    let address = redis
        .url()
        .trim_start_matches("redis://")
        .trim_end_matches('/')
        .to_owned();
    // Until then it answers everybody that it is starting.
    let said = || {
        Some(
            api.log()
                .split_once(" starting address=")?
                .1
                .split_whitespace()
                .next()?
                .to_owned(),
        )
    };
    eventually("it listens", LIMIT, async || said().is_some()).await;
    let at = said().unwrap();
    let http = Http::new(&format!("http://{at}"));
    let health = http.get("/healthz").await;
    let ready = http.get("/readyz").await;
    assert_eq!(
        (health.status, ready.status),
        (200, 503),
        "{health:?} {ready:?}"
    );
    let claim = Http::send(
        http.request(Method::POST, "/v1/coupons/1/claims")
            .header("X-User-Id", "u-1"),
    )
    .await;
    let told = (
        claim.status,
        claim.body["code"].as_str(),
        claim.retry_after(),
    );
    assert!(
        matches!(told, (503, Some("unavailable"), Some(1..=3))),
        "{claim:?}"
    );
    let waits = || {
        api.log()
            .lines()
            .filter(|line| line.contains("waiting for "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    eventually("it says that it waits", LIMIT, async || !waits().is_empty()).await;
    assert!(api.status().is_none());
    redis.start_again().await.unwrap();
    let line = api.line("listening on ").await;
    assert!(line.ends_with(&at), "{line} {at}");
    // It now answers for itself: nothing has verified this Redis yet.
    let ready = http.get("/readyz").await;
    assert_eq!(ready.body["checks"]["process"], "ok", "{ready:?}");
    let [line] = &waits()[..] else {
        panic!("not one line: {}", api.log())
    };
    assert!(
        line.contains(&format!("waiting for Redis at {address}")) && line.contains("WARN"),
        "{line}"
    );
    assert_eq!(api.stop().await, 0);
}

#[tokio::test]
async fn a_process_that_waits_for_a_store_stops_at_sigterm() {
    let world = World::new("stop-waiting").await;
    let api = world.start(
        "firstcome-api",
        &["serve"],
        &[("REDIS_URL", "redis://127.0.0.1:1")],
    );
    eventually("it says that it waits", LIMIT, async || {
        api.log().contains("waiting")
    })
    .await;
    api.signal(rustix::process::Signal::TERM);
    api.ended(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn the_allocator_takes_no_huge_pages() {
    let world = World::new("allocator").await;
    for (command, ready) in [("serve", "listening on "), ("consume", "consuming ")] {
        let api = world.start("firstcome-api", &[command], &[]);
        api.line(ready).await;
        let status = std::fs::read_to_string(format!("/proc/{}/status", api.pid())).unwrap();
        assert!(
            status.lines().any(|line| line == "THP_enabled:\t0"),
            "{command}: {status}"
        );
    }
}

#[tokio::test]
async fn a_redis_that_may_lose_data_is_refused_with_advice() {
    let forgetful = RedisOptions {
        appendonly: false,
        ..RedisOptions::default()
    };
    let evicting = RedisOptions {
        maxmemory_policy: "allkeys-lru".into(),
        ..RedisOptions::default()
    };
    for (options, advice) in [(forgetful, "appendonly yes"), (evicting, "noeviction")] {
        let redis = RedisServer::start(options).await.unwrap();
        let world = World::on(WorldStores::shared().await.with_redis(&redis), "forgetful").await;
        refuses(
            &world.start("firstcome-api", &["serve"], &[]),
            &["Redis", advice],
        )
        .await;
        refuses(
            &world.start("firstcome-reconciler", &["once"], &[]),
            &["Redis", advice],
        )
        .await;
        refuses(
            &world.start("firstcome-reconciler", &["daemon"], &[]),
            &["Redis", advice],
        )
        .await;
    }
}

#[tokio::test]
async fn a_missing_topic_is_refused_with_the_command_to_run() {
    let world = World::new("no-topic").await;
    for (program, args) in PROCESSES {
        let process = world.start(program, args, &[("KAFKA_TOPIC", "no-such-topic")]);
        refuses(&process, &["no-such-topic", "firstcome-api migrate"]).await;
    }
}

#[tokio::test]
async fn an_outdated_schema_is_refused_with_the_command_to_run() {
    let world = World::bare(WorldStores::shared().await, "not-migrated").await;
    for (program, args) in PROCESSES {
        refuses(&world.start(program, args, &[]), &["firstcome-api migrate"]).await;
    }
}

#[tokio::test]
async fn wrong_or_missing_settings_are_refused_with_their_name_and_without_secrets() {
    let world = World::new("settings").await;
    let cases = [
        ("KAFKA_CONFIG_GROUP_INSTANCE_ID", "a b", "consume"),
        ("KAFKA_SASL_PASSWORD", "hunter2", "serve"), // of a plain-text listener
        ("KAFKA_SASL_PASSWORD", "hunter2", "once"),
        ("KAFKA_SASL_MECHANISM", "SCRAM-SHA-1", "serve"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS", "once"),
        ("KAFKA_CONFIG_ENABLE_AUTO_COMMIT", "true", "consume"),
        ("KAFKA_CONFIG_NO_SUCH_THING", "hunter2", "once"),
        ("REDIS_CA_FILE", "/no/such/file", "serve"), // of a redis://
        ("DATABASE_CA_FILE", "/no/such/file", "consume"), // with DATABASE_TLS=off
        ("OPS_TOKEN", "hunter2-is-short", "serve"),
        ("OPS_TOKEN", "hunter2-is-short", "daemon"),
        ("OPS_TOKEN", "", "serve"),
        ("USER_AUTH", "", "serve"),
        ("USER_AUTH", "anything", "serve"),
        ("USER_AUTH", "jwt", "serve"),
        ("TRUSTED_HEADER_SECRET", "hunter2", "serve"),
        (
            "JWT_JWKS_URL",
            "https://user:hunter2@127.0.0.1/keys",
            "serve",
        ), // with USER_AUTH=trusted-header
        ("DATABASE_URL", "postgres://hunter2@127.0.0.1/x", "consume"),
        ("REDIS_URL", "hunter2@127.0.0.1", "daemon"),
        ("KAFKA_BROKERS", "localhost", "once"),
        ("LISTEN_ADDR", "localhost", "serve"),
        ("RECONCILE_CRON", "every minute", "daemon"),
        ("SMTP_URL", "http://127.0.0.1", "daemon"),
        ("WEBHOOK_URLS", "https://127.0.0.1/hunter2", "daemon"), // without WEBHOOK_SECRET
    ];
    for (variable, value, command) in cases {
        let program = if ["serve", "consume"].contains(&command) {
            "firstcome-api"
        } else {
            "firstcome-reconciler"
        };
        let process = world.start(program, &[command], &[(variable, value)]);
        assert_ne!(
            process.ended(LIMIT).await,
            0,
            "{command} with {variable}={value}"
        );
        let log = process.log();
        let flag = variable.to_lowercase().replace('_', "-");
        let named = log.contains(variable)
            || log.contains(&format!("--{flag}"))
            || (value == "jwt" && log.contains("JWT"));
        assert!(named, "{command} with {variable}={value}: {log}");
        assert!(
            !log.contains("hunter2") && !log.contains("panicked"),
            "{command} with {variable}={value}: {log}"
        );
    }
}

#[tokio::test]
async fn help_lists_every_setting_with_its_variable_and_default() {
    let world = World::bare(WorldStores::shared().await, "help").await;
    world.set("KAFKA_SASL_PASSWORD", "hunter2-of-kafka");
    let expected: [(&str, &str, &[&str]); 5] = [
        (
            "firstcome-api",
            "serve",
            &[
                "DATABASE_URL",
                "DATABASE_TLS",
                "DATABASE_CA_FILE",
                "DATABASE_CERT_FILE",
                "DATABASE_KEY_FILE",
                "REDIS_URL",
                "REDIS_DURABILITY",
                "REDIS_CA_FILE",
                "REDIS_CERT_FILE",
                "REDIS_KEY_FILE",
                "KAFKA_BROKERS",
                "KAFKA_SECURITY_PROTOCOL",
                "KAFKA_SASL_MECHANISM",
                "KAFKA_SASL_USERNAME",
                "KAFKA_SASL_PASSWORD",
                "KAFKA_CA_FILE",
                "KAFKA_CERT_FILE",
                "KAFKA_KEY_FILE",
                "KAFKA_CONFIG_",
                "KAFKA_TOPIC",
                "coupon-claims",
                "LISTEN_ADDR",
                "127.0.0.1:8080",
                "OPS_TOKEN",
                "USER_AUTH",
                "[env: JWT_SECRET",
                "[env: COUPON_PAGE",
                "PUBLISH_DEADLINE_MS",
                "2000",
                "RUST_LOG",
            ],
        ),
        (
            "firstcome-api",
            "consume",
            &[
                "DATABASE_URL",
                "KAFKA_BROKERS",
                "KAFKA_GROUP",
                "firstcome-issuer",
                "LISTEN_ADDR",
                "127.0.0.1:8082",
                "STORE_TIMEOUT_MS",
            ],
        ),
        (
            "firstcome-api",
            "migrate",
            &[
                "DATABASE_URL",
                "KAFKA_BROKERS",
                "--partitions",
                "12",
                "--replication",
            ],
        ),
        (
            "firstcome-reconciler",
            "daemon",
            &[
                "DATABASE_URL",
                "REDIS_URL",
                "KAFKA_BROKERS",
                "KAFKA_GROUP",
                "LISTEN_ADDR",
                "127.0.0.1:8081",
                "OPS_TOKEN",
                "RECONCILE_CRON",
                "*/30 * * * * *",
                "DEEP_CRON",
                "DIGEST_CRON",
                "SMTP_URL",
                "ALERT_FROM",
                "ALERT_TO",
                "WEBHOOK_URLS",
                "WEBHOOK_SECRET",
                "RETENTION_DAYS",
            ],
        ),
        (
            "firstcome-reconciler",
            "once",
            &[
                "DATABASE_URL",
                "REDIS_URL",
                "--dry-run",
                "--json",
                "--coupon",
                "--deep",
                "--confirm",
            ],
        ),
    ];
    for (program, command, words) in expected {
        let process = world.start(program, &[command, "--help"], &[]);
        assert_eq!(process.ended(LIMIT).await, 0);
        let help = process.all_stdout().await;
        for word in words {
            assert!(
                help.contains(word),
                "{program} {command} --help lacks {word}:\n{help}"
            );
        }
        for secret in
            ["OPS_TOKEN", "DATABASE_URL", "KAFKA_SASL_PASSWORD"].map(|name| world.setting(name))
        {
            assert!(
                !help.contains(&secret),
                "{program} {command} --help shows a secret:\n{help}"
            );
        }
    }
}

/// Maximum number of settings of all programs together (docs/decisions/0035-what-goes.md).
const SETTINGS: usize = 60;

/// The settings in the help, `[env: NAME=…]`, and variables named next to their flags.
fn settings_in(help: &str) -> BTreeSet<String> {
    let names = help.split("[env: ").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_uppercase() && c != '_');
        rest[..end.unwrap_or(rest.len())].to_owned()
    });
    names.collect()
}

#[tokio::test]
async fn all_programs_together_have_at_most_60_settings() {
    let world = World::bare(WorldStores::shared().await, "count").await;
    let mut all = BTreeSet::new();
    for (program, commands) in [
        (
            "firstcome-api",
            &["serve", "consume", "migrate", "coupon", "health"][..],
        ),
        (
            "firstcome-reconciler",
            &[
                "daemon",
                "once",
                "test-email",
                "test-webhook",
                "explain",
                "health",
                "erase",
            ],
        ),
    ] {
        for command in commands {
            let process = world.start(program, &[command, "--help"], &[]);
            assert_eq!(process.ended(LIMIT).await, 0);
            all.extend(settings_in(&process.all_stdout().await));
            let process = world.start(program, &[command, "-h"], &[]);
            assert_eq!(process.ended(LIMIT).await, 0);
            let short = settings_in(&process.all_stdout().await);
            assert!(short.len() <= 12, "{program} {command} -h: {short:?}");
        }
    }
    assert!(
        all.len() > 40 && all.len() <= SETTINGS,
        "{}: {all:?}",
        all.len()
    );
}

#[tokio::test]
async fn a_removed_variable_that_is_still_set_is_named_with_its_successor() {
    let world = World::new("removed").await;
    let removed = [
        ("ALERTMANAGER_URL", "http://x:1"),
        ("RUNS_KEPT_SECONDS", "9"),
    ];
    let process = world.start("firstcome-reconciler", &["once"], &removed);
    process.ended(LIMIT).await;
    let log = process.log();
    for said in [
        "ALERTMANAGER_URL is set but no longer exists: load deploy/prometheus/rules.yml",
        "RUNS_KEPT_SECONDS is set but no longer exists: set RETENTION_DAYS",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
}

#[tokio::test]
async fn every_service_reports_health_readiness_and_metrics() {
    let (world, api) = firstcome_testkit::open_world("fronts").await;
    let consumer = world.consume().await;
    let daemon = world.daemon().await;
    for http in [api.http(), &consumer, daemon.http()] {
        assert_eq!(http.get("/healthz").await.status, 200);
        let ready = http.get("/readyz").await;
        assert_eq!(ready.status, 200, "{ready:?}");
        let metrics = http.get("/metrics").await;
        assert!(
            metrics.status == 200 && metrics.text.contains("# TYPE "),
            "{metrics:?}"
        );
    }
    for (http, routes) in [
        (
            api.http(),
            [
                "/v1/coupons",
                "/v1/coupons/{id}",
                "/v1/coupons/{id}/claims",
                "/v1/coupons/{id}/claims/me",
            ],
        ),
        (
            daemon.http(),
            ["/v1/reconcile", "/v1/runs", "/v1/runs/{id}", "/v1/alerts"],
        ),
    ] {
        let document = http.get("/openapi.json").await.body;
        for route in routes {
            assert!(
                document["paths"][route].is_object(),
                "{route} is not in {}",
                document["paths"]
            );
        }
    }
    assert_eq!(
        daemon.http().get("/v1/runs").await.status,
        401,
        "operators only"
    );
}

#[tokio::test]
async fn unsafe_settings_are_reported_by_every_pass_until_corrected() {
    let master = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = impatient(WorldStores::shared().await.with_redis(&master), "unsafe").await;
    let daemon = world.daemon().await;
    let told = async || {
        let run = daemon.reconcile(&serde_json::json!({})).await;
        run.all_findings()
            .map(|found| (found.kind, found.detail.clone()))
            .collect::<Vec<_>>()
    };
    let set = async |name: &str, value: &str| {
        PrefixedKeys::new(&master.url(), "")
            .command::<()>(&["CONFIG", "SET", name, value])
            .await;
    };
    assert_eq!(told().await, []);
    let options = RedisOptions {
        replica_of: Some(master.port()),
        ..RedisOptions::default()
    };
    let _replica = RedisServer::start(options).await.unwrap();
    follows(&master).await;
    let is_told = async |advice: &str| {
        let found = told().await;
        assert!(
            matches!(&found[..], [(Kind::UnsafeSetting, detail)] if detail.contains(advice)),
            "{advice}: {found:?}"
        );
    };
    is_told("set `min-replicas-to-write 1`").await;
    for (program, args) in [
        ("firstcome-api", ["serve"]),
        ("firstcome-reconciler", ["once"]),
    ] {
        refuses(
            &world.start(program, &args, &[]),
            &["set `min-replicas-to-write 1`"],
        )
        .await;
    }
    set("min-replicas-to-write", "1").await;
    assert_eq!(told().await, []);
    set("min-replicas-max-lag", "60").await;
    is_told("the second is 60 now").await;
    set("min-replicas-max-lag", "10").await;
    set("maxmemory-policy", "allkeys-lru").await;
    is_told("noeviction").await;
    set("maxmemory-policy", "noeviction").await;
    set("appendonly", "no").await;
    is_told("appendonly yes").await;
    set("appendonly", "yes").await;
    assert_eq!(told().await, []);
    let compacted = ("cleanup.policy", "compact");
    let limit = ("max.message.bytes", "65536");
    world.topic.alter(&[compacted, limit]).await;
    // A broker may report the previous settings for an instant.
    eventually("the topic's setting is reported", HEALED, async || {
        matches!(&told().await[..], [(Kind::UnsafeSetting, detail)] if detail.contains("--add-config cleanup.policy=delete"))
    })
    .await;
    world.topic.alter(&[limit]).await;
    eventually("it is right again", HEALED, async || {
        told().await.is_empty()
    })
    .await;
}

#[tokio::test]
async fn redis_with_managed_durability_is_accepted_and_reported() {
    let redis = RedisServer::start(RedisOptions {
        appendonly: false,
        ..RedisOptions::default()
    })
    .await
    .unwrap();
    let world = World::on(WorldStores::shared().await.with_redis(&redis), "managed").await;
    world.set("REDIS_DURABILITY", "managed");
    let fixture = Fixture::of(world).await;
    let (coupon, answers) = fixture.held("Managed", 20, 20).await;
    let daemon = fixture.world.daemon().await;
    assert_exact(&fixture.world, &coupon, 20, &answers).await;
    for http in [fixture.api.http(), daemon.http()] {
        let ready = http.get("/readyz").await;
        let note = ready.body["notes"]["redis_durability"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            ready.status == 200 && note.contains("nothing checks"),
            "{ready:?}"
        );
        let metrics = http.get("/metrics").await.text;
        assert!(
            metrics
                .lines()
                .any(|line| line == "firstcome_redis_managed 1"),
            "{metrics}"
        );
    }
    // Its own settings still count.
    PrefixedKeys::new(&redis.url(), "")
        .command::<()>(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"])
        .await;
    refuses(
        &fixture.world.start("firstcome-reconciler", &["once"], &[]),
        &["Redis", "noeviction"],
    )
    .await;
}
