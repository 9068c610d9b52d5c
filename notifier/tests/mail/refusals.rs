//! Tests mails about stores that answer with refusals: one describes the refusal and gives a
//! command, and another says that it is over.

use chrono::TimeDelta;
use firstcome_notifier::SeenGate::{Open, Refuses};
use firstcome_notifier::{Clock as _, Notifier};
use firstcome_shared::report::StoreRefusal;

use crate::desk::{A, Desk, mysql, text};
use crate::mailed::{clean, kafka_is_away};

/// Fails unless the mail describes the refusal and quotes the error.
fn is_told(mail: &str, refusal: StoreRefusal, quoted: &str) {
    let facts = refusal.facts();
    for part in [facts.says, facts.to_do, facts.command[0], quoted] {
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words(mail).contains(&words(part)), "{part}\n{mail}");
    }
}

#[tokio::test]
async fn redis_that_refuses_writes_is_reported_in_one_mail() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    let says = "OOM command not allowed when used memory > 'maxmemory'.";
    let gate = Refuses(StoreRefusal::RedisMemory, says.to_owned());
    for n in 0..90 {
        let now = desk.clock.turn(TimeDelta::seconds(1));
        daemon.admission(gate.clone(), now).await.unwrap();
        if n == 60 {
            // A clean pass does not end the alert.
            desk.after_pass(&daemon, &clean("r1")).await;
        }
    }
    daemon.admission(Open, desk.clock.now()).await.unwrap();
    desk.flush().await;
    let facts = StoreRefusal::RedisMemory.facts();
    assert_eq!(
        desk.subjects(A),
        [
            format!("[firstcome] action needed: {} (for 30 s)", facts.says),
            "[firstcome] resolved: refusal of Redis".to_owned(),
        ]
    );
    is_told(
        &text(&desk.sink.mails()[0]),
        StoreRefusal::RedisMemory,
        says,
    );
}

#[tokio::test]
async fn refusals_that_other_processes_meet_are_mailed_between_passes() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    let full = "a batch could not be written: The table 'issued_coupons' is full";
    let few = "Broker: Not enough in-sync replicas";
    let seen = [
        (StoreRefusal::MysqlDisk, full.to_owned()),
        (StoreRefusal::KafkaFewReplicas, few.to_owned()),
    ];
    for n in 0..30 {
        let now = desk.clock.turn(TimeDelta::seconds(5));
        let lasts = if n < 2 { &seen[..1] } else { &seen[..] };
        // The first moments look like a restart.
        let now_seen = if n == 1 { Vec::new() } else { lasts.to_vec() };
        daemon.refusals(now_seen, now).await.unwrap();
        desk.after_pass(&daemon, &clean(&format!("r{n}"))).await;
    }
    for _ in 0..2 {
        let now = desk.clock.turn(TimeDelta::seconds(5));
        daemon.refusals(Vec::new(), now).await.unwrap();
    }
    desk.flush().await;
    let mut subjects = desk.subjects(A);
    subjects.sort();
    let told = |refusal: StoreRefusal| {
        format!(
            "[firstcome] action needed: {} (for 20 s)",
            refusal.facts().says
        )
    };
    let mut expected = vec![
        told(StoreRefusal::MysqlDisk),
        told(StoreRefusal::KafkaFewReplicas),
        "[firstcome] resolved: refusal of MySQL".to_owned(),
        "[firstcome] resolved: refusal of Kafka".to_owned(),
    ];
    expected.sort();
    assert_eq!(subjects, expected);
    for (refusal, quoted) in seen {
        let mails = desk.sink.mails();
        let its = mails
            .iter()
            .map(text)
            .find(|text| text.contains(refusal.facts().says));
        is_told(&its.unwrap(), refusal, &quoted);
    }
}

/// Fails unless the refusal of Redis was mailed once, and is mailed as over when no process reports
/// it any more.
async fn assert_over_with_its_reports(desk: &Desk, daemon: &Notifier) {
    desk.flush().await;
    assert_eq!(desk.subjects(A).len(), 1, "{:?}", desk.subjects(A));
    daemon.refusals(Vec::new(), desk.clock.now()).await.unwrap();
    desk.flush().await;
    assert_eq!(
        desk.subjects(A)[1..],
        ["[firstcome] resolved: refusal of Redis"]
    );
}

/// A daemon that starts, and logs in to Redis itself, does not see what the APIs report.
#[tokio::test]
async fn refusal_that_only_apis_meet_outlasts_the_start_of_a_daemon() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    let says = "WRONGPASS invalid username-password pair or user is disabled.";
    let login = (StoreRefusal::RedisLogin, says.to_owned());
    for _ in 0..6 {
        let now = desk.clock.turn(TimeDelta::seconds(5));
        daemon.refusals(vec![login.clone()], now).await.unwrap();
        daemon.admission(Open, now).await.unwrap();
        desk.notifier().admission(Open, now).await.unwrap();
    }
    assert_over_with_its_reports(&desk, &daemon).await;
}

/// Redis refuses every client. The APIs, which report that, see its end later than the daemon.
#[tokio::test]
async fn refusal_that_apis_still_meet_is_not_over_for_a_daemon_that_has_met_it() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    let says = "ERR max number of clients reached".to_owned();
    let seen = (StoreRefusal::RedisClients, says);
    for n in 0..60 {
        let now = desk.clock.turn(TimeDelta::seconds(1));
        let gate = if n < 45 {
            Refuses(seen.0, seen.1.clone())
        } else {
            Open
        };
        daemon.refusals(vec![seen.clone()], now).await.unwrap();
        daemon.admission(gate, now).await.unwrap();
    }
    assert_over_with_its_reports(&desk, &daemon).await;
}

#[tokio::test]
async fn kafka_that_stops_to_answer_while_it_refuses_is_not_mailed_as_resolved() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    let few = "Broker: Not enough in-sync replicas".to_owned();
    for n in 0..12 {
        let now = desk.clock.turn(TimeDelta::seconds(5));
        let seen = (StoreRefusal::KafkaFewReplicas, few.clone());
        // The APIs report no refusal of a Kafka that does not answer.
        let reported = if n < 6 { vec![seen] } else { Vec::new() };
        if n >= 6 {
            let failed = kafka_is_away(&format!("r{n}"), Vec::new());
            desk.after_pass(&daemon, &failed).await;
        }
        daemon.refusals(reported, now).await.unwrap();
    }
    desk.flush().await;
    let facts = StoreRefusal::KafkaFewReplicas.facts();
    let refuses = format!("[firstcome] action needed: {} (for 20 s)", facts.says);
    assert_eq!(desk.subjects(A), [refuses]);
    desk.clock.turn(TimeDelta::minutes(1));
    desk.pass(&clean("r99")).await;
    assert_eq!(
        desk.subjects(A)[1..],
        ["[firstcome] resolved: outage of Kafka"]
    );
}

/// MySQL's own error for a full disk. The mail does not go through the outbox.
#[tokio::test]
async fn full_disk_of_mysql_is_reported_although_nothing_can_be_recorded() {
    let desk = Desk::new(A).await;
    let daemon = desk.notifier();
    let database = &desk.database;
    let full = format!(
        "CREATE TRIGGER {database}.full BEFORE INSERT ON {database}.reconciler_state FOR EACH ROW SIGNAL SQLSTATE 'HY000' \
         SET MYSQL_ERRNO = 1114, MESSAGE_TEXT = \"The table 'reconciler_state' is full\""
    );
    mysql().await.query(&full).await.unwrap();
    for n in 0..4 {
        let now = desk.clock.turn(TimeDelta::seconds(30));
        let pass = clean(&format!("r{n}"));
        daemon.after_pass(&pass, now).await.unwrap_err();
    }
    desk.until_there_are(1).await;
    let freed = format!("DROP TRIGGER {database}.full");
    mysql().await.query(&freed).await.unwrap();
    desk.clock.turn(TimeDelta::minutes(1));
    desk.after_pass(&daemon, &clean("r9")).await;
    desk.flush().await;
    let facts = StoreRefusal::MysqlDisk.facts();
    assert_eq!(
        desk.subjects(A),
        [
            format!("[firstcome] action needed: {} (for 30 s)", facts.says),
            "[firstcome] resolved: refusal of MySQL".to_owned(),
        ]
    );
    let says = "The table 'reconciler_state' is full";
    is_told(&text(&desk.sink.mails()[0]), StoreRefusal::MysqlDisk, says);
}
