//! Shared helpers of the drift tests: injected drift, a dump of all stores, expected findings, slow
//! passes and mails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use firstcome_reconciler::report::{DropReport, Kind, Outcome, Run, Status};
use firstcome_stack::{FaultProxy, MysqlServer, ProxyFault};
use firstcome_testkit::drift::{Drift, DriftStoreArgs, Injected, Injector};
use firstcome_testkit::{
    LIMIT, MadeCoupon, PromisedAnswer, ReconcilerClient, Running, World, assert_clean, assert_kept,
    eventually, eventually_some, redis_holders, rows, shared, status_of,
};
use mail_parser::MessageParser;
use serde_json::{Value, json};

/// Longest wait for a mail.
const MAILED: Duration = Duration::from_secs(20);

/// Injects drift into a drop.
pub(crate) async fn injector(world: &World, coupon: &MadeCoupon) -> Injector {
    let stores = DriftStoreArgs::of(|name| world.find_setting(name)).unwrap();
    Injector::new(&stores, Some(coupon.id), Some(coupon.drop))
        .await
        .unwrap()
}

/// Injects one kind of drift `n` times into a drop.
pub(crate) async fn inject(world: &World, coupon: &MadeCoupon, drift: Drift, n: u32) -> Injected {
    let mut injector = injector(world, coupon).await;
    injector.make(drift, n).await.unwrap()
}

/// Deletes the rows of a drop on these slots.
pub(crate) async fn lose_rows(world: &World, coupon: &MadeCoupon, slots: &str) {
    let delete = "DELETE FROM issued_coupons WHERE drop_id";
    let delete = format!("{delete} = {} AND slot {slots}", coupon.drop);
    world.sql.query(&delete).await;
}

/// All data of the product, except the records that passes write about themselves.
#[derive(Debug, PartialEq)]
pub(crate) struct Everything {
    redis: BTreeMap<String, (Vec<u8>, i64)>,
    mysql: BTreeMap<String, Vec<Vec<String>>>,
    kafka: Vec<(i64, i64)>,
}

/// Reads keys with their types, values and times to live, the rows of all tables, the group's
/// offsets and the end offsets of the topic.
pub(crate) async fn everything(world: &World) -> Everything {
    const OF_PASSES: [&str; 8] = [
        "reconcile_runs",
        "reconcile_findings",
        "held_back",
        "alerts",
        "mail_outbox",
        "reconciler_state",
        "processes",
        "ops_actions",
    ];
    let tables = world
        .sql
        .query("SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()")
        .await;
    let mut mysql = BTreeMap::new();
    for table in tables
        .into_iter()
        .flatten()
        .filter(|table| !OF_PASSES.contains(&table.as_str()))
    {
        let mut rows = world.sql.query(&format!("SELECT * FROM `{table}`")).await;
        rows.sort();
        mysql.insert(table, rows);
    }
    assert!(
        mysql.contains_key("issued_coupons") && mysql.contains_key("failed_claims"),
        "{:?}",
        mysql.keys()
    );
    Everything {
        redis: world.redis.dump().await,
        mysql,
        kafka: world.topic.offsets().await,
    }
}

/// A finding, identified by its subject.
pub(crate) type FoundDrift = (Kind, Option<i64>, Option<String>);

pub(crate) fn found(run: &Run) -> BTreeMap<FoundDrift, Outcome> {
    run.all_findings()
        .map(|f| ((f.kind, f.slot, f.user_id.clone()), f.result))
        .collect()
}

/// Returns the expected findings of injected drift: each user by name, or the drop as a whole.
pub(crate) fn expected(kind: Kind, done: &Injected) -> BTreeSet<FoundDrift> {
    if done.people.is_empty() {
        return [(kind, None, None)].into();
    }
    done.people
        .iter()
        .map(|hit| (kind, Some(hit.slot), Some(hit.user.clone())))
        .collect()
}

/// Fails unless the run found exactly these findings.
pub(crate) fn assert_found(run: &Run, expected: &BTreeSet<FoundDrift>) {
    let found = found(run).into_keys().collect();
    assert_eq!(expected, &found, "{run:#?}");
}

/// Returns the findings of a run in one drop.
pub(crate) fn found_in(run: &Run, drop: i64) -> BTreeSet<FoundDrift> {
    report(run, drop)
        .findings
        .iter()
        .map(|f| (f.kind, f.slot, f.user_id.clone()))
        .collect()
}

/// Runs a dry run on the command line that must find something and change nothing.
pub(crate) async fn dry_run(world: &World) -> Run {
    let before = everything(world).await;
    let dry = world.once_with(&["--dry-run"], &[]).await;
    let after = everything(world).await;
    assert_eq!(before, after, "a dry run changed something");
    assert_eq!(dry.code, 1, "{}", dry.log);
    let run = dry.run();
    assert!(
        run.dry_run
            && run
                .all_findings()
                .all(|f| matches!(f.result, Outcome::Planned | Outcome::Skipped)),
        "{run:#?}"
    );
    run
}

/// Runs a dry run that must list exactly these findings.
pub(crate) async fn dry_run_lists(world: &World, expected: &BTreeSet<FoundDrift>) -> Run {
    let run = dry_run(world).await;
    assert_found(&run, expected);
    run
}

/// Runs a pass on the command line that must examine the users and rows of this drop and find
/// nothing.
pub(crate) async fn clean_pass(world: &World, coupon: &MadeCoupon) {
    let once = world.once_with(&[], &[]).await;
    assert_eq!(once.code, 0, "{}", once.log);
    assert_clean(&once.run(), coupon);
}

/// Runs a pass on the command line that must end with this exit code and status.
pub(crate) async fn pass_ends(world: &World, args: &[&str], ends: (i32, Status)) -> Run {
    let once = world.once_with(args, &[]).await;
    let run = once.run();
    assert_eq!((once.code, run.status), ends, "{run:#?}\n{}", once.log);
    run
}

/// Waits until no key with this prefix is left in Redis.
pub(crate) async fn until_expired(world: &World, prefix: &str) {
    eventually("the keys expire", LIMIT, async || {
        let names = world.redis.names().await;
        !names.iter().any(|name| name.starts_with(prefix))
    })
    .await;
}

/// Returns the run's report about a drop.
pub(crate) fn report(run: &Run, drop: i64) -> &DropReport {
    run.drops
        .iter()
        .find(|report| report.drop_id.0 == drop)
        .expect("the drop was examined")
}

/// Checks that Redis and MySQL agree on every user, the counts add up, nobody waits while a slot is
/// free, and no data is left over.
pub(crate) async fn assert_whole(world: &World, coupon: &MadeCoupon, quantity: u32, held: usize) {
    let rows = rows(world, coupon.drop).await;
    assert_eq!(rows.len(), held, "rows: {rows:?}");
    assert!(
        rows.keys().all(|slot| (1..=quantity).contains(slot)),
        "{rows:?}"
    );
    assert_eq!(
        rows.values().collect::<BTreeSet<_>>().len(),
        rows.len(),
        "somebody has two rows"
    );
    assert_eq!(
        redis_holders(world, coupon).await,
        rows,
        "Redis and MySQL differ"
    );
    let key = |name: &str| world.redis.of_drop(coupon.id, coupon.drop, name);
    let count: i64 = world.redis.command(&["GET", &key("count")]).await;
    let free: Vec<i64> = world
        .redis
        .command(&["ZRANGE", &key("free"), "0", "-1"])
        .await;
    assert_eq!(
        count,
        i64::try_from(rows.len() + free.len()).unwrap(),
        "count; free are {free:?}"
    );
    assert!(free.iter().all(|slot| *slot >= 1
        && *slot <= count
        && !rows.contains_key(&u32::try_from(*slot).unwrap())));
    let waiting: u32 = world.redis.command(&["ZCARD", &key("waiting")]).await;
    assert!(
        waiting == 0 || rows.len() == quantity as usize,
        "{waiting} people wait while slots are left"
    );
    if coupon.body["once_per"] == "coupon" {
        let claimants: BTreeMap<String, String> = world
            .redis
            .command(&["HGETALL", &world.redis.claimants(coupon.id)])
            .await;
        for (slot, user) in &rows {
            assert_eq!(
                claimants.get(user),
                Some(&format!("{}:{slot}", coupon.drop)),
                "{user} among the claimants"
            );
        }
    }
}

/// Checks that the drop is whole, and that every promise has its row on its slot.
pub(crate) async fn assert_settled(
    world: &World,
    coupon: &MadeCoupon,
    quantity: u32,
    held: usize,
    answers: &[PromisedAnswer],
) {
    assert_whole(world, coupon, quantity, held).await;
    assert_kept(world, coupon, answers, &[]).await;
}

/// A mail as its recipient reads it.
#[derive(Debug)]
pub(crate) struct ReadMail {
    pub(crate) subject: String,
    pub(crate) text: String,
    pub(crate) html: String,
}

fn read(mail: &firstcome_stack::Mail) -> ReadMail {
    let parsed = MessageParser::default().parse(&mail.raw).expect("a mail");
    ReadMail {
        subject: parsed.subject().unwrap_or_default().to_owned(),
        text: parsed.body_text(0).unwrap_or_default().into_owned(),
        html: parsed.body_html(0).unwrap_or_default().into_owned(),
    }
}

/// Waits for the mail whose subject contains all of these words.
pub(crate) async fn mailed(world: &World, words: &[&str]) -> ReadMail {
    mailed_within(world, words, MAILED).await
}

/// Like [`mailed`], with a different time limit.
pub(crate) async fn mailed_within(world: &World, words: &[&str], limit: Duration) -> ReadMail {
    let fits =
        |mail: &firstcome_stack::Mail| words.iter().all(|word| read(mail).subject.contains(word));
    match world.mail.wait_for(fits, limit).await {
        Ok(mail) => read(&mail),
        Err(error) => panic!("{words:?}: {error}; subjects: {:#?}", subjects(world)),
    }
}

pub(crate) fn subjects(world: &World) -> Vec<String> {
    world
        .mail
        .mails()
        .iter()
        .map(|mail| read(mail).subject)
        .collect()
}

/// Runs passes, which may have findings, until the drop is sealed.
pub(crate) async fn passes_until_sealed(world: &World, coupon: &MadeCoupon) {
    let sealed = format!(
        "SELECT sealed_at IS NOT NULL FROM drops WHERE id = {}",
        coupon.drop
    );
    eventually("the drop is sealed", LIMIT, async || {
        let once = world.once_with(&[], &[]).await;
        assert_ne!(once.code, 2, "{}", once.log);
        world.sql.number(&sealed).await == 1
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

/// Backdates the last pass of a schedule by two hours.
pub(crate) async fn ran_two_hours_ago(world: &World, schedule: &str) {
    let ago = "DATE_FORMAT(UTC_TIMESTAMP() - INTERVAL 2 HOUR, '%Y-%m-%dT%H:%i:%s+00:00')";
    let statement =
        format!("UPDATE reconciler_state SET value = {ago} WHERE name = 'last_run:{schedule}'");
    world.sql.query(&statement).await;
}

/// Runs a pass that must have exactly these findings and repair them all.
pub(crate) async fn pass_repairs(world: &World, expected: &BTreeSet<FoundDrift>) -> Run {
    let run = pass_ends(world, &[], (0, Status::Repaired)).await;
    assert_found(&run, expected);
    assert!(
        run.all_findings()
            .all(|f| f.result == Outcome::Applied && !f.needs_person),
        "{run:#?}"
    );
    run
}

/// A daemon whose connection to MySQL can be slowed or cut, and whose passes take many small steps.
pub(crate) struct Hindered {
    pub(crate) proxy: FaultProxy,
    pub(crate) daemon: Running<ReconcilerClient>,
}

impl Hindered {
    pub(crate) async fn start(world: &World, env: &[(&str, &str)]) -> Self {
        let mysql = &shared().await.mysql;
        let hindered = Self::over(world, mysql, mysql.proxy().await.unwrap(), env).await;
        // Waits for the end of its first pass.
        hindered.daemon.reconcile(&json!({})).await;
        hindered
    }

    /// Starts the daemon with a different MySQL.
    pub(crate) async fn over(
        world: &World,
        mysql: &MysqlServer,
        proxy: FaultProxy,
        env: &[(&str, &str)],
    ) -> Self {
        let url = mysql.database_url_via(&proxy, world.database());
        let mut all = vec![
            ("DATABASE_URL", url.as_str()),
            ("FIRSTCOME_TEST_RECONCILE_PAGE_SLOTS", "10"),
        ];
        all.extend(env);
        let daemon = world.daemon_with(&all).await;
        Self { proxy, daemon }
    }

    /// Begins a pass that takes seconds, and waits until it is running. Returns its ID.
    pub(crate) async fn begin_slow_pass(&self, world: &World) -> String {
        self.proxy
            .set(ProxyFault::Delay(Duration::from_millis(40)))
            .await
            .unwrap();
        // The request is refused while a scheduled pass is running.
        let reply = eventually_some("the pass is accepted", LIMIT, async || {
            let reply = self.daemon.ask(&json!({"wait": false})).await;
            if reply.status == 202 {
                Ok(reply)
            } else {
                Err(reply.text)
            }
        })
        .await;
        let id = reply.body["run_id"].as_str().unwrap().to_owned();
        assert_eq!(reply.location(), Some(format!("/v1/runs/{id}").as_str()));
        eventually("the pass is running", LIMIT, async || {
            status_of(world, &id).await.as_deref() == Some("running")
        })
        .await;
        id
    }
}
