//! The environment of a notifier: a separate database in a real MySQL, a real mail server, and a
//! clock that tests set.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use firstcome_notifier::{Clock, Notifier, NotifyArgs, WatchedSchedule, WebhookArgs};
use firstcome_shared::mysql::processes::{DAEMON, ProcessRow};
use firstcome_shared::mysql::runs::RunRow;
use firstcome_shared::mysql::stored_run::FindingRow;
use firstcome_shared::mysql::{Db, DbSettings, migrations};
use firstcome_shared::process_state::ProcessState;
use firstcome_shared::report::{DropReport, Finding, Judged, Outcome, Run, Stored};
use firstcome_shared::schema::{reconcile_findings, reconcile_runs};
use firstcome_stack::{
    Mail, MailOptions, MailSink, MysqlServer, SinkEncryption, StackOptions, Tables, eventually,
};
use mail_parser::{Message, MessageParser};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::world::{at, judged};

pub(crate) const A: &str = "a@example.org";
pub(crate) const B: &str = "b@example.org";

/// Maximum wait for anything in these tests.
pub(crate) const SOON: Duration = Duration::from_secs(60);

static MYSQL: OnceCell<MysqlServer> = OnceCell::const_new();
static TABLES: Tables = Tables::new();
static DATABASES: AtomicU32 = AtomicU32::new(1);

pub(crate) async fn mysql() -> &'static MysqlServer {
    MYSQL
        .get_or_init(async || {
            MysqlServer::start(StackOptions::without_fsync().mysql)
                .await
                .unwrap()
        })
        .await
}

/// A clock that only a test advances.
#[derive(Debug, Default)]
pub(crate) struct TestClock(AtomicI64);

impl TestClock {
    pub(crate) fn turn(&self, by: TimeDelta) -> DateTime<Utc> {
        self.0.fetch_add(by.num_seconds(), Ordering::SeqCst);
        self.now()
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        at(self.0.load(Ordering::SeqCst))
    }
}

impl Clock for TestClock {
    fn set_by_test(&self) -> Option<DateTime<Utc>> {
        Some(self.now())
    }
}

pub(crate) struct Desk {
    pub(crate) db: Db,
    pub(crate) database: String,
    pub(crate) sink: MailSink,
    pub(crate) clock: Arc<TestClock>,
    pub(crate) args: NotifyArgs,
    pub(crate) webhooks: WebhookArgs,
    authority: Mutex<Option<std::path::PathBuf>>,
}

impl Desk {
    pub(crate) async fn new(recipients: &str) -> Self {
        Self::with_tls(recipients, SinkEncryption::None).await
    }

    pub(crate) async fn with_tls(recipients: &str, tls: SinkEncryption) -> Self {
        let database = format!(
            "mail_{}_{}",
            std::process::id(),
            DATABASES.fetch_add(1, Ordering::Relaxed)
        );
        let create = format!("CREATE DATABASE {database}");
        mysql().await.query(&create).await.unwrap();
        let url = mysql().await.database_url(&database);
        let settings = DbSettings {
            url: url.clone().into(),
            pool_size: 4,
            limit: Duration::from_secs(10),
        };
        let migrate = async || {
            migrations::migrate(&settings, migrations::Tables::All)
                .await
                .unwrap();
        };
        TABLES.made(&url, migrate).await.unwrap();
        let sink = MailSink::start(MailOptions { folder: None, tls })
            .await
            .unwrap();
        let args = args(Some(&sink.url()), recipients);
        let db = Db::new(&settings).unwrap();
        let clock = Arc::default();
        let webhooks = WebhookArgs::default();
        Self {
            db,
            database,
            sink,
            clock,
            args,
            webhooks,
            authority: Mutex::default(),
        }
    }

    /// Makes notifiers trust the mail server's certificate.
    pub(crate) fn trust(&mut self) {
        let path = std::env::temp_dir().join(format!("{}.pem", self.database));
        std::fs::write(&path, self.sink.ca_pem().unwrap()).unwrap();
        self.args.authorities = Some(path.clone());
        *self.authority.lock().unwrap() = Some(path);
    }

    /// Creates a notifier as after a restart: its only state is in the tables.
    pub(crate) fn notifier(&self) -> Notifier {
        self.notifier_with(&self.db, &self.args)
    }

    pub(crate) fn notifier_with(&self, db: &Db, args: &NotifyArgs) -> Notifier {
        Notifier::with_clock(db.clone(), args, &self.webhooks, self.clock.clone()).unwrap()
    }

    /// Handles a pass that ends now: stores it, notes what it saw, and evaluates.
    pub(crate) async fn after_pass(&self, notifier: &Notifier, run: &Run) {
        self.note_pass(notifier, run).await;
        notifier.evaluate(Vec::new()).await.unwrap();
    }

    /// Handles a pass of `once` that ends now.
    pub(crate) async fn after_once(&self, notifier: &Notifier, run: &Run) {
        self.note_pass(notifier, run).await;
        notifier.evaluate_last().await.unwrap();
    }

    async fn note_pass(&self, notifier: &Notifier, run: &Run) {
        let run = judged(run);
        let is_new = self.store(&run).await;
        let stored = is_new.then_some(run.run_id.as_str());
        notifier.note_look(&run, stored).await.unwrap();
    }

    /// Evaluates now.
    pub(crate) async fn evaluate(&self) {
        let notifier = self.notifier();
        notifier.evaluate(Vec::new()).await.unwrap();
    }

    /// Evaluates now, with schedules of this process, then sends everything that is due.
    pub(crate) async fn evaluate_with(&self, schedules: Vec<WatchedSchedule>) {
        self.notifier().evaluate(schedules).await.unwrap();
        self.flush().await;
    }

    /// Writes the row of a process that announces itself now.
    pub(crate) async fn heartbeat(&self, host: &str, state: &ProcessState) {
        let row = ProcessRow {
            owner: host.to_owned(),
            role: DAEMON.to_owned(),
            ..ProcessRow::of_attach()
        };
        self.db.announce(host, &row, state, true).await.unwrap();
        let now = self.clock.now().format("%F %T%.3f");
        self.run(&format!(
            "UPDATE processes SET seen_at = '{now}' WHERE id = '{host}'"
        ))
        .await;
    }

    /// Stores a run with its findings and reports. Returns whether it has a row.
    async fn store(&self, run: &Run) -> bool {
        if run.dry_run {
            return false;
        }
        let drops = run.drops.iter().map(|drop| DropReport {
            findings: Vec::new(),
            judged: Judged::default(),
            coupon_name: drop.coupon_name.clone(),
            ..*drop
        });
        let drops: Vec<DropReport> = drops.collect();
        let (examined_drops, examined) = run.examined();
        let row = RunRow {
            run_id: run.run_id.clone(),
            trigger: Stored::Known(run.trigger),
            dry_run: run.dry_run,
            deep: run.deep,
            confirmed: false,
            status: Stored::Known(run.status),
            owner: "test".to_owned(),
            started_at: run.started_at,
            finished_at: Some(self.clock.now()),
            drops_examined: u32::try_from(examined_drops).unwrap(),
            users_examined: examined.users.cast_signed(),
            rows_examined: examined.rows.cast_signed(),
            failed_claims_examined: examined.failed_claims.cast_signed(),
            applied: 0,
            skipped: 0,
            failed: 0,
            error: run.error.clone(),
            content: content(run),
            same_as: None,
            asked_by: run.asked_by.clone(),
        };
        let placed = run.drops.iter().flat_map(|drop| {
            drop.findings.iter().map(|finding| Finding {
                coupon_id: Some(drop.coupon_id),
                drop_id: Some(drop.drop_id),
                ..finding.clone()
            })
        });
        let findings: Vec<Finding> = run.findings.iter().cloned().chain(placed).collect();
        self.finish(row, json!(drops), findings).await;
        true
    }

    /// Handles a pass that ends now, then sends everything that is due.
    pub(crate) async fn pass(&self, run: &Run) {
        self.after_pass(&self.notifier(), run).await;
        self.flush().await;
    }

    /// Sends everything that is due.
    pub(crate) async fn flush(&self) {
        self.notifier().flush(SOON).await.unwrap();
    }

    /// Advances the clock by this time, then sends everything that is due.
    pub(crate) async fn flush_after(&self, time: TimeDelta) {
        self.clock.turn(time);
        self.flush().await;
    }

    /// Stores a run as a pass does: one that finds the same as the last one only refers to it.
    async fn finish(&self, mut row: RunRow, drops: Value, findings: Vec<Finding>) {
        let id = row.run_id.clone();
        let same = reconcile_runs::table
            .filter(reconcile_runs::content.eq(row.content))
            .filter(reconcile_runs::content.is_not_null())
            .filter(reconcile_runs::same_as.is_null())
            .filter(reconcile_runs::id.ne(id.clone()))
            .order(reconcile_runs::id.desc())
            .limit(1)
            .select(reconcile_runs::id);
        row.same_as = self.db.row("the same", same).await.unwrap();
        let is_kept = row.same_as.is_none();
        let run = diesel::replace_into(reconcile_runs::table)
            .values((row, reconcile_runs::drops.eq(is_kept.then_some(drops))));
        self.db.write("a run", run).await.unwrap();
        let rows = findings.into_iter().filter(|_| is_kept).map(|finding| {
            let run = reconcile_findings::run_id.eq(id.clone());
            (FindingRow::from(finding), run)
        });
        let rows: Vec<_> = rows.collect();
        let earlier = reconcile_findings::table.filter(reconcile_findings::run_id.eq(id.clone()));
        self.db
            .write("findings", diesel::delete(earlier))
            .await
            .unwrap();
        if !rows.is_empty() {
            let insert = diesel::insert_into(reconcile_findings::table).values(rows);
            self.db.write("findings", insert).await.unwrap();
        }
    }

    pub(crate) async fn query(&self, sql: &str) -> Vec<Vec<String>> {
        let sql = sql.replace("FROM ", &format!("FROM {}.", self.database));
        mysql().await.query(&sql).await.unwrap()
    }

    /// Runs a statement in this desk's database.
    pub(crate) async fn run(&self, sql: &str) {
        self.db.write("set up", sql_query(sql)).await.unwrap();
    }

    /// Creates coupon 1 with its drop 7.
    pub(crate) async fn winter_coupon(&self) {
        self.run("INSERT INTO coupons (id, name, quantity, once_per) VALUES (1, 'Winter coupon', 100, 'coupon')").await;
        self.run("INSERT INTO drops (id, coupon_id, opens_at, quantity) VALUES (7, 1, '2026-12-01', 100)").await;
    }

    /// Waits until this number of mails has arrived.
    pub(crate) async fn until_there_are(&self, mails: usize) {
        eventually(&format!("{mails} mails come"), SOON, async || {
            self.sink.mails().len() >= mails
        })
        .await;
    }

    /// Returns the subjects of one recipient's mails, in order.
    pub(crate) fn subjects(&self, to: &str) -> Vec<String> {
        let mails = self.sink.mails();
        let own = mails.iter().filter(|mail| mail.to == [to]);
        own.map(|mail| parsed(mail).subject().unwrap().to_owned())
            .collect()
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if let Some(path) = self.authority.lock().unwrap().take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

pub(crate) fn args(smtp_url: Option<&str>, recipients: &str) -> NotifyArgs {
    NotifyArgs {
        smtp_url: smtp_url.map(|url| url.to_owned().into()),
        smtp_timeout_ms: 10_000,
        authorities: None,
        alert_from: Some("Firstcome <firstcome@example.com>".to_owned()),
        alert_to: Some(recipients.to_owned()),
        alert_cooldown_seconds: 4 * 3_600,
        alert_patience_seconds: 30,
        public_url: None,
        api_public_url: None,
        api_url: None,
        attached_file: None,
        campaigns: BTreeMap::new(),
    }
}

pub(crate) fn parsed(mail: &Mail) -> Message<'_> {
    MessageParser::default().parse(&mail.raw).unwrap()
}

/// Returns the plain text of a mail, with a space for each line break.
pub(crate) fn text(mail: &Mail) -> String {
    parsed(mail).body_text(0).unwrap().replace("\r\n", " ")
}

/// Returns the thread of a mail.
pub(crate) fn thread(mail: &Mail) -> String {
    let mail = parsed(mail);
    let thread = mail.references().as_text().expect("a thread");
    thread.to_owned()
}

pub(crate) fn id(mail: &Mail) -> String {
    parsed(mail).message_id().unwrap().to_owned()
}

/// The same for runs that find the same and repair nothing.
fn content(run: &Run) -> Option<i64> {
    let has_repaired = run.all_findings().any(|it| it.result == Outcome::Applied);
    let identities = run.all_findings().map(Finding::identity);
    (!has_repaired).then(|| identities.fold(0, i64::wrapping_add))
}
