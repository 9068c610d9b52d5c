//! A night on duty, read from mails alone: each store and the mail server away, alone and in pairs,
//! a plan that waits for a confirmation, a broken promise, a consumer that comes and goes, rolling
//! updates. Two daemons mail each problem once, and its end once; while MySQL is away, each daemon
//! mails. The commands of the mails are run as they stand there. All mails stay in a file, whose
//! path is printed.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::path::PathBuf;

use firstcome_harness::{ApiClient, OperatorsShell, Running};
use firstcome_stack::{KafkaOptions, KafkaServer};

use crate::drift::support::{ReadMail, read};
use crate::prelude::*;

const WITHIN: Duration = Duration::from_secs(180);

/// Nothing more may come: an hour of silence would prove more than this.
const SILENCE: Duration = Duration::from_secs(20);

const DAEMONS: usize = 2;

/// What the person on duty has: the mails, and a shell.
struct Duty<'a> {
    world: &'a World,
    shell: OperatorsShell,
    all: PathBuf,
    /// The number of mails that were read.
    seen: Cell<usize>,
    /// What was told wrongly so far: a night goes on.
    wrong: RefCell<Vec<String>>,
}

impl<'a> Duty<'a> {
    async fn of(world: &'a World) -> Self {
        let mut shell = OperatorsShell::of(world).await;
        shell.set("USER", "Kim");
        let all = std::env::temp_dir().join(format!("{}-mails.txt", world.database()));
        eprintln!("the mails are in {}", all.display());
        Self {
            world,
            shell,
            all,
            seen: Cell::new(0),
            wrong: RefCell::default(),
        }
    }

    /// Returns the mails that were not read yet.
    fn unread(&self) -> Vec<ReadMail> {
        let mails = self.world.mail.mails();
        mails.iter().skip(self.seen.get()).map(read).collect()
    }

    fn note(&self, text: &str) {
        let mut kept = std::fs::read_to_string(&self.all).unwrap_or_default();
        writeln!(kept, "{text}").unwrap();
        std::fs::write(&self.all, kept).unwrap();
    }

    /// Waits until the unread mails tell what is expected: words of the subject or of a title, and
    /// how often. Each mail must be about one of them.
    async fn told(&self, scene: &str, expected: &[(&str, usize)]) -> Vec<ReadMail> {
        let is_told = |mails: &[ReadMail]| {
            expected.iter().all(|(words, times)| {
                mails.iter().filter(|mail| tells(mail, words)).count() == *times
            })
        };
        let come = tokio::time::timeout(WITHIN, async {
            while !is_told(&self.unread()) {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let has_come = come.await.is_ok();
        let mails = self.unread();
        self.seen.set(self.seen.get() + mails.len());
        self.note(&format!("######## {scene}: {expected:?}"));
        for mail in &mails {
            self.note(&format!("==== {}\n{}", mail.subject, mail.text));
            self.follow_links(mail).await;
        }
        let subjects: Vec<&str> = mails.iter().map(|mail| mail.subject.as_str()).collect();
        eprintln!("{scene}: {subjects:#?}");
        // Repairs are told at any time.
        let is_expected = |mail: &ReadMail| {
            !expected.is_empty() && tells(mail, "repaired: ")
                || expected.iter().any(|(words, _)| tells(mail, words))
        };
        if !has_come || !mails.iter().all(is_expected) {
            let wrong = format!("{scene}: {subjects:#?} instead of {expected:?}");
            self.wrong.borrow_mut().push(wrong);
        }
        mails
    }

    /// Each link of a mail leads to a page.
    async fn follow_links(&self, mail: &ReadMail) {
        let links = mail.text.lines().filter_map(|line| {
            let at = line.find("http://")?;
            line.contains(", in a browser: ").then(|| &line[at..])
        });
        for link in links {
            let ask = format!("curl -sS -o /dev/null -w '%{{http_code}}' '{link}'");
            let status = self.shell.run(&ask).await;
            self.note(&format!("---- {link}: {status}"));
            assert!(status.starts_with(['2', '3']), "{link}: {status}");
        }
    }

    /// Runs the command of a mail under this label, with a word of it replaced.
    async fn obey(&self, mail: &ReadMail, label: &str, [word, by]: [&str; 2]) -> String {
        let lines = mail.text.lines().skip_while(|line| {
            let line = line.trim_end_matches(':');
            !line.starts_with(label)
        });
        let command: Vec<&str> = lines
            .skip_while(|line| !line.starts_with("    "))
            .map_while(|line| line.strip_prefix("    "))
            .collect();
        assert!(!command.is_empty(), "{label}: {}", mail.text);
        let command = command.join("\n").replace(word, by);
        // A pass that leaves something ends with 1.
        let said = self.shell.run(&format!("{command} || [ $? = 1 ]")).await;
        self.note(&format!("---- $ {command}\n{said}"));
        said
    }

    /// Acknowledges what a mail is about.
    async fn acknowledge(&self, mail: &ReadMail) {
        let said = self
            .obey(mail, "Acknowledge: no more mails", ["", ""])
            .await;
        assert!(said.contains("\"Kim\""), "{said}");
    }

    async fn is_silent(&self, scene: &str) {
        tokio::time::sleep(SILENCE).await;
        self.told(&format!("{scene}, then silence"), &[]).await;
    }

    /// Ends a scene: nothing comes any more. The next one is five hours later.
    async fn end(&self, scene: &str) {
        self.is_silent(scene).await;
        let open = "SELECT COUNT(*) FROM told WHERE ended_at IS NULL AND told_at IS NOT NULL \
            AND kind <> 'repaired'";
        if self.world.sql.number(open).await > 0 {
            self.wrong.borrow_mut().push(format!("{scene}: not over"));
        }
        let ago = |column| format!("{column} = {column} - INTERVAL 5 HOUR");
        let times = ["began_at", "waits_from", "gone_at", "told_at", "ended_at"].map(ago);
        for sql in [
            format!("UPDATE told SET {}", times.join(", ")),
            format!("UPDATE repairs SET {}", ago("repaired_at")),
            "UPDATE reconciler_state SET value = JSON_SET(value, '$.mails', JSON_ARRAY(), \
                '$.version', CAST(value->'$.version' AS UNSIGNED) + 1000) \
                WHERE name = 'notify.drop'"
                .to_owned(),
        ] {
            self.world.sql.query(&sql).await;
        }
    }
}

/// Whether a mail tells this: the kind of mail, and words of its subject or of a title. The words of
/// an end may also be in its list.
fn tells(mail: &ReadMail, words: &str) -> bool {
    let (kind, words) = words.split_once(": ").unwrap();
    let text = mail.text.split_whitespace().collect::<Vec<_>>().join(" ");
    mail.subject.contains(&format!("[firstcome] {kind}: "))
        && (mail.subject.contains(words)
            || text.contains(&format!("== {words}"))
            || kind == "resolved" && text.contains(words))
}

async fn set(proxies: &[&FaultProxy], fault: ProxyFault) {
    for proxy in proxies {
        proxy.set(fault).await.unwrap();
    }
}

async fn claim(api: &ApiClient, coupon: &MadeCoupon, from: usize, to: usize) {
    rush_until_answered(&[api], coupon.id, &people(to)[from..], 10).await;
}

const REDIS: &str = "action needed: Redis ";
const KAFKA: &str = "action needed: Kafka ";
const MYSQL: &str = "action needed: MySQL ";
const REDIS_OVER: &str = "resolved: outage of Redis";
const KAFKA_OVER: &str = "resolved: outage of Kafka";
const MYSQL_OVER: &str = "resolved: outage of MySQL";

/// A system of two daemons, an API and a consumer, with each store behind a proxy.
struct Night {
    f: Fixture,
    daemons: Vec<Running<ReconcilerClient>>,
    to_redis: FaultProxy,
    to_kafka: FaultProxy,
    to_mysql: FaultProxy,
    to_mail: FaultProxy,
    _servers: (RedisServer, KafkaServer),
}

impl Night {
    async fn begin(patience: &str) -> Self {
        let stack = Stack::shared().await.unwrap();
        let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
        let (kafka, to_kafka) = KafkaServer::start_behind_proxy(KafkaOptions::default())
            .await
            .unwrap();
        let stores = WorldStores::shared()
            .await
            .with_redis(&redis)
            .with_kafka(&kafka);
        let world = World::on(stores, "night").await;
        let to_redis = redis.proxy().await.unwrap();
        let to_mysql = stack.mysql.proxy().await.unwrap();
        let to_mail = FaultProxy::start(world.mail.port()).await.unwrap();
        let mysql = stack.mysql.database_url_via(&to_mysql, world.database());
        for (name, value) in [
            ("REDIS_URL", redis.url_via(&to_redis).as_str()),
            ("DATABASE_URL", &mysql),
            ("SMTP_URL", &format!("smtp://127.0.0.1:{}", to_mail.port())),
            ("FIRSTCOME_TEST_ALERT_PATIENCE_SECONDS", patience),
            ("FIRSTCOME_TEST_JOBS_SECONDS", "5"),
            ("FIRSTCOME_TEST_RECONCILE_BRAKE_AT_LEAST", "5"),
            ("RECONCILE_CRON", "*/5 * * * * *"),
            ("STORE_TIMEOUT_MS", "1000"),
        ] {
            world.set(name, value);
        }
        let f = Fixture::of(world).await;
        let daemons = vec![f.world.daemon().await, f.world.daemon().await];
        Self {
            f,
            daemons,
            to_redis,
            to_kafka,
            to_mysql,
            to_mail,
            _servers: (redis, kafka),
        }
    }
}

#[tokio::test]
#[ignore = "takes a quarter of an hour"]
async fn outages_of_a_night_are_told_truly_once_and_ended_once() {
    let mut night = Night::begin("5").await;
    let duty = Duty::of(&night.f.world).await;
    night.f.held("Night", 25, 15).await;
    let stores = [&night.to_redis, &night.to_kafka, &night.to_mysql];
    stores_away(&duty, stores).await;
    mail_server_away(&duty, &night.to_mail, stores).await;
    rolling_update(&duty, &mut night.daemons, &night.to_redis).await;
    assert_eq!(duty.wrong.take(), [""; 0]);
}

#[tokio::test]
#[ignore = "takes ten minutes"]
async fn drift_and_standstills_of_a_night_are_told_truly_once_and_ended_once() {
    // A slot that is left goes to who is owed one within seconds.
    let night = Night::begin("15").await;
    let duty = Duty::of(&night.f.world).await;
    held_back_plan(&duty, &night.f).await;
    broken_promise(&duty, &night.f).await;
    flapping_consumer(&duty, &night.f).await;
    assert_eq!(duty.wrong.take(), [""; 0]);
}

/// Each store alone, then in pairs.
async fn stores_away(duty: &Duty<'_>, [redis, kafka, mysql]: [&FaultProxy; 3]) {
    for (scene, away, begins, ends) in [
        ("Redis", vec![redis], vec![(REDIS, 1)], vec![REDIS_OVER]),
        ("Kafka", vec![kafka], vec![(KAFKA, 1)], vec![KAFKA_OVER]),
        // Each daemon mails directly.
        (
            "MySQL",
            vec![mysql],
            vec![(MYSQL, DAEMONS)],
            vec![MYSQL_OVER],
        ),
        (
            "Redis and Kafka",
            vec![redis, kafka],
            vec![(REDIS, 1), (KAFKA, 1)],
            vec![REDIS_OVER, KAFKA_OVER],
        ),
        (
            "Redis and MySQL",
            vec![redis, mysql],
            vec![(REDIS, DAEMONS), (MYSQL, DAEMONS)],
            vec![REDIS_OVER, MYSQL_OVER],
        ),
        // Without MySQL nobody tells of Kafka.
        (
            "Kafka and MySQL",
            vec![kafka, mysql],
            vec![(MYSQL, DAEMONS)],
            vec![MYSQL_OVER],
        ),
    ] {
        set(&away, ProxyFault::Cut).await;
        let mails = duty.told(scene, &begins).await;
        if begins.iter().all(|(_, times)| *times == 1) {
            duty.acknowledge(&mails[0]).await;
        }
        set(&away, ProxyFault::Pass).await;
        let ends: Vec<(&str, usize)> = ends.into_iter().map(|end| (end, 1)).collect();
        duty.told(&format!("{scene}, back"), &ends).await;
        duty.end(scene).await;
    }
}

/// The mail server alone, and with each store: the mails come later, in order.
async fn mail_server_away(
    duty: &Duty<'_>,
    mail: &FaultProxy,
    [redis, kafka, mysql]: [&FaultProxy; 3],
) {
    let world = duty.world;
    let retry = "UPDATE outbox SET next_attempt_at = UTC_TIMESTAMP(3) WHERE sent_at IS NULL";
    set(&[mail], ProxyFault::Cut).await;
    duty.is_silent("mail server").await;
    set(&[mail], ProxyFault::Pass).await;
    duty.end("mail server").await;

    // The store is back first.
    set(&[mail, kafka], ProxyFault::Cut).await;
    let told = |name: &str, is_over: &str| {
        format!(
            "SELECT COUNT(*) FROM told WHERE name = '{name}' AND told_at IS NOT NULL AND ended_at IS {is_over} AND began_at > UTC_TIMESTAMP(3) - INTERVAL 1 HOUR"
        )
    };
    let is_told = told("kafka", "NULL");
    eventually("it is told", WITHIN, async || {
        world.sql.number(&is_told).await == 1
    })
    .await;
    set(&[kafka], ProxyFault::Pass).await;
    let is_over = told("kafka", "NOT NULL");
    eventually("it is over", WITHIN, async || {
        world.sql.number(&is_over).await == 1
    })
    .await;
    duty.told("mail server and Kafka", &[]).await;
    set(&[mail], ProxyFault::Pass).await;
    world.sql.query(retry).await;
    let mails = duty
        .told("mail server after Kafka", &[(KAFKA, 1), (KAFKA_OVER, 1)])
        .await;
    assert!(tells(&mails[0], KAFKA), "in order");
    duty.end("mail server and Kafka").await;

    // The mail server is back first.
    set(&[mail, redis], ProxyFault::Cut).await;
    let is_told = told("redis", "NULL");
    eventually("it is told", WITHIN, async || {
        world.sql.number(&is_told).await == 1
    })
    .await;
    set(&[mail], ProxyFault::Pass).await;
    world.sql.query(retry).await;
    duty.told("mail server before Redis", &[(REDIS, 1)]).await;
    set(&[redis], ProxyFault::Pass).await;
    duty.told("Redis, back", &[(REDIS_OVER, 1)]).await;
    duty.end("mail server and Redis").await;

    // Without MySQL each daemon tries again after a minute.
    set(&[mail, mysql], ProxyFault::Cut).await;
    duty.is_silent("mail server and MySQL").await;
    set(&[mail], ProxyFault::Pass).await;
    duty.told("mail server before MySQL", &[(MYSQL, DAEMONS)])
        .await;
    set(&[mysql], ProxyFault::Pass).await;
    duty.told("MySQL, back", &[(MYSQL_OVER, 1)]).await;
    duty.end("mail server and MySQL").await;
}

/// One in calm tells nothing, one in an outage nothing twice.
async fn rolling_update(
    duty: &Duty<'_>,
    daemons: &mut Vec<Running<ReconcilerClient>>,
    redis: &FaultProxy,
) {
    let world = duty.world;
    for daemon in &mut *daemons {
        let old = std::mem::replace(daemon, world.daemon().await);
        assert_eq!(old.process.stop().await, 0);
    }
    duty.end("update").await;
    set(&[redis], ProxyFault::Cut).await;
    duty.told("update in an outage", &[(REDIS, 1)]).await;
    for daemon in daemons.drain(..) {
        assert_eq!(daemon.process.stop().await, 0);
    }
    set(&[redis], ProxyFault::Pass).await;
    daemons.extend([world.daemon().await, world.daemon().await]);
    duty.told("updated", &[(REDIS_OVER, 1)]).await;
    duty.end("update in an outage").await;
}

async fn held_back_plan(duty: &Duty<'_>, f: &Fixture) {
    let (coupon, _) = f.held("Night", 25, 15).await;
    inject(duty.world, &coupon, Drift::SlotConflict, 6).await;
    let plan = "action needed: 6 users would lose their slot";
    let mails = duty.told("plan", &[(plan, 1)]).await;
    duty.is_silent("plan").await;
    let list = "List the repairs, with their fingerprint";
    let listed = duty.obey(&mails[0], list, ["", ""]).await;
    let (_, rest) = listed.split_once("--confirm ").unwrap();
    let fingerprint = rest.split_whitespace().next().unwrap();
    let is_clean = |c: char| c.is_ascii_alphanumeric();
    let fingerprint: String = fingerprint.chars().take_while(|c| is_clean(*c)).collect();
    duty.obey(
        &mails[0],
        "Confirm exactly these",
        ["FINGERPRINT", &fingerprint],
    )
    .await;
    let over = "resolved: 6 users would lose their slot";
    duty.told("plan, confirmed", &[(over, 1)]).await;
    duty.end("plan").await;
}

async fn broken_promise(duty: &Duty<'_>, f: &Fixture) {
    let (coupon, _) = f.held("Promise", 5, 5).await;
    inject(duty.world, &coupon, Drift::FailedSlotTaken, 2).await;
    let broken = "action needed: 2 broken promises";
    let mails = duty.told("promise", &[(broken, 1)]).await;
    duty.acknowledge(&mails[0]).await;
    duty.is_silent("promise").await;
    let raise = "While the drop is open, give each of them a slot";
    duty.obey(&mails[0], raise, ["", ""]).await;
    duty.obey(&mails[0], "Then", ["", ""]).await;
    duty.told("promise, kept", &[("resolved: 2 broken promises", 1)])
        .await;
    duty.end("promise").await;
}

/// Restarts tell nothing. One that reads nothing for a minute, twice, is told and ended twice.
async fn flapping_consumer(duty: &Duty<'_>, f: &Fixture) {
    let world = duty.world;
    let coupon = f.api.create_coupon(&coupon_body("Flapping", 40, 0)).await;
    f.consumer.process.kill().await;
    for round in 0..4 {
        claim(&f.api, &coupon, 2 * round, 2 * round + 2).await;
        world.consume().await.process.kill().await;
    }
    let mut consumer = world.consume().await;
    duty.is_silent("consumer restarts").await;
    for round in 4..6 {
        consumer.process.kill().await;
        claim(&f.api, &coupon, 2 * round, 2 * round + 2).await;
        let stands = "action needed: : 2 messages are unread";
        duty.told("consumer stands", &[(stands, 1)]).await;
        consumer = world.consume().await;
        let over = "resolved: standstill of consumers";
        duty.told("consumer, back", &[(over, 1)]).await;
    }
    duty.end("consumer").await;
}
