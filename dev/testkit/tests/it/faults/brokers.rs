//! Three brokers, of which one or two die, and topics that would not survive the loss of a broker.

use firstcome_stack::KafkaCluster;
use firstcome_testkit::{Answer, LIMIT, WorldStores, eventually, holders};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use super::waves::{HEALED, Waves, impatient};

static CLUSTER: OnceCell<KafkaCluster> = OnceCell::const_new();
static TURN: Mutex<()> = Mutex::const_new(());

/// Returns the shared cluster with all its brokers running. The guard gives one test at a time
/// access to it.
async fn cluster() -> (&'static KafkaCluster, MutexGuard<'static, ()>) {
    let turn = TURN.lock().await;
    let start = async || {
        KafkaCluster::start()
            .await
            .unwrap_or_else(|error| panic!("{error:#}"))
    };
    let cluster = CLUSTER.get_or_init(start).await;
    for id in 1..=3 {
        // A failed test may have left a broker dead.
        let broker = cluster.broker(id).unwrap();
        if broker.pid().is_none() {
            broker.start_again().await.unwrap();
        }
    }
    (cluster, turn)
}

async fn stores(cluster: &KafkaCluster) -> WorldStores {
    WorldStores::shared().await.with_kafka_cluster(cluster)
}

fn is_queued(answer: &Answer) -> bool {
    matches!(answer, Answer::Accepted { queued: true, .. })
}

#[tokio::test]
#[ignore = "release"]
async fn a_broker_killed_during_a_rush_breaks_no_promise() {
    let (cluster, _turn) = cluster().await;
    let waves = Waves::begin_with(impatient(stores(cluster).await, "broker").await, 400).await;
    waves
        .survives(async |waves| {
            let leader = waves.world.topic.leader(0).await.unwrap();
            let dying = cluster.broker(leader).unwrap();
            let before = holders(&waves.world, &waves.coupon).await;
            let answers = waves.next_while(250, async |waves| {
                // At most twenty claims are in flight, so forty are answered.
                eventually("the rush is on", LIMIT, async || {
                    holders(&waves.world, &waves.coupon).await > before + 60
                })
                .await;
                dying.kill().await.unwrap();
            });
            let queued = answers
                .await
                .iter()
                .filter(|(_, answer)| is_queued(answer))
                .count();
            assert!(queued >= 20, "{queued} were queued before it died");
            // No repair is needed: another broker leads, and claims go through the topic again.
            eventually("another broker leads", HEALED, async || {
                waves
                    .world
                    .topic
                    .leader(0)
                    .await
                    .is_some_and(|found| found != leader)
            })
            .await;
            eventually("claims use the two remaining brokers", HEALED, async || {
                let answers = waves.next(5).await;
                !answers.is_empty() && answers.iter().all(|(_, answer)| is_queued(answer))
            })
            .await;
            dying.start_again().await.unwrap();
        })
        .await;
}

#[tokio::test]
#[ignore = "release"]
async fn claims_are_stored_in_mysql_while_two_of_three_brokers_are_dead() {
    let (cluster, _turn) = cluster().await;
    let waves = Waves::begin(impatient(stores(cluster).await, "brokers").await).await;
    waves
        .survives(async |waves| {
            let first = cluster.broker(1).unwrap();
            let second = cluster.broker(2).unwrap();
            let (one, other) = tokio::join!(first.kill(), second.kill());
            one.and(other).unwrap();
            let answers = waves.next(20).await.to_vec();
            let kept = |answer: &Answer| matches!(answer, Answer::Accepted { queued: false, .. });
            let honest = |answer: &Answer| kept(answer) || answer.is("unavailable");
            assert!(
                answers.iter().all(|(_, answer)| honest(answer)),
                "one broker alone acknowledges nothing: {answers:?}"
            );
            let accepted = answers.iter().filter(|(_, answer)| kept(answer)).count();
            let written = "SELECT COUNT(*) FROM issued_coupons WHERE issued_by = 'api'";
            let written = waves.world.sql.number(written).await;
            assert!(
                accepted > 0 && usize::try_from(written).unwrap() >= accepted,
                "{accepted} {written}"
            );
            let (one, other) = tokio::join!(first.start_again(), second.start_again());
            one.and(other).unwrap();
        })
        .await;
}
