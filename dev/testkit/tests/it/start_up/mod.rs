//! A process that cannot work reports the reason in one sentence and exits. A process whose store
//! is not up yet waits for it.

mod safety;
mod settings;

use firstcome_stack::{ProxyFault, RedisOptions, RedisServer};
use firstcome_testkit::{
    Http, LIMIT, Process, World, WorldStores, eventually, eventually_some, shared,
};
use reqwest::Method;

use crate::drift::support::{mailed, subjects};

const NOWHERE: [(&str, &str, &str); 3] = [
    (
        "MySQL",
        "DATABASE_URL",
        "mysql://root@127.0.0.1:1/firstcome",
    ),
    ("Redis", "REDIS_URL", "redis://127.0.0.1:1"),
    ("Kafka", "KAFKA_BROKERS", "127.0.0.1:1"),
];

/// All long-running processes, and a single pass.
pub(crate) const PROCESSES: [(&str, &[&str]); 4] = [
    ("firstcome-api", &["serve"]),
    ("firstcome-api", &["consume"]),
    ("firstcome-reconciler", &["daemon"]),
    ("firstcome-reconciler", &["once"]),
];

/// Waits until the process exits unsuccessfully and one line of its log contains all these words.
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
    assert!(!ready, "the process reported that it was ready: {log}");
}

#[tokio::test]
async fn each_process_exits_and_names_the_store_that_is_down() {
    let world = World::new("missing").await;
    let mut started = Vec::new();
    let migrate: (&str, &[&str]) = ("firstcome-api", &["migrate"]);
    for (program, args) in PROCESSES.into_iter().chain([migrate]) {
        for (store, variable, value) in NOWHERE {
            // Only the API and the reconciler use Redis.
            if matches!(args, ["consume" | "migrate"]) && store == "Redis" {
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

/// Returns the address at which a process answers during startup.
async fn address_at_start(process: &Process) -> String {
    eventually_some("the process listens", LIMIT, async || {
        let log = process.log();
        let rest = log.split_once(" starting address=").map(|(_, rest)| rest);
        let address = rest.and_then(|rest| rest.split_whitespace().next());
        address.map(str::to_owned).ok_or_else(|| log.clone())
    })
    .await
}

/// Starts a daemon while a store is down. It must keep running, listen, and send a mail to the
/// operators on duty. A daemon that exited and restarted would never run long enough to send the
/// mail.
async fn starts_without_a_store(world: &World, env: &[(&str, &str)], subject: &str) -> Process {
    let mut all = vec![
        ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "1"),
        ("FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS", "3"),
        ("STORE_TIMEOUT_MS", "1000"),
    ];
    all.extend(env);
    let daemon = world.start("firstcome-reconciler", &["daemon"], &all);
    let http = Http::new(&format!("http://{}", address_at_start(&daemon).await));
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
async fn a_daemon_that_starts_without_mysql_sends_a_mail_and_works_once_it_is_up() {
    let world = World::new("cold-mysql").await;
    let proxy = shared().await.mysql.proxy().await.unwrap();
    let via = shared()
        .await
        .mysql
        .database_url_via(&proxy, world.database());
    proxy.set(ProxyFault::Cut).await.unwrap();
    let daemon = starts_without_a_store(&world, &[("DATABASE_URL", &via)], "MySQL ").await;
    proxy.set(ProxyFault::Pass).await.unwrap();
    daemon.line("listening on ").await;
    mailed(&world, &["resolved: outage of MySQL"]).await;
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test]
async fn a_daemon_that_starts_without_redis_sends_a_mail_and_works_once_it_is_up() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(WorldStores::shared().await.with_redis(&redis), "cold-redis").await;
    redis.stop().await.unwrap();
    let daemon = starts_without_a_store(&world, &[], "Redis refuses connections").await;
    redis.start_again().await.unwrap();
    daemon.line("listening on ").await;
    mailed(&world, &["resolved: outage of Redis"]).await;
    let failed = "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'failed'";
    assert_eq!(
        world.sql.number(failed).await,
        1,
        "all attempts are one run"
    );
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test]
async fn a_daemon_that_starts_without_kafka_sends_a_mail_unless_another_daemon_works() {
    let nowhere = [("KAFKA_BROKERS", "127.0.0.1:1")];
    let (alone, helped) = tokio::join!(World::new("cold-kafka"), World::new("cold-kafka-helped"));
    let _works = helped
        .daemon_with(&[("RECONCILE_CRON", "0 0 0 1 1 *")])
        .await;
    let waits = helped.start("firstcome-reconciler", &["daemon"], &nowhere);
    let daemon = starts_without_a_store(&alone, &nowhere, "Kafka ").await;
    assert_eq!(daemon.stop().await, 0);
    eventually("the other daemon waits", LIMIT, async || {
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
async fn a_reconciler_whose_keys_or_group_differ_from_the_apis_exits_and_names_both() {
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
    // Until Redis is up, the API answers every claim with 503.
    let at = address_at_start(&api).await;
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
    eventually("the log says that the API waits", LIMIT, async || {
        !waits().is_empty()
    })
    .await;
    assert!(api.status().is_none());
    redis.start_again().await.unwrap();
    let line = api.line("listening on ").await;
    assert!(line.ends_with(&at), "{line} {at}");
    // The API has started, although no reconciler has verified this Redis yet.
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
