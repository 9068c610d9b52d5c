//! The evaluation: reads what is wrong and what was told, decides, and writes both the decision and
//! its mail in one transaction. Every daemon evaluates; the row `notify.…` orders them, so there is
//! no leader. An evaluation that changes nothing takes no lock and writes nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::QueryResult;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::alerts::{self, ToldRow};
use firstcome_shared::mysql::levels::{self as stored, NotifyRow};
use firstcome_shared::mysql::{Conn, Db, DbError, outbox, processes, runs};
use firstcome_shared::subject::Subject;

use crate::alert::{Alert, Alerts};
use crate::condition::{Cases, Condition, PassHolder, ScheduledRun};
use crate::conditions::{
    PromisesOfDrop, SeenProcess, SeenSchedule, Snapshot, conditions, promise_case,
};
use crate::decide::{Budget, Verdict, decide};
use crate::events;
use crate::levels::Level;
use crate::local::Local;
use crate::mails::{AlertMail, Decided, ReadMail};
use crate::report::AlertKind;
use crate::settings::MailSettings;

/// Maximum duration of an evaluation.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// How long an ended alert may count for the next one of its name.
const REMEMBERED: TimeDelta = TimeDelta::hours(5);

/// Maximum number of alerts of an evaluation that get an event. The mail counts all of them.
const EVENTS: usize = 100;

/// A schedule of this process.
#[derive(Clone)]
pub struct Schedule {
    pub schedule: ScheduledRun,
    /// Name in `reconciler_state` of the time when its last run ended.
    pub key: &'static str,
    /// A run that was due before this counts as due now: nobody could do it.
    pub from: DateTime<Utc>,
    /// The first time after another.
    pub next_after: Arc<dyn Fn(DateTime<Utc>) -> Option<DateTime<Utc>> + Send + Sync>,
}

/// What the last evaluation read. It is read again once the version has changed.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    version: Option<u64>,
    levels: Vec<Level>,
    told: Vec<ToldRow>,
    promises: Vec<PromisesOfDrop>,
}

/// The process that evaluates.
#[derive(Clone)]
pub(crate) struct Evaluator {
    pub(crate) db: Db,
    pub(crate) settings: Arc<MailSettings>,
    pub(crate) schedules: Vec<Schedule>,
}

/// What an evaluation decides from.
struct ReadTables {
    now: DateTime<Utc>,
    row: NotifyRow,
    seen: Vec<Condition>,
    unknown: BTreeSet<crate::times::Source>,
    known: Alerts,
    given_up: HashSet<String>,
    /// Whether another process that mails somebody evaluates.
    is_left_to_others: bool,
}

impl Evaluator {
    /// Evaluates, and returns whether anything was told. What this process told itself while MySQL
    /// was away becomes rows.
    pub(crate) async fn evaluate(
        &self,
        cache: &mut Cache,
        local: &Local,
        at: Option<DateTime<Utc>>,
    ) -> Result<bool, DbError> {
        let evaluator = self.clone();
        let db = self.db.within(LIMIT);
        let mut own = std::mem::take(cache);
        let read = db.run("evaluate alerts", async move |conn| {
            let read = evaluator.read(conn, &mut own, at).await?;
            Ok((read, own))
        });
        let (read, own) = read.await?;
        *cache = own;
        let has_left_over = read
            .given_up
            .iter()
            .any(|name| read.known.open(name).is_none());
        let verdict = self.decide(&read);
        let adopted = local.to_adopt(read.now);
        let is_idle = verdict.alerts.is_empty() && verdict.notices.is_empty() && !has_left_over;
        if is_idle && adopted.is_empty() || read.is_left_to_others {
            local.forget();
            local.remember(read.known.all_open(), read.now);
            return Ok(false);
        }
        let evaluator = self.clone();
        let told = db.transaction("tell alerts", async move |conn| {
            let subject = evaluator.subject();
            let row = NotifyRow::lock(conn, subject).await?;
            let mut fresh = Cache::default();
            let mut read = evaluator.read(conn, &mut fresh, at).await?;
            read.row = row;
            let taken = adopt(&mut read, adopted.clone());
            let mut verdict = evaluator.decide(&read);
            verdict.adopt(taken);
            evaluator.write(conn, &fresh, read, verdict).await
        });
        let is_told = told.await?;
        local.forget();
        Ok(is_told)
    }

    fn subject(&self) -> Subject {
        self.settings.links.subject()
    }

    fn decide(&self, read: &ReadTables) -> Verdict {
        let mails = read
            .row
            .mails
            .iter()
            .copied()
            .filter_map(DateTime::from_timestamp_millis);
        let is_full = Budget::new(mails).is_full(read.now);
        decide(
            read.now,
            &read.seen,
            &read.unknown,
            &read.known,
            &self.settings.policy,
            is_full,
        )
    }

    /// Reads what is wrong and what was told: the tables only if they have changed.
    async fn read(
        &self,
        conn: &mut Conn,
        cache: &mut Cache,
        at: Option<DateTime<Utc>>,
    ) -> QueryResult<ReadTables> {
        let subject = self.subject();
        let now = match at {
            Some(at) => at,
            None => stored::clock(conn).await?,
        };
        let row = NotifyRow::read(conn, subject).await?;
        if cache.version != Some(row.version) {
            let levels = stored::all(conn, subject).await?;
            cache.levels = levels.into_iter().map(Level::from).collect();
            cache.told = alerts::told_since(conn, subject, now - REMEMBERED).await?;
            cache.version = Some(row.version);
        }
        let processes = processes::fresh(conn, subject, now).await?;
        let is_left_to_others =
            !self.settings.has_readers() && processes.iter().any(|process| process.reads);
        let unsent = alerts::oldest_unsent(conn).await?;
        let told = cache.told.iter();
        let repairs_told_at = told
            .clone()
            .filter(|row| row.kind == AlertKind::Repaired.word())
            .filter_map(|row| row.told_at)
            .max();
        let hour = now - TimeDelta::hours(1);
        let oldest = now - alerts::REPAIRS_READ;
        let from = repairs_told_at.unwrap_or(oldest).clamp(oldest, hour);
        let schedules = self.due(conn, now).await?;
        let is_late = schedules
            .iter()
            .any(|it| it.due.is_some_and(|due| due < now));
        let mut snapshot = Snapshot {
            processes: processes
                .into_iter()
                .map(|process| SeenProcess {
                    host: process.host(),
                    state: process.state,
                })
                .collect(),
            levels: cache.levels.clone(),
            schedules,
            holder: None,
            promises: promises(conn, subject, &mut cache.promises).await?,
            repairs: alerts::repairs_since(conn, subject, from).await?,
            repairs_told_at,
        };
        if is_late {
            let holder = processes::pass_holder(conn).await?;
            snapshot.holder = holder.map(|holder| PassHolder {
                run_id: holder.run_id,
                owner: holder.owner,
                since: holder.since,
            });
        }
        let (seen, unknown) = conditions(&snapshot, now);
        let given_up = cache
            .levels
            .iter()
            .filter(|level| level.given_up)
            .map(|level| level.name.clone())
            .collect();
        let told = told.map(|row| alert_of(row, unsent));
        Ok(ReadTables {
            now,
            row,
            seen,
            unknown,
            known: Alerts::new(told, now),
            given_up,
            is_left_to_others,
        })
    }

    /// Returns when each schedule is due.
    async fn due(&self, conn: &mut Conn, now: DateTime<Utc>) -> QueryResult<Vec<SeenSchedule>> {
        let mut all = Vec::new();
        for own in &self.schedules {
            let last = runs::state(conn, own.key)
                .await?
                .and_then(|text| text.parse::<DateTime<Utc>>().ok());
            let due = (own.next_after)(last.unwrap_or(own.from).min(now));
            all.push(SeenSchedule {
                schedule: own.schedule,
                due: due.map(|due| due.max(own.from)),
            });
        }
        Ok(all)
    }

    /// Writes what has changed, and the mail about it. Returns whether there is one.
    async fn write(
        &self,
        conn: &mut Conn,
        cache: &Cache,
        read: ReadTables,
        verdict: Verdict,
    ) -> QueryResult<bool> {
        let subject = self.subject();
        let mut rows: HashMap<&str, &ToldRow> = HashMap::new();
        for row in cache.told.iter().filter(|row| row.ended_at.is_none()) {
            rows.insert(&row.name, row);
        }
        let decided = Decided {
            seen: &read.seen,
            known: &read.known,
            verdict: &verdict,
            rows: &rows,
            given_up: &read.given_up,
            now: read.now,
        };
        let written = ReadMail::read(conn, &self.settings.links, decided);
        let ReadMail {
            mut mail,
            mut summaries,
        } = written.await?;
        for alert in &verdict.alerts {
            let known = rows.get(alert.name.as_str()).copied();
            let summary = summaries.remove(&alert.name);
            let row = self.row(alert, known, summary, read.given_up.contains(&alert.name));
            let id = alerts::write_told(conn, row).await?;
            mail.ids.insert(alert.name.clone(), id);
        }
        let is_open = |name: &String| {
            let changed = verdict.alerts.iter().find(|alert| alert.name == *name);
            changed.map_or_else(
                || read.known.open(name).is_some(),
                |alert| alert.ended_at.is_none(),
            )
        };
        let over = read.given_up.iter().filter(|name| !is_open(name)).cloned();
        stored::delete(conn, &over.collect::<Vec<_>>()).await?;
        let mut row = read.row;
        let is_told = !verdict.notices.is_empty();
        if is_told {
            let mut budget = Budget::new(
                row.mails
                    .iter()
                    .filter_map(|at| DateTime::from_timestamp_millis(*at)),
            );
            budget.count(read.now);
            row.mails = budget
                .mails()
                .iter()
                .map(DateTime::timestamp_millis)
                .collect();
            self.enqueue(conn, &mail).await?;
        }
        row.raise(conn, subject).await?;
        Ok(is_told)
    }

    async fn enqueue(&self, conn: &mut Conn, mail: &AlertMail<'_>) -> QueryResult<()> {
        if !self.settings.has_readers() {
            return Ok(());
        }
        let written = mail.render().map_err(unwritten)?;
        let threads = mail.threads(&self.settings.domain);
        outbox::enqueue(conn, self.settings.mails(&written, &threads, mail.now)).await?;
        let mut events = events::about_alerts(mail);
        events.truncate(EVENTS);
        outbox::enqueue(conn, self.settings.posts(&events, mail.now)).await
    }

    /// Returns the row of an alert. What only acknowledgements write stays.
    fn row(
        &self,
        alert: &Alert,
        known: Option<&ToldRow>,
        summary: Option<String>,
        given_up: bool,
    ) -> ToldRow {
        let by = known.and_then(|row| row.acknowledged_by.clone());
        ToldRow {
            id: alert.id.unwrap_or(0),
            subject: self.subject().word().to_owned(),
            name: alert.name.clone(),
            kind: alert.kind.clone(),
            coupon_id: alert.coupon.map(|id| id.0),
            drop_id: alert.drop.map(|id| id.0),
            summary: summary
                .or_else(|| known.map(|row| row.summary.clone()))
                .unwrap_or_default(),
            began_at: alert.began_at,
            waits_from: alert.waits_from,
            explained_by: alert.explained_by.map(|kind| kind.word().to_owned()),
            gone_at: alert.gone_at,
            returns: alert.returns,
            told_at: alert.told_at,
            tells: alert.tells,
            told_number: alert.told.number(),
            told_cases: alert.told.to_bytes(),
            ended_at: alert.ended_at,
            given_up: given_up && alert.ended_at.is_some(),
            acknowledged_at: alert.acknowledged_at,
            acknowledged_by: by.filter(|_| alert.acknowledged_at.is_some()),
        }
    }
}

/// Adds what was told while MySQL was away, unless somebody else has told it, or it has ended since.
/// Returns what was added.
fn adopt(read: &mut ReadTables, adopted: Vec<Alert>) -> Vec<Alert> {
    let mut taken = Vec::new();
    for alert in adopted {
        let is_same = |known: &&Alert| {
            let has_begun = known.ended_at.is_none_or(|at| at >= alert.began_at);
            known.name == alert.name && has_begun
        };
        let is_known = read.known.all().any(|known| is_same(&known));
        if !is_known {
            read.known.put(alert.clone());
            taken.push(alert);
        }
    }
    taken
}

/// Reads the open promises by drop, and their users if a drop's have changed.
async fn promises(
    conn: &mut Conn,
    subject: Subject,
    cache: &mut Vec<PromisesOfDrop>,
) -> QueryResult<Vec<PromisesOfDrop>> {
    if subject == Subject::Campaign {
        return Ok(Vec::new());
    }
    let open = alerts::open_promises(conn).await?;
    let mut all = Vec::with_capacity(open.len());
    for open in open {
        if let Some(known) = cache.iter().find(|known| known.open == open) {
            all.push(known.clone());
            continue;
        }
        let users = alerts::broken_promises(conn, &[open.drop.0]).await?;
        let hashes = users.iter().map(|it| promise_case(it.drop_id, &it.user_id));
        let cases = Cases::from_hashes(hashes);
        all.push(PromisesOfDrop { open, cases });
    }
    cache.clone_from(&all);
    Ok(all)
}

pub(crate) fn alert_of(row: &ToldRow, unsent: Option<DateTime<Utc>>) -> Alert {
    Alert {
        id: Some(row.id),
        name: row.name.clone(),
        kind: row.kind.clone(),
        coupon: row.coupon_id.map(CouponId),
        drop: row.drop_id.map(DropId),
        began_at: row.began_at,
        waits_from: row.waits_from,
        explained_by: row.explained_by.as_deref().and_then(AlertKind::from_word),
        gone_at: row.gone_at,
        returns: row.returns,
        told_at: row.told_at,
        tells: row.tells,
        told: Cases::from_bytes(row.told_number, row.told_cases.as_deref()),
        ended_at: row.ended_at,
        acknowledged_at: row.acknowledged_at,
        is_unsent: unsent.is_some_and(|unsent| row.told_at.is_some_and(|at| at >= unsent)),
    }
}

pub(crate) fn unwritten(error: anyhow::Error) -> diesel::result::Error {
    diesel::result::Error::SerializationError(error.into())
}
