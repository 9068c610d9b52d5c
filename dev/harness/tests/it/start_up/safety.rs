//! Settings of the stores that could lose a promise, or under which nothing can be written.

use firstcome_harness::PrefixedKeys;

use super::{PROCESSES, refuses};
use crate::faults::waves::{follows, impatient};
use crate::prelude::*;

#[tokio::test]
async fn unsafe_settings_are_reported_and_refused_at_start_until_corrected() {
    let master = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = impatient(WorldStores::shared().await.with_redis(&master), "unsafe").await;
    world.set("FIRSTCOME_TEST_JOBS_SECONDS", "1");
    let fixture = Fixture::of(world).await;
    let (world, _) = (&fixture.world, fixture.held("Any", 5, 5).await);
    let daemon = world.daemon().await;
    let told = async || {
        // Each poll runs a whole pass, so poll less often.
        tokio::time::sleep(Duration::from_millis(300)).await;
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
    let is_silent = async || {
        eventually("nothing is reported", LIMIT, async || {
            told().await.is_empty()
        })
        .await;
    };
    is_silent().await;
    let options = RedisOptions {
        replica_of: Some(master.port()),
        ..RedisOptions::default()
    };
    let _replica = RedisServer::start(options).await.unwrap();
    follows(&master).await;
    let is_told = async |advice: &str| {
        eventually(advice, LIMIT, async || {
            matches!(&told().await[..], [(Kind::Stalled, detail)] if detail.contains(advice))
        })
        .await;
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
    is_silent().await;
    set("min-replicas-max-lag", "60").await;
    is_told("the second is 60 now").await;
    set("min-replicas-max-lag", "10").await;
    set("maxmemory-policy", "allkeys-lru").await;
    is_told("noeviction").await;
    set("maxmemory-policy", "noeviction").await;
    set("appendonly", "no").await;
    is_told("appendonly yes").await;
    set("appendonly", "yes").await;
    is_silent().await;
    let compacted = ("cleanup.policy", "compact");
    let limit = ("max.message.bytes", "65536");
    world.topic.alter(&[compacted, limit]).await;
    is_told("--add-config cleanup.policy=delete").await;
    world.topic.alter(&[limit]).await;
    is_silent().await;
}

/// In that form of its log, MySQL refuses every write of a transaction that reads committed rows.
#[tokio::test]
async fn a_mysql_that_logs_statements_is_refused_with_the_setting_to_change() {
    let log = [
        "--log-bin",
        "--server-id=1",
        "--log-bin-trust-function-creators=ON",
    ];
    let options = MysqlOptions::with(log.map(str::to_owned).into());
    let mysql = MysqlServer::start(options).await.unwrap();
    let stores = WorldStores::shared().await;
    let stores = stores.with_mysql_at(&mysql.database_url(""));
    let world = World::on(stores, "statements").await;
    let set = "SET GLOBAL binlog_format = 'STATEMENT'";
    world.sql.query(set).await;
    for (program, args) in PROCESSES {
        refuses(&world.start(program, args, &[]), &["`binlog_format = ROW`"]).await;
    }
}

#[tokio::test]
async fn login_that_may_not_write_is_refused_with_the_grant_that_it_lacks() {
    const RIGHTS: [&str; 3] = ["INSERT", "UPDATE", "DELETE"];
    let world = World::new("reader").await;
    let database = world.database();
    for (at, lacking) in RIGHTS.into_iter().enumerate() {
        let user = format!("reader_{at}");
        let mut rights = vec!["SELECT"];
        rights.extend(RIGHTS.into_iter().filter(|right| *right != lacking));
        let rights = rights.join(", ");
        for sql in [
            format!("CREATE USER IF NOT EXISTS {user} IDENTIFIED BY ''"),
            format!("GRANT {rights} ON `{database}`.* TO {user}"),
        ] {
            world.sql.query(&sql).await;
        }
        let url = world.setting("DATABASE_URL");
        let url = url.replace("root@", &format!("{user}@"));
        for (program, args) in PROCESSES {
            let process = world.start(program, args, &[("DATABASE_URL", &url)]);
            refuses(
                &process,
                &[&format!("{lacking} command denied"), "GRANT SELECT"],
            )
            .await;
        }
    }
}
