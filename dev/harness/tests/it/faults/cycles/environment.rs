//! State that survives from cycle to cycle, and steps that all cycles share.

use firstcome_harness::{
    ApiClient, Http, LIMIT, MadeCoupon, Process, Running, World, WorldStores, assert_kept, rows,
};
use firstcome_reconciler::report::{Kind, Run, Status};
use firstcome_shared::crash::Point;
use firstcome_stack::{BreakableKafka, KafkaServer, ProxyFault};

use super::Scenario;

/// The shell's exit code for SIGABRT.
const ABORTED: i32 = 128 + 6;

/// A world with the processes that do not crash.
pub(super) struct Environment {
    pub(super) world: World,
    pub(super) api: Running<ApiClient>,
    /// `None` if the consumer is the process that crashes.
    _consumer: Option<Running<Http>>,
    /// `None` unless the scenario breaks Kafka.
    kafka: Option<BreakableKafka>,
}

impl Environment {
    pub(super) async fn new(name: &str, scenario: Scenario) -> Self {
        let mut stores = WorldStores::shared().await;
        let mut kafka = None;
        if scenario == Scenario::Kept {
            let breakable = KafkaServer::breakable().await.unwrap();
            stores = stores.with_kafka(breakable.server);
            kafka = Some(breakable);
        }
        let world = World::on(stores, &format!("x-{}", name.replace('_', "-"))).await;
        for (name, value) in [
            // Passes wait for this time before they judge recent claims. It may be short, because
            // the claims here are few.
            ("PUBLISH_DEADLINE_MS", "500"),
            ("FIRSTCOME_TEST_BACKUP_DEADLINE_MS", "500"),
            ("FIRSTCOME_TEST_KAFKA_SESSION_MS", "1000"),
            // Otherwise, the mails and events of later cycles would wait.
            ("FIRSTCOME_TEST_ALERT_COOLDOWN_SECONDS", "0"),
            (
                "RUST_LOG",
                "warn,firstcome_api=info,firstcome_reconciler=info",
            ),
        ] {
            world.set(name, value);
        }
        let consumer = async {
            match scenario {
                Scenario::Batch => None,
                _ => Some(world.consume().await),
            }
        };
        let (api, consumer) = tokio::join!(world.serve(), consumer);
        Self {
            world,
            api,
            _consumer: consumer,
            kafka,
        }
    }

    /// Breaks or restores the connection to Kafka if the scenario includes this fault.
    pub(super) async fn kafka_is(&self, fault: ProxyFault) {
        if let Some(kafka) = &self.kafka {
            kafka.proxy.set(fault).await.unwrap();
        }
    }

    /// Runs one pass to its end or to the crash point. Returns whether it died at the crash point.
    pub(super) async fn pass_dies(&self, point: Point) -> bool {
        let crash = [("FIRSTCOME_CRASH_AT", point.name())];
        let once = self.world.once_with(&[], &crash).await;
        let died = once.log.contains(&format!("crash point {}", point.name()));
        let codes = if died { ABORTED..=ABORTED } else { 0..=1 };
        assert!(codes.contains(&once.code), "{}: {}", once.code, once.log);
        died
    }

    pub(super) async fn must_die(&self, point: Point, why: &str) {
        let died = self.pass_dies(point).await;
        assert!(died, "{} was not reached: {why}", point.name());
    }

    /// Runs a pass that repairs the remaining drift, then a pass that must find nothing except
    /// promises that are listed as broken.
    pub(super) async fn mend(&self) {
        let once = self.world.once_with(&[], &[]).await;
        assert!(once.code <= 1, "code {}: {}", once.code, once.log);
        assert_nothing_found(&self.world.once_with(&[], &[]).await.run());
    }

    /// Ends the open dead letters, as an operator does.
    pub(super) async fn resolve_letters(&self) {
        let resolve = "UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'by_hand' \
                       WHERE resolved_at IS NULL";
        self.world.sql.query(resolve).await;
    }

    /// Checks that promises have rows, ends broken promises by hand, and seals the drop so that
    /// later passes skip it.
    pub(super) async fn count(&self, coupon: &MadeCoupon, quantity: u32) {
        assert_kept(&self.world, coupon, &[]).await;
        let rows = rows(&self.world, coupon.drop).await;
        assert!(rows.len() <= quantity as usize, "{rows:?}");
        let mend = "UPDATE broken_promises SET mended_at = UTC_TIMESTAMP(3)";
        self.world.sql.query(mend).await;
        let seal = format!(
            "UPDATE drops SET closes_at = UTC_TIMESTAMP(3), sealed_at = UTC_TIMESTAMP(3) WHERE id = {}",
            coupon.drop
        );
        self.world.sql.query(&seal).await;
    }
}

/// Fails unless the run found nothing but the promises that are listed as broken.
fn assert_nothing_found(run: &Run) {
    let kinds: Vec<Kind> = run.all_findings().map(|finding| finding.kind).collect();
    let status = if kinds.is_empty() {
        Status::Clean
    } else {
        Status::Drift
    };
    let are_listed = kinds.iter().all(|kind| *kind == Kind::BrokenPromise);
    assert!(run.status == status && are_listed, "{run:#?}");
}

/// Waits for a process that must die at a crash point.
pub(super) async fn dies_at(process: &Process, point: Point) {
    let code = process.ended(LIMIT).await;
    let log = process.log();
    let is_there = log.contains(&format!("crash point {}", point.name()));
    assert!(code == ABORTED && is_there, "{}: {log}", point.name());
}
