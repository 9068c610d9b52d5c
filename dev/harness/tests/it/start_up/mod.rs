//! A process that cannot work reports the reason in one line and exits. It first waits a limited
//! time for a store that is not up yet. The daemon waits for its stores without a limit.

mod safety;
mod settings;
mod settings_page;

use firstcome_harness::Process;

use crate::prelude::*;

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
const PROCESSES: [(&str, &[&str]); 4] = [
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
async fn processes_other_than_the_daemon_exit_and_name_a_needed_store_that_is_down() {
    let world = World::new("missing").await;
    let mut started = Vec::new();
    let migrate: (&str, &[&str]) = ("firstcome-api", &["migrate"]);
    for (program, args) in PROCESSES.into_iter().chain([migrate]) {
        for (store, variable, value) in NOWHERE {
            // The consumer and `migrate` do not use Redis.
            if matches!(args, ["consume" | "migrate"]) && store == "Redis" {
                continue;
            }
            // The API starts without Kafka and stores claims in MySQL meanwhile. The daemon waits
            // for every store.
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

/// Returns a client of a process that answers during its start-up.
async fn during_start(process: &Process) -> Http {
    let address = eventually_some("the process listens", LIMIT, async || {
        let log = process.log();
        let rest = log.split_once(" starting address=").map(|(_, rest)| rest);
        let address = rest.and_then(|rest| rest.split_whitespace().next());
        address.map(str::to_owned).ok_or_else(|| log.clone())
    });
    Http::new(&format!("http://{}", address.await))
}

/// A daemon that exited and restarted would never run long enough to send the mail.
#[tokio::test]
#[ignore = "release"]
async fn a_daemon_that_starts_without_mysql_sends_a_mail_and_works_once_it_is_up() {
    let world = World::new("cold-mysql").await;
    let mysql = &Stack::shared().await.unwrap().mysql;
    let proxy = mysql.proxy().await.unwrap();
    let via = mysql.database_url_via(&proxy, world.database());
    proxy.set(ProxyFault::Cut).await.unwrap();
    let env = [
        ("DATABASE_URL", via.as_str()),
        ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "1"),
        ("FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS", "3"),
    ];
    let daemon = world.start("firstcome-reconciler", &["daemon"], &env);
    let http = during_start(&daemon).await;
    for (path, status) in [("/healthz", 200), ("/readyz", 503), ("/v1/runs", 503)] {
        assert_eq!(http.get(path).await.status, status, "{path}");
    }
    mailed(&world, &["action needed: ", "MySQL "]).await;
    proxy.set(ProxyFault::Pass).await.unwrap();
    daemon.line("listening on ").await;
    mailed(&world, &["resolved: outage of MySQL"]).await;
    assert_eq!(daemon.stop().await, 0);
}

#[tokio::test]
async fn processes_start_with_one_dead_broker_address() {
    let world = World::new("one-of-two").await;
    let brokers = format!("127.0.0.1:1,{}", world.setting("KAFKA_BROKERS"));
    world.set("KAFKA_BROKERS", &brokers);
    let (api, _consumer) = tokio::join!(world.serve(), world.consume());
    let log = api.process.log();
    assert!(!log.contains("starting without Kafka"), "{log}");
    assert_eq!(world.once_with(&[], &[]).await.code, 0);
}

#[tokio::test]
async fn the_api_answers_503_and_waits_at_start_up_until_redis_is_up() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(WorldStores::shared().await.with_redis(&redis), "late").await;
    redis.stop().await.unwrap();
    let api = world.start("firstcome-api", &["serve"], &[]);
    let http = during_start(&api).await;
    for (path, status) in [("/healthz", 200), ("/readyz", 503)] {
        assert_eq!(http.get(path).await.status, status, "{path}");
    }
    let claim = http.request(Method::POST, "/v1/coupons/1/claims");
    let claim = Http::send(claim.header("X-User-Id", "u-1")).await;
    let answer = Answer::of(&claim).unwrap();
    assert!(answer.is("unavailable"), "{claim:?}");
    let waits = format!("waiting for Redis at 127.0.0.1:{}", redis.port());
    eventually("the log says that the API waits", LIMIT, async || {
        api.log().contains(&waits)
    })
    .await;
    redis.start_again().await.unwrap();
    let address = api.line("listening on ").await;
    assert_eq!(address, http.base());
    let log = api.log();
    assert_eq!(log.matches("waiting for ").count(), 1, "{log}");
    assert_eq!(api.stop().await, 0);
}

#[tokio::test]
async fn start_up_errors_name_the_command_or_setting_that_fixes_them() {
    let (world, bare, other) = tokio::join!(
        World::new("no-topic"),
        World::bare(WorldStores::shared().await, "not-migrated"),
        World::new("other-settings"),
    );
    for (program, args) in PROCESSES {
        let env = [("KAFKA_TOPIC", "no-such-topic")];
        let topic = world.start(program, args, &env);
        let schema = bare.start(program, args, &[]);
        refuses(&topic, &["no-such-topic", "firstcome-api migrate"]).await;
        refuses(&schema, &["firstcome-api migrate"]).await;
    }
    // For a minute, the first world still has the row of the daemon with the missing topic.
    let _api = other.serve().await;
    let _consumer = other.consume().await;
    for (variable, role) in [("REDIS_KEY_PREFIX", "serve"), ("KAFKA_GROUP", "consume")] {
        let once = other.start("firstcome-reconciler", &["once"], &[(variable, "another")]);
        let own = other.setting(variable);
        refuses(&once, &[variable, "another", &own, role]).await;
    }
}
