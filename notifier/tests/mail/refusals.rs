//! Tests mails about stores that answer with refusals: one describes the refusal and gives a
//! command, and another says that it is over.

use chrono::TimeDelta;
use firstcome_notifier::Clock as _;
use firstcome_notifier::SeenGate::{Open, Refuses};
use firstcome_shared::report::StoreRefusal;

use crate::desk::{A, Desk, mysql, text};
use crate::mailed::clean;

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
