//! State that survives from cycle to cycle, and steps that all cycles share.

use std::collections::HashSet;

use firstcome_shared::crash::Point;
use firstcome_stack::{FaultProxy, ProxyFault, RedisOptions, RedisServer};
use firstcome_testkit::{
    ApiClient, Http, LIMIT, MadeCoupon, Process, PromisedAnswer, Running, World, WorldStores,
    assert_kept, assert_nothing_found, rows,
};
use tokio::sync::MutexGuard;

use super::Scenario;
use crate::faults::waves::kafka_behind_proxy;

/// The shell's exit code for SIGABRT.
const ABORTED: i32 = 128 + 6;

/// A world with the processes that do not crash.
pub(super) struct Environment {
    pub(super) world: World,
    pub(super) api: Running<ApiClient>,
    /// `None` if the consumer is the process that crashes.
    _consumer: Option<Running<Http>>,
    /// The proxy in front of Kafka. `None` unless the scenario breaks Kafka.
    kafka: Option<(&'static FaultProxy, MutexGuard<'static, ()>)>,
    _redis: Option<RedisServer>,
}

impl Environment {
    pub(super) async fn new(name: &str, scenario: Scenario) -> Self {
        let mut stores = WorldStores::shared().await;
        let mut redis = None;
        let mut kafka = None;
        // A closed gate affects every test on the same Redis.
        if scenario == Scenario::Gate {
            let own = redis.insert(RedisServer::start(RedisOptions::default()).await.unwrap());
            stores = stores.with_redis(own);
        }
        if scenario == Scenario::Kept {
            let (breakable, way, turn) = kafka_behind_proxy().await;
            stores = stores.with_kafka(breakable);
            kafka = Some((way, turn));
        }
        let world = World::on(stores, &format!("x-{}", name.replace('_', "-"))).await;
        // Passes wait for this time before they judge recent claims. The claims here are few.
        world.set("PUBLISH_DEADLINE_MS", "500");
        world.set("FIRSTCOME_TEST_BACKUP_DEADLINE_MS", "500");
        world.set("KAFKA_PROPERTIES", "session.timeout.ms=1000");
        world.set(
            "RUST_LOG",
            "warn,firstcome_api=info,firstcome_reconciler=info",
        );
        let consumer = async {
            if scenario == Scenario::Batch {
                None
            } else {
                Some(world.consume().await)
            }
        };
        let (api, consumer, ()) = tokio::join!(world.serve(), consumer, world.open());
        Self {
            world,
            api,
            _consumer: consumer,
            kafka,
            _redis: redis,
        }
    }

    /// Breaks or restores the connection to Kafka if the scenario includes this fault.
    pub(super) async fn kafka_is(&self, fault: ProxyFault) {
        if let Some((proxy, _turn)) = &self.kafka {
            proxy.set(fault).await.unwrap();
        }
    }

    /// Runs one pass to its end or to the crash point. Returns whether it died at the crash point.
    pub(super) async fn pass_dies(&self, point: Point) -> bool {
        let env = [("FIRSTCOME_CRASH_AT", point.name())];
        let once = self.world.once_with(&[], &env).await;
        let died = once.log.contains(&format!("crash point {}", point.name()));
        assert_eq!(
            died,
            once.code == ABORTED,
            "code {}: {}",
            once.code,
            once.log
        );
        assert!(died || once.code <= 1, "code {}: {}", once.code, once.log);
        died
    }

    /// Runs a pass that repairs the remaining drift, then a pass that must find nothing.
    pub(super) async fn mend(&self) {
        let once = self.world.once_with(&[], &[]).await;
        assert!(once.code <= 1, "code {}: {}", once.code, once.log);
        assert_nothing_found(&self.world.once_with(&[], &[]).await.run());
    }

    /// Compares the answers with the rows, ends broken promises by hand, and seals the drop so that
    /// later passes skip it.
    pub(super) async fn count(
        &self,
        coupon: &MadeCoupon,
        quantity: usize,
        answers: &[PromisedAnswer],
    ) {
        let sql = &self.world.sql;
        assert_kept(&self.world, coupon, answers, &[]).await;
        let rows = rows(&self.world, coupon.drop).await;
        let people: HashSet<&String> = rows.values().collect();
        assert!(
            rows.len() <= quantity && people.len() == rows.len(),
            "{rows:?}"
        );
        let promises = answers
            .iter()
            .filter(|(_, answer)| answer.promised().is_some());
        assert!(promises.count() > 0, "no promise was checked");
        sql.query("UPDATE broken_promises SET mended_at = UTC_TIMESTAMP(3)")
            .await;
        let seal = "UPDATE drops SET closes_at = UTC_TIMESTAMP(3), sealed_at = UTC_TIMESTAMP(3)";
        sql.query(&format!("{seal} WHERE id = {}", coupon.drop))
            .await;
    }
}

/// Waits for a process that must die at a crash point.
pub(super) async fn dies_at(process: &Process, point: Point) {
    assert_eq!(
        process.ended(LIMIT).await,
        ABORTED,
        "{}: {}",
        point.name(),
        process.log()
    );
    assert!(
        process
            .log()
            .contains(&format!("crash point {}", point.name())),
        "{}",
        process.log()
    );
}
