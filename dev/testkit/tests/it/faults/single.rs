//! Schedules of single faults, one per line: one process of each kind, and users who claim before,
//! during and after the fault. The judge of `firstcome-chaos` then checks that everything is exact.
//! A line may list additional expectations.

use std::path::{Path, PathBuf};

use firstcome_chaos::expect::Expect::{
    self, AdmittedUnheard, ByConsumer, Logged, NoPromise, Queued, Refusals, Refused, Unavailable,
    Unqueued,
};
use firstcome_chaos::fault::{DropKey, Fault, FaultyStore, Garbage, ProcessRole, WireFault};
use firstcome_chaos::run::ScheduleResult;
use firstcome_chaos::schedule::{FaultSchedule, Timed};
use firstcome_chaos::worker::CampaignWorker;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

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
    let patient = expect.contains(&Queued) || expect.contains(&ByConsumer);
    let expect_unheard = expect.contains(&AdmittedUnheard);
    let mut schedule = FaultSchedule::of(
        faults
            .into_iter()
            .map(|fault| Timed {
                at_ms: AT_MS,
                coupon: 0,
                fault,
            })
            .collect(),
        expect,
    );
    if patient {
        // On a busy machine, a slow Kafka must not be mistaken for one that is down.
        schedule
            .settings
            .insert("PUBLISH_DEADLINE_MS".into(), "3000".into());
    }
    if expect_unheard {
        // The fault must catch the call of a newcomer.
        schedule.repeat_percent = 0;
    }
    // Faults that cause hangs also affect users who look up their claims.
    let hangs = |timed: &Timed| {
        matches!(
            timed.fault,
            Fault::MysqlTableHangs { .. } | Fault::MysqlWritesHang { .. }
        )
    };
    schedule.pollers = if schedule.faults.iter().any(hangs) {
        40
    } else {
        0
    };
    schedule
}

/// Runs a schedule and keeps its results in a folder with this name until it has passed.
pub(super) async fn run(name: &str, schedule: &FaultSchedule) -> ScheduleResult {
    let _turn = TURNS.acquire().await.unwrap();
    let mut worker = WORKERS.lock().pop().unwrap_or_default();
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

fn wire(store: FaultyStore, wire: WireFault) -> [Fault; 1] {
    [Fault::Wire {
        store,
        wire,
        ms: MS,
    }]
}

/// Disturbs the connection to MySQL for longer than the consumer waits for it.
fn long_wire(wire: WireFault) -> [Fault; 1] {
    [Fault::Wire {
        store: FaultyStore::Mysql,
        wire,
        ms: MS + 1_500,
    }]
}

/// Silences a store's host for longer than any timeout of the processes.
fn silent(store: FaultyStore, process: bool) -> [Fault; 1] {
    [Fault::Silent {
        store,
        process,
        ms: 5_000,
    }]
}

fn garbage(garbage: Garbage) -> [Fault; 1] {
    [Fault::Garbage { garbage, ms: MS }]
}

fn wrong_type(key: DropKey) -> [Fault; 1] {
    [Fault::WrongType { key, ms: MS }]
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
    all_processes_killed_and_restarted_during_a_rush_break_no_promise:
        [ProcessRole::Api, ProcessRole::Consumer, ProcessRole::Reconciler].map(|role| Fault::Kill { role, number: 0, ms: 500 }), [];
    // Clocks. The coupon opened half an hour ago and closes in half an hour.
    an_api_clock_that_steps_forwards_breaks_no_promise: clock(ProcessRole::Api, HOURS), [Queued];
    an_api_clock_that_steps_back_breaks_no_promise: clock(ProcessRole::Api, -HOURS), [Queued];
    a_consumer_clock_that_steps_forwards_breaks_no_promise: clock(ProcessRole::Consumer, HOURS), [Queued];
    a_consumer_clock_that_steps_back_breaks_no_promise: clock(ProcessRole::Consumer, -HOURS), [Queued];

    // Redis.
    a_redis_killed_during_a_rush_loses_no_promise: [Fault::KillServer { store: FaultyStore::Redis, ms: MS }], [Unavailable];
    a_retry_is_confirmed_if_redis_admitted_but_answered_too_late:
        [Fault::FreezeServer { store: FaultyStore::Redis, ms: MS }], [Unavailable, AdmittedUnheard];
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
    a_redis_host_that_dies_silently_breaks_no_promise: silent(FaultyStore::Redis, true), [Unavailable];
    an_unreachable_redis_host_with_open_connections_breaks_no_promise: silent(FaultyStore::Redis, false), [Unavailable];
    a_redis_demoted_and_promoted_again_in_one_process_breaks_no_promise: [Fault::Demotion { lag_ms: 700 }], [Refusals];
    a_redis_whose_clock_steps_forwards_closes_early_and_breaks_no_promise:
        [Fault::RedisClock { seconds: HOURS, ms: 2 * MS }], [Refused("closed".into())];
    a_redis_whose_clock_steps_back_opens_late_and_breaks_no_promise:
        [Fault::RedisClock { seconds: -HOURS, ms: 2 * MS }], [Refused("not_open".into())];

    // MySQL: claims do not need it.
    a_mysql_killed_during_a_rush_loses_no_promise:
        [Fault::KillServer { store: FaultyStore::Mysql, ms: MS }], [Queued, ByConsumer, retried()];
    a_frozen_mysql_delays_rows_and_fails_no_claim:
        [Fault::FreezeServer { store: FaultyStore::Mysql, ms: MS + 1_500 }], [Queued, ByConsumer, retried()];
    a_slow_connection_to_mysql_breaks_no_promise: long_wire(WireFault::LongDelay), [Queued, retried()];
    a_cut_connection_to_mysql_breaks_no_promise: long_wire(WireFault::Cut), [Queued, retried()];
    a_silent_connection_to_mysql_breaks_no_promise: long_wire(WireFault::BlackHole), [Queued, retried()];
    a_half_closed_connection_to_mysql_breaks_no_promise: long_wire(WireFault::HalfClose), [Queued, retried()];
    replies_of_mysql_lost_after_execution_break_no_promise: long_wire(WireFault::DropReplies), [Queued, retried()];
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
        [Fault::MysqlTableHangs { ms: MS + 1_500 }], [Queued, ByConsumer, retried()];
    a_mysql_with_hanging_writes_delays_rows_and_fails_no_claim:
        [Fault::MysqlWritesHang { ms: MS + 1_500 }], [Queued, ByConsumer, retried()];

    // Kafka: the API writes the rows of claims that Kafka does not acknowledge.
    a_kafka_killed_during_a_rush_loses_no_promise: [Fault::KillServer { store: FaultyStore::Kafka, ms: MS }], [Unqueued];
    a_frozen_kafka_that_delivers_late_gives_no_user_a_second_row:
        [Fault::FreezeServer { store: FaultyStore::Kafka, ms: MS }], [Unqueued];
    a_slow_connection_to_kafka_breaks_no_promise: wire(FaultyStore::Kafka, WireFault::LongDelay), [Unqueued];
    a_cut_connection_to_kafka_breaks_no_promise: wire(FaultyStore::Kafka, WireFault::Cut), [Unqueued];
    a_silent_connection_to_kafka_breaks_no_promise: wire(FaultyStore::Kafka, WireFault::BlackHole), [Unqueued];
    a_half_closed_connection_to_kafka_breaks_no_promise: wire(FaultyStore::Kafka, WireFault::HalfClose), [Unqueued];
    a_kafka_host_that_dies_silently_breaks_no_promise: silent(FaultyStore::Kafka, true), [Unqueued];
    an_unreachable_kafka_host_with_open_connections_breaks_no_promise: silent(FaultyStore::Kafka, false), [Unqueued];
    replies_of_kafka_lost_after_execution_break_no_promise: wire(FaultyStore::Kafka, WireFault::DropReplies), [Unqueued];

    // Garbage: keys are rebuilt; messages and dead letters are reported, and an operator ends them.
    messages_that_are_not_claims_are_reported: garbage(Garbage::Messages), [Queued];
    dead_letters_that_cannot_become_rows_are_reported: garbage(Garbage::DeadLetters), [Queued];
    a_meta_key_of_another_type_is_rebuilt: wrong_type(DropKey::Meta), [Refusals];
    a_counter_of_another_type_is_rebuilt: wrong_type(DropKey::Count), [Refusals];
    a_users_key_of_another_type_is_rebuilt: wrong_type(DropKey::Users), [Refusals];
    a_free_key_of_another_type_is_rebuilt: wrong_type(DropKey::Free), [Refusals];
    a_waiting_list_of_another_type_is_rebuilt: wrong_type(DropKey::Waiting), [Refusals];
    a_claimants_key_of_another_type_is_rebuilt: wrong_type(DropKey::Claimants), [Refusals];

    // Two faults at once: a promise is only made once a second store besides Redis has the claim.
    no_promise_is_made_while_kafka_and_mysql_are_down_and_a_retry_gets_its_slot:
        [FaultyStore::Kafka, FaultyStore::Mysql].map(|store| Fault::KillServer { store, ms: MS }),
        [NoPromise, AdmittedUnheard];
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

/// Returns how often a consumer dies in the middle of a batch. A release uses `KILLS=40`.
fn kills() -> usize {
    std::env::var("KILLS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(6)
}

/// Each consumer dies before its transaction, during it, or after it but before its offsets are
/// committed.
#[tokio::test]
#[ignore = "release"]
async fn two_consumers_killed_repeatedly_during_a_batch_leave_no_gap_and_no_duplicate() {
    let points = ["rows_begun", "rows_inserted", "rows_committed"];
    let crash = |kill: usize| {
        let point = points[kill / 2 % points.len()].into();
        Fault::Crash {
            role: ProcessRole::Consumer,
            number: kill % 2,
            point,
            ms: 10_000,
        }
    };
    let short = schedule((0..kills()).map(crash).collect(), vec![ByConsumer]);
    let people = u32::try_from(kills() * 100).unwrap();
    let crowd_ms = u64::from(people) * 25;
    let long = FaultSchedule {
        processes: 2,
        quantity: people,
        people: people + 20,
        crowd_ms,
        ..short
    };
    survives("consumers_killed_again_and_again", &long).await;
}
