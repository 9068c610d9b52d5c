//! Shared helpers of the drift tests: injected drift, a dump of all stores, the findings of a run,
//! and mails.

use std::collections::BTreeMap;

use firstcome_harness::drift::{Drift, Injected, Injector};
use firstcome_harness::{LIMIT, MadeCoupon, World, agreed, assert_kept, eventually};
use firstcome_reconciler::report::{Finding, Run, Status};
use mail_parser::MessageParser;
use serde_json::{Value, json};

/// Returns an injector for a drop.
pub(crate) async fn injector(world: &World, coupon: &MadeCoupon) -> Injector {
    let (sql, redis) = (world.sql.clone(), world.redis.clone());
    let injector = Injector::new(sql, redis, Some(coupon.id), Some(coupon.drop)).await;
    injector.unwrap()
}

/// Injects one kind of drift into a drop. See [`Injector::make`] for the meaning of `n`.
pub(crate) async fn inject(world: &World, coupon: &MadeCoupon, drift: Drift, n: u32) -> Injected {
    let mut injector = injector(world, coupon).await;
    injector.make(drift, n).await.unwrap()
}

/// Deletes the rows of a drop whose slots fulfil this condition, such as `<= 3`.
pub(crate) async fn lose_rows(world: &World, coupon: &MadeCoupon, slots: &str) {
    let delete = "DELETE FROM issued_coupons WHERE drop_id";
    let delete = format!("{delete} = {} AND slot {slots}", coupon.drop);
    world.sql.query(&delete).await;
}

/// Waits until no claim may still be on its way to a row, so that one look does all repairs.
pub(crate) async fn until_claims_are_old(world: &World, coupon: &MadeCoupon) {
    let young = format!(
        "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {} \
         AND claimed_at > UTC_TIMESTAMP(3) - INTERVAL 10 SECOND",
        coupon.drop
    );
    eventually("the claims are old", LIMIT, async || {
        world.sql.number(&young).await == 0
    })
    .await;
}

/// Deletes the gate of a coupon, which closes it.
pub(crate) async fn close(world: &World, coupon: &MadeCoupon) {
    let gate = world.redis.of_coupon(coupon.id, "gate");
    let _: i64 = world.redis.command(&["DEL", &gate]).await;
}

/// Lets MySQL refuse the new rows that fulfil this condition, until [`accept_rows`].
pub(crate) async fn refuse_rows(world: &World, condition: &str) {
    let trigger = format!(
        "CREATE TRIGGER by_hand BEFORE INSERT ON issued_coupons FOR EACH ROW IF {condition} THEN \
         SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 3819, MESSAGE_TEXT = 'refused by hand'; END IF"
    );
    world.sql.query(&trigger).await;
}

pub(crate) async fn accept_rows(world: &World) {
    world.sql.query("DROP TRIGGER by_hand").await;
}

/// Returns an operator's order to revoke a claim.
pub(crate) fn order(may_claim_again: bool) -> Value {
    json!({"reason": "fraud", "by": "Ann", "may_claim_again": may_claim_again})
}

/// Returns the findings about a coupon and its drop.
pub(crate) fn found_in<'run>(run: &'run Run, coupon: &MadeCoupon) -> Vec<&'run Finding> {
    let is_of_coupon = |finding: &&Finding| finding.coupon_id.is_some_and(|id| id.0 == coupon.id);
    let of_coupon = run.findings.iter().filter(is_of_coupon);
    let reports = run
        .drops
        .iter()
        .filter(|drop| drop.drop_id.0 == coupon.drop);
    of_coupon
        .chain(reports.flat_map(|report| &report.findings))
        .collect()
}

/// Runs a pass on the command line that must end with this exit code and status.
pub(crate) async fn pass_ends(world: &World, args: &[&str], ends: (i32, Status)) -> Run {
    let once = world.once_with(args, &[]).await;
    let run = once.run();
    assert_eq!((once.code, run.status), ends, "{run:#?}\n{}", once.log);
    run
}

pub(crate) const CLEAN: (i32, Status) = (0, Status::Clean);
pub(crate) const REPAIRED: (i32, Status) = (0, Status::Repaired);
pub(crate) const DRIFT: (i32, Status) = (1, Status::Drift);
pub(crate) const BRAKED: (i32, Status) = (1, Status::Braked);

/// Runs a deep pass that must examine the users and rows of this drop and find nothing.
pub(crate) async fn clean_pass(world: &World, coupon: &MadeCoupon) {
    clean_pass_of(world, &[coupon]).await;
}

/// Runs a deep pass that must examine the users and rows of these drops and find nothing.
pub(crate) async fn clean_pass_of(world: &World, coupons: &[&MadeCoupon]) {
    let run = pass_ends(world, &["--deep"], CLEAN).await;
    assert_eq!(run.all_findings().count(), 0, "{run:#?}");
    for coupon in coupons {
        let mut reports = run.drops.iter();
        let report = reports.find(|report| report.drop_id.0 == coupon.drop);
        let report = report.expect("the drop was examined");
        let is_examined = report.examined.users > 0 && report.examined.rows > 0;
        assert!(report.exact && is_examined, "{report:#?}");
    }
}

/// Runs a dry run that must find something and change nothing.
pub(crate) async fn dry_run(world: &World) -> Run {
    let before = everything(world).await;
    let run = pass_ends(world, &["--dry-run"], DRIFT).await;
    let after = everything(world).await;
    assert_eq!(before, after, "a dry run changed something");
    run
}

/// The data of the product, without the records about passes, processes and operators.
#[derive(Debug, PartialEq)]
pub(crate) struct Everything {
    redis: BTreeMap<String, (Vec<u8>, i64)>,
    mysql: BTreeMap<String, Vec<Vec<String>>>,
    kafka: BTreeMap<i32, i64>,
}

/// Reads keys with their types, values and times to live, the rows of all tables, and the end
/// offsets of the topic. The group's offsets may still follow the positions in MySQL.
pub(crate) async fn everything(world: &World) -> Everything {
    const OF_PASSES: [&str; 9] = [
        "reconcile_runs",
        "reconcile_findings",
        "levels",
        "told",
        "repairs",
        "outbox",
        "reconciler_state",
        "processes",
        "ops_actions",
    ];
    let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()";
    let tables = world.sql.query(tables).await.concat();
    let mut mysql = BTreeMap::new();
    for table in tables {
        if !OF_PASSES.contains(&&*table) {
            let mut rows = world.sql.query(&format!("SELECT * FROM `{table}`")).await;
            rows.sort();
            mysql.insert(table, rows);
        }
    }
    assert!(mysql.contains_key("issued_coupons"), "{:?}", mysql.keys());
    let mut redis = world.redis.dump().await;
    // The catalogue is a copy for APIs that start while MySQL is unavailable. The other keys are
    // written by each process to test whether Redis accepts writes.
    redis.retain(|name, _| !name.ends_with(":catalogue") && !name.contains(":writes:"));
    Everything {
        redis,
        mysql,
        kafka: world.topic.ends().await,
    }
}

/// Waits until no key with this prefix is left in Redis.
pub(crate) async fn until_expired(world: &World, prefix: &str) {
    eventually("the keys expire", LIMIT, async || {
        let names = world.redis.names().await;
        !names.iter().any(|name| name.starts_with(prefix))
    })
    .await;
}

/// Checks that Redis and MySQL agree on `held` users, the counts add up, no slot exceeds the
/// quantity, nobody waits while a slot is free, and every user with a row is a claimant (if the
/// coupon has claimants).
pub(crate) async fn assert_whole(world: &World, coupon: &MadeCoupon, quantity: u32, held: usize) {
    let rows = agreed(&world.sql, &world.redis, coupon).await.unwrap();
    assert_eq!(rows.len(), held, "rows: {rows:?}");
    assert!(rows.keys().all(|slot| *slot <= quantity), "{rows:?}");
    let waiting = world.redis.of_drop(coupon.id, coupon.drop, "waiting");
    let waiting: u32 = world.redis.command(&["ZCARD", &waiting]).await;
    let is_full = rows.len() == quantity as usize;
    assert!(waiting == 0 || is_full, "{waiting} users wait");
    if coupon.body["once_per"] == "coupon" {
        let claimants = ["HGETALL", &world.redis.of_coupon(coupon.id, "claimants")];
        let claimants: BTreeMap<String, String> = world.redis.command(&claimants).await;
        for (slot, user) in &rows {
            let held = format!("{}:{slot}", coupon.drop);
            assert_eq!(claimants.get(user), Some(&held), "{user} as a claimant");
        }
    }
}

/// Checks that the drop is whole, and that every promise has its row on its slot.
pub(crate) async fn assert_settled(world: &World, coupon: &MadeCoupon, quantity: u32, held: usize) {
    assert_whole(world, coupon, quantity, held).await;
    assert_kept(world, coupon, &[]).await;
}

/// A mail as its recipient reads it.
#[derive(Debug)]
pub(crate) struct ReadMail {
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) html: String,
}

pub(crate) fn read(mail: &firstcome_stack::Mail) -> ReadMail {
    let parsed = MessageParser::default().parse(&mail.raw).expect("a mail");
    ReadMail {
        subject: parsed.subject().unwrap_or_default().to_owned(),
        text: parsed.body_text(0).unwrap_or_default().into_owned(),
        html: parsed.body_html(0).unwrap_or_default().into_owned(),
    }
}

/// Returns the subjects of all mails.
pub(crate) fn subjects(world: &World) -> Vec<String> {
    let mails = world.mail.mails();
    mails.iter().map(|mail| read(mail).subject).collect()
}

/// Waits for the mail whose subject contains all of these words.
pub(crate) async fn mailed(world: &World, words: &[&str]) -> ReadMail {
    let fits = |subject: &str| words.iter().all(|word| subject.contains(word));
    let found = world.mail.wait_for(|mail| fits(&read(mail).subject), LIMIT);
    match found.await {
        Ok(mail) => read(&mail),
        Err(error) => {
            panic!("{words:?}: {error}; subjects: {:#?}", subjects(world));
        }
    }
}

pub(crate) async fn is_sealed(world: &World, coupon: &MadeCoupon) -> bool {
    let sealed = "SELECT sealed_at IS NOT NULL FROM drops WHERE id";
    let sealed = format!("{sealed} = {}", coupon.drop);
    world.sql.number(&sealed).await == 1
}

/// The longest time that a claim may be in flight, as an interval of MySQL.
pub(crate) const IN_FLIGHT: &str = "INTERVAL \
    (SELECT COALESCE(MAX(publish_deadline_ms + fallback_deadline_ms), 0) * 1000 FROM processes) \
    MICROSECOND";

/// Waits until the drop has been closed for as long as a claim may be in flight, because no pass
/// seals it earlier.
pub(crate) async fn until_over(world: &World, coupon: &MadeCoupon) {
    let over = format!(
        "SELECT COUNT(*) FROM drops WHERE id = {} AND closes_at + {IN_FLIGHT} < UTC_TIMESTAMP(3)",
        coupon.drop
    );
    eventually("no claim is in flight", LIMIT, async || {
        world.sql.number(&over).await == 1
    })
    .await;
}

/// Runs passes, which may have findings, from when the drop is over until it is sealed.
pub(crate) async fn until_sealed(world: &World, coupon: &MadeCoupon) {
    until_over(world, coupon).await;
    eventually("the drop is sealed", LIMIT, async || {
        let once = world.once_with(&[], &[]).await;
        assert_ne!(once.code, 2, "{}", once.log);
        is_sealed(world, coupon).await
    })
    .await;
}

/// Returns the history of a user from the command line, as JSON.
pub(crate) async fn explained(world: &World, coupon: &MadeCoupon, user: &str) -> Value {
    let coupon = coupon.id.to_string();
    let args = ["explain", "--json", "--coupon", &coupon, "--user", user];
    let cli = world.start("firstcome-reconciler", &args, &[]);
    assert_eq!(cli.ended(LIMIT).await, 0, "{}", cli.log());
    serde_json::from_str(&cli.all_stdout().await).unwrap()
}
