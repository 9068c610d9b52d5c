//! Schedules of single faults, and of a few combinations. Most have one line, with one process of
//! each kind, and users who claim before, during and after the fault. The judge of
//! `firstcome-chaos` then checks that everything is exact. A line may list additional expectations.

use std::path::{Path, PathBuf};

use firstcome_chaos::expect::Expect::{
    self, AdmittedUnheard, ByConsumer, Logged, NoPromise, Queued, Refusals, Refused, Unavailable,
    Unqueued,
};
use firstcome_chaos::fault::{
    COUPON_KEYS, DROP_KEYS, Fault, FaultyStore, Garbage, ProcessRole, WireFault,
};
use firstcome_chaos::run::{DEADLINE_BESIDE_TESTS, ScheduleResult};
use firstcome_chaos::schedule::{FaultSchedule, Timed};
use firstcome_chaos::worker::CampaignWorker;
use firstcome_shared::crash::Point;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::cycles::{Scenario, points};

/// Idle workers. The next schedules reuse their servers.
static WORKERS: Mutex<Vec<CampaignWorker>> = Mutex::new(Vec::new());
/// Maximum number of workers.
static TURNS: Semaphore = Semaphore::const_new(3);

/// The faults start when some users already have their rows.
const AT_MS: u64 = 700;
/// Duration of most faults: well beyond the processes' deadlines, and shorter than the time in
/// which users arrive.
const MS: u64 = 2_000;

fn schedule(faults: Vec<Fault>, expect: Vec<Expect>) -> FaultSchedule {
    let strike = |fault| Timed {
        at_ms: AT_MS,
        coupon: 0,
        fault,
    };
    let mut schedule = FaultSchedule::of(faults.into_iter().map(strike).collect(), expect);
    let expects = |expect: &Expect| schedule.expect.contains(expect);
    if expects(&Queued) || expects(&ByConsumer) {
        // On a busy machine, a slow Kafka must not be mistaken for one that is down.
        let patient = ("PUBLISH_DEADLINE_MS".into(), "3000".into());
        schedule.settings.extend([patient]);
    }
    if schedule.expect.contains(&Unqueued) {
        // On a busy machine, a slow MySQL must not be mistaken for one that is down.
        let patient = ("FIRSTCOME_TEST_BACKUP_DEADLINE_MS".into(), "3000".into());
        schedule.settings.extend([patient]);
    }
    if schedule.expect.contains(&AdmittedUnheard) {
        // The fault must catch the call of a newcomer.
        schedule.repeat_percent = 0;
    }
    // A MySQL that hangs also affects users who look up their claims, so let some do that.
    let hangs = |timed: &Timed| matches!(timed.fault, Fault::MysqlHangs { .. });
    schedule.pollers = 40 * u32::from(schedule.faults.iter().any(hangs));
    schedule
}

/// Runs a schedule. Its results stay in a folder with this name.
pub(super) async fn run(name: &str, schedule: &FaultSchedule) -> ScheduleResult {
    let _turn = TURNS.acquire().await.unwrap();
    let idle = WORKERS.lock().pop();
    let mut worker = idle.unwrap_or_else(|| CampaignWorker::new(DEADLINE_BESIDE_TESTS));
    let ran = worker.run(schedule, &folder(name)).await.unwrap();
    WORKERS.lock().push(worker);
    ran
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

async fn survives(name: &str, schedule: &FaultSchedule) {
    let ran = run(name, schedule).await;
    let kept = format!(
        "history and logs are in {}\n{schedule}\n{ran:#?}",
        folder(name).display()
    );
    assert_eq!(ran.wrong, [""; 0], "{kept}");
    assert!(
        ran.faults.iter().all(|hit| hit.took),
        "a fault had no effect; {kept}"
    );
    // Operators change the quantity.
    let is_whole = ran.kept == schedule.quantity as usize || schedule.operators > 0;
    assert!(
        ran.exact_after_ms.is_some() && is_whole && ran.kept == ran.promises && ran.reads > 0,
        "{kept}"
    );
    std::fs::remove_dir_all(folder(name)).unwrap();
}

macro_rules! faults {
    ($($name:ident: $faults:expr, $expect:expr;)+) => {$(
        #[tokio::test]
        #[ignore = "release"]
        async fn $name() {
            survives(stringify!($name), &schedule($faults.into(), $expect.into())).await;
        }
    )+};
}

/// Disturbs the connection to a store. The fault lasts longer for MySQL, because the consumer waits
/// longer for MySQL than processes wait for other stores.
fn wire(store: FaultyStore, wire: WireFault) -> [Fault; 1] {
    let longer = u64::from(store == FaultyStore::Mysql) * 1_500;
    let ms = MS + longer;
    [Fault::Wire { store, wire, ms }]
}

/// Silences a store's host for longer than any timeout of the processes.
fn silent(store: FaultyStore, process: bool) -> [Fault; 1] {
    let ms = 5_000;
    [Fault::Silent { store, process, ms }]
}

fn killed(store: FaultyStore) -> Fault {
    Fault::KillServer { store, ms: MS }
}

fn frozen(store: FaultyStore, ms: u64) -> [Fault; 1] {
    [Fault::FreezeServer { store, ms }]
}

fn table_lost(table: &str) -> [Fault; 1] {
    let table = table.into();
    [Fault::TableLost { table }]
}

fn clock(role: ProcessRole, seconds: i64) -> [Fault; 1] {
    [Fault::Clock {
        role,
        number: 0,
        seconds,
        ms: MS,
    }]
}

/// Expects that the fault affected the consumer.
fn retried() -> Expect {
    Logged("this is tried again until it works".into())
}

const HOURS: i64 = 7_200;

faults! {
    // Processes.
    an_api_killed_during_a_rush_breaks_no_promise: [Fault::Kill { role: ProcessRole::Api, number: 0, ms: 500 }], [];
    a_frozen_api_breaks_no_promise: [Fault::Freeze { role: ProcessRole::Api, number: 0, ms: MS }], [];
    a_consumer_killed_during_a_rush_breaks_no_promise: [Fault::Kill { role: ProcessRole::Consumer, number: 0, ms: 500 }], [Queued];
    a_reconciler_killed_during_a_rush_breaks_no_promise:
        [Fault::Kill { role: ProcessRole::Reconciler, number: 0, ms: 500 }], [Queued];
    a_frozen_reconciler_breaks_no_promise: [Fault::Freeze { role: ProcessRole::Reconciler, number: 0, ms: 8_000 }], [];
    all_processes_killed_and_restarted_during_a_rush_break_no_promise:
        ProcessRole::ALL.map(|role| Fault::Kill { role, number: 0, ms: 500 }), [];
    // Clocks. The coupon opened half an hour ago and closes in half an hour.
    an_api_clock_that_steps_forwards_breaks_no_promise: clock(ProcessRole::Api, HOURS), [Queued];
    an_api_clock_that_steps_back_breaks_no_promise: clock(ProcessRole::Api, -HOURS), [Queued];
    a_consumer_clock_that_steps_forwards_breaks_no_promise: clock(ProcessRole::Consumer, HOURS), [Queued];
    a_consumer_clock_that_steps_back_breaks_no_promise: clock(ProcessRole::Consumer, -HOURS), [Queued];
    a_reconciler_clock_that_steps_forwards_stops_no_schedule: clock(ProcessRole::Reconciler, HOURS), [];
    a_reconciler_clock_that_steps_back_stops_no_schedule: clock(ProcessRole::Reconciler, -HOURS), [];

    // Redis.
    a_redis_killed_during_a_rush_loses_no_promise: [killed(FaultyStore::Redis)], [Unavailable];
    a_retry_is_confirmed_if_redis_admitted_but_answered_too_late:
        frozen(FaultyStore::Redis, MS), [Unavailable, AdmittedUnheard];
    a_slow_connection_to_redis_breaks_no_promise: wire(FaultyStore::Redis, WireFault::Delay), [Queued];
    a_cut_connection_to_redis_breaks_no_promise: wire(FaultyStore::Redis, WireFault::Cut), [Unavailable];
    a_silent_connection_to_redis_breaks_no_promise: wire(FaultyStore::Redis, WireFault::BlackHole), [Unavailable];
    a_half_closed_connection_to_redis_breaks_no_promise: wire(FaultyStore::Redis, WireFault::HalfClose), [Unavailable];
    replies_of_redis_lost_after_execution_break_no_promise:
        wire(FaultyStore::Redis, WireFault::DropReplies), [Unavailable, AdmittedUnheard];
    a_truncated_append_only_file_breaks_no_promise: [Fault::TruncatedAof { percent: 60 }], [Refusals];
    a_flushed_redis_breaks_no_promise: [Fault::Flush], [Refusals];
    a_redis_restored_from_an_old_copy_breaks_no_promise: [Fault::OldCopy { age_ms: 700 }], [Refusals];
    a_stale_replica_that_is_promoted_breaks_no_promise: [Fault::StaleReplica { lag_ms: 700 }], [Refusals];
    a_redis_with_a_file_size_limit_breaks_no_promise: [Fault::RedisDiskFull { ms: MS }], [Refusals];
    a_redis_without_memory_breaks_no_promise: [Fault::RedisMemory { ms: MS }], [Refusals];
    a_redis_whose_snapshot_fails_breaks_no_promise: [Fault::RedisSnapshotFails { ms: MS }], [Refusals];
    a_redis_host_that_dies_silently_breaks_no_promise: silent(FaultyStore::Redis, true), [Unavailable];
    an_unreachable_redis_host_with_open_connections_breaks_no_promise: silent(FaultyStore::Redis, false), [Unavailable];
    a_redis_demoted_and_promoted_again_in_one_process_breaks_no_promise: [Fault::Demotion { lag_ms: 700 }], [Refusals];
    a_redis_whose_clock_steps_forwards_closes_early_and_breaks_no_promise:
        [Fault::RedisClock { shift_ms: HOURS * 1_000, ms: 2 * MS }], [Refused("closed".into())];
    a_redis_whose_clock_steps_back_opens_late_and_breaks_no_promise:
        [Fault::RedisClock { shift_ms: -HOURS * 1_000, ms: 2 * MS }], [Refused("not_open".into())];
    redis_clock_steps_shorter_than_a_lease_break_no_promise:
        [30, -30, 150, -150].map(|shift_ms| Fault::RedisClock { shift_ms, ms: MS / 4 }), [];
    lost_keys_of_a_drop_break_no_promise: [Fault::DropKeysLost], [Refusals];

    // MySQL: claims do not need it.
    a_mysql_killed_during_a_rush_loses_no_promise: [killed(FaultyStore::Mysql)], [Queued, ByConsumer, retried()];
    a_frozen_mysql_delays_rows_and_fails_no_claim: frozen(FaultyStore::Mysql, MS + 1_500), [Queued, ByConsumer, retried()];
    a_slow_connection_to_mysql_breaks_no_promise: wire(FaultyStore::Mysql, WireFault::LongDelay), [Queued, retried()];
    a_cut_connection_to_mysql_breaks_no_promise: wire(FaultyStore::Mysql, WireFault::Cut), [Queued, retried()];
    a_silent_connection_to_mysql_breaks_no_promise: wire(FaultyStore::Mysql, WireFault::BlackHole), [Queued, retried()];
    a_half_closed_connection_to_mysql_breaks_no_promise: wire(FaultyStore::Mysql, WireFault::HalfClose), [Queued, retried()];
    replies_of_mysql_lost_after_execution_break_no_promise: wire(FaultyStore::Mysql, WireFault::DropReplies), [Queued, retried()];
    a_read_only_mysql_delays_rows_and_fails_no_claim:
        [Fault::MysqlReadOnly { ms: MS }], [Queued, ByConsumer, retried()];
    a_mysql_host_that_dies_silently_breaks_no_promise: silent(FaultyStore::Mysql, true), [Queued, retried()];
    an_unreachable_mysql_host_with_open_connections_breaks_no_promise: silent(FaultyStore::Mysql, false), [Queued, retried()];
    a_mysql_whose_rows_are_locked_delays_rows_and_fails_no_claim:
        [Fault::MysqlLocks { ms: MS }], [Queued, ByConsumer, retried()];
    a_deadlocked_batch_breaks_no_promise:
        [Fault::MysqlDeadlocks { ms: MS }], [Queued, Logged("Deadlock".into())];
    a_mysql_with_a_file_size_limit_breaks_no_promise: [Fault::MysqlDiskFull { ms: MS }], [retried()];
    a_mysql_whose_table_hangs_delays_rows_and_fails_no_claim:
        [Fault::MysqlHangs { writes: false, ms: MS + 1_500 }], [Queued, ByConsumer, retried()];
    a_mysql_with_hanging_writes_delays_rows_and_fails_no_claim:
        [Fault::MysqlHangs { writes: true, ms: MS + 1_500 }], [Queued, ByConsumer, retried()];
    a_mysql_back_from_an_older_copy_breaks_no_promise: [Fault::OldDatabase { age_ms: 700 }], [];
    older_rows_restored_into_mysql_break_no_promise: [Fault::OldRows { age_ms: 700 }], [];
    lost_drops_break_no_promise: table_lost("drops"), [];
    lost_slot_limits_break_no_promise: table_lost("slot_limits"), [];
    lost_drops_and_slot_limits_break_no_promise: [table_lost("drops"), table_lost("slot_limits")].concat(), [];

    // Kafka: the API writes the rows of claims that Kafka does not acknowledge.
    a_kafka_killed_during_a_rush_loses_no_promise: [killed(FaultyStore::Kafka)], [Unqueued];
    a_frozen_kafka_that_delivers_late_gives_no_user_a_second_row: frozen(FaultyStore::Kafka, MS), [Unqueued];
    a_slow_connection_to_kafka_breaks_no_promise: wire(FaultyStore::Kafka, WireFault::LongDelay), [Unqueued];
    a_cut_connection_to_kafka_breaks_no_promise: wire(FaultyStore::Kafka, WireFault::Cut), [Unqueued];
    a_silent_connection_to_kafka_breaks_no_promise: wire(FaultyStore::Kafka, WireFault::BlackHole), [Unqueued];
    a_half_closed_connection_to_kafka_breaks_no_promise: wire(FaultyStore::Kafka, WireFault::HalfClose), [Unqueued];
    a_kafka_host_that_dies_silently_breaks_no_promise: silent(FaultyStore::Kafka, true), [Unqueued];
    an_unreachable_kafka_host_with_open_connections_breaks_no_promise: silent(FaultyStore::Kafka, false), [Unqueued];
    replies_of_kafka_lost_after_execution_break_no_promise: wire(FaultyStore::Kafka, WireFault::DropReplies), [Unqueued];
    a_recreated_topic_breaks_no_promise: [Fault::TopicRecreated], [];
    positions_moved_forwards_break_no_promise: [Fault::PositionsMoved { by: 1_000 }], [];
    positions_moved_back_break_no_promise: [Fault::PositionsMoved { by: -20 }], [];
    lost_positions_break_no_promise: table_lost("topic_positions"), [];

    // Garbage is reported, and an operator ends it.
    messages_that_are_not_claims_are_reported: [Fault::Garbage { garbage: Garbage::Messages, ms: MS }], [Queued];
    dead_letters_that_cannot_become_rows_are_reported: [Fault::Garbage { garbage: Garbage::DeadLetters, ms: MS }], [Queued];

    // Two faults at once: a promise is only made once a second store besides Redis has the claim.
    no_promise_is_made_while_kafka_and_mysql_are_down_and_a_retry_gets_its_slot:
        [FaultyStore::Kafka, FaultyStore::Mysql].map(killed), [NoPromise, AdmittedUnheard];
    every_promise_becomes_a_row_if_redis_goes_back_while_kafka_is_down:
        [killed(FaultyStore::Kafka), Fault::OldCopy { age_ms: 900 }], [Refusals];
}

#[tokio::test]
#[ignore = "release"]
async fn two_operators_who_keep_changing_a_coupon_break_no_promise() {
    let people_who_ask = FaultSchedule {
        operators: 2,
        pollers: 8,
        processes: 2,
        ..schedule(vec![], vec![])
    };
    survives("operators", &people_who_ask).await;
}

/// Every key of a coupon is replaced by one of another type, one after the other, while users claim,
/// wait and look up their claims. The coupon has an allow list.
#[tokio::test]
#[ignore = "release"]
async fn keys_replaced_by_garbage_one_after_the_other_break_no_promise() {
    let keys = [DROP_KEYS, COUPON_KEYS].concat();
    let replaced = keys.into_iter().map(|key| Fault::WrongType {
        key: key.to_owned(),
        ms: 0,
    });
    let mut one_by_one = FaultSchedule {
        waiting_list: 10,
        listed: 95,
        crowd_ms: 12_000,
        pollers: 10,
        ..schedule(replaced.collect(), vec![Refusals])
    };
    for (timed, at_ms) in one_by_one.faults.iter_mut().zip((AT_MS..).step_by(800)) {
        timed.at_ms = at_ms;
    }
    survives("keys_replaced", &one_by_one).await;
}

/// A process of this role dies twice at each point, one death after the other.
fn dying(role: ProcessRole, scenario: Scenario) -> Vec<Fault> {
    let crash = |point: Point| Fault::Crash {
        role,
        number: 0,
        point: point.name().to_owned(),
        ms: 15_000,
    };
    let twice = points(scenario).into_iter().flat_map(|point| [point; 2]);
    twice.map(crash).collect()
}

/// Users claim, look up, return and lose coupons, and operators change an allow list while an API
/// dies.
async fn survives_dying_apis(name: &str, scenario: Scenario) {
    let busy = FaultSchedule {
        coupons: 3,
        people: 300,
        crowd_ms: 45_000,
        revoke_percent: 100,
        listed: 250,
        relisted: true,
        pollers: 40,
        ..schedule(dying(ProcessRole::Api, scenario), vec![])
    };
    let ran = run(name, &busy).await;
    assert_eq!(ran.wrong, [""; 0], "{ran:#?}");
    assert!(ran.faults.iter().all(|hit| hit.took), "{ran:#?}");
}

#[tokio::test]
#[ignore = "release"]
async fn an_api_that_dies_twice_at_each_step_of_a_claim_breaks_no_promise() {
    survives_dying_apis("api-dies-claiming", Scenario::Claim).await;
}

#[tokio::test]
#[ignore = "release"]
async fn an_api_that_dies_twice_at_each_step_of_a_revocation_breaks_no_promise() {
    survives_dying_apis("api-dies-revoking", Scenario::Revoke).await;
}

#[tokio::test]
#[ignore = "release"]
async fn an_api_that_dies_twice_at_each_step_of_a_list_breaks_no_promise() {
    survives_dying_apis("api-dies-listing", Scenario::List).await;
}

#[tokio::test]
#[ignore = "release"]
async fn an_api_that_dies_twice_without_kafka_breaks_no_promise() {
    let mut faults = vec![Fault::Wire {
        store: FaultyStore::Kafka,
        wire: WireFault::BlackHole,
        ms: 25_000,
    }];
    faults.extend(dying(ProcessRole::Api, Scenario::Kept));
    let long = FaultSchedule {
        crowd_ms: 30_000,
        ..schedule(faults, vec![])
    };
    survives("api-dies-without-kafka", &long).await;
}

#[tokio::test]
#[ignore = "release"]
async fn a_consumer_that_dies_twice_while_it_stores_garbage_breaks_no_promise() {
    let garbage = Fault::Garbage {
        garbage: Garbage::Messages,
        ms: 0,
    };
    let mut faults = dying(ProcessRole::Consumer, Scenario::Garbage);
    faults.push(garbage);
    let long = FaultSchedule {
        crowd_ms: 20_000,
        ..schedule(faults, vec![])
    };
    survives("consumer-dies-of-garbage", &long).await;
}

/// Each consumer dies before its transaction, during it, or after it but before its offsets are
/// committed. `make faults` sets `KILLS=40`.
#[tokio::test]
#[ignore = "release"]
async fn two_consumers_killed_repeatedly_during_a_batch_leave_no_gap_and_no_duplicate() {
    let kills = std::env::var("KILLS").map_or(6, |text| text.parse().unwrap());
    let points = dying(ProcessRole::Consumer, Scenario::Batch);
    let mut kills: Vec<Fault> = points.into_iter().cycle().take(kills).collect();
    for (kill, fault) in kills.iter_mut().enumerate() {
        if let Fault::Crash { number, .. } = fault {
            *number = kill % 2;
        }
    }
    let people = u32::try_from(kills.len() * 100).unwrap();
    let long = FaultSchedule {
        processes: 2,
        quantity: people,
        people: people + 20,
        crowd_ms: u64::from(people) * 25,
        ..schedule(kills, vec![ByConsumer])
    };
    survives("consumers_killed_again_and_again", &long).await;
}
