//! The evaluation: reads what is wrong and what was told, decides, and writes both the decision and
//! its mail in one transaction. Every daemon evaluates; the row `notify.…` orders them, so there is
//! no leader. An evaluation that changes nothing takes no lock and writes nothing.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::QueryResult;
use firstcome_shared::mysql::levels::NotifyRow;
use firstcome_shared::mysql::{Conn, Db, DbError, processes, runs};
use firstcome_shared::subject::Subject;

use crate::alert::Alerts;
use crate::condition::{Cases, Condition, ScheduledRun};
use crate::conditions::{
    PromisesOfDrop, REPAIRED, SeenSchedule, Snapshot, conditions, promise_case,
};
use crate::decide::{Budget, Decision, decide};
use crate::events;
use crate::local::Local;
use crate::mails::{AlertMail, Sources};
use crate::queries::alerts::{self, ToldRow};
use crate::queries::levels::{self as stored, LevelRow};
use crate::queries::outbox;
use crate::settings::MailSettings;
use crate::times::Source;

/// Maximum duration of an evaluation.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// How long an ended alert may count for the next one of its name.
const REMEMBERED: TimeDelta = TimeDelta::hours(5);

/// Maximum number of alerts of an evaluation that get an event. The mail counts all of them.
const EVENTS: usize = 100;

/// A schedule of this process.
#[derive(Clone)]
pub struct WatchedSchedule {
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
    levels: Vec<LevelRow>,
    told: Vec<ToldRow>,
    promises: Vec<PromisesOfDrop>,
}

/// The process that evaluates.
#[derive(Clone)]
pub(crate) struct Evaluator {
    pub(crate) db: Db,
    pub(crate) settings: Arc<MailSettings>,
    pub(crate) schedules: Vec<WatchedSchedule>,
}

/// What an evaluation decides from.
struct ReadTables {
    now: DateTime<Utc>,
    row: NotifyRow,
    seen: Vec<Condition>,
    unknown: BTreeSet<Source>,
    known: Alerts,
    given_up: HashSet<String>,
    /// Whether another process that mails somebody evaluates.
    is_left_to_others: bool,
}

impl Evaluator {
    /// Evaluates, and returns whether anything was told. What this process told itself while MySQL
    /// was away becomes rows.
    pub(crate) async fn evaluate(&self, cache: &mut Cache, local: &Local) -> Result<bool, DbError> {
        let evaluator = self.clone();
        let db = self.db.within(LIMIT);
        let mut own = std::mem::take(cache);
        let read = db.run("evaluate alerts", async move |conn| {
            let read = evaluator.read(conn, &mut own).await?;
            Ok((read, own))
        });
        let (read, own) = read.await?;
        *cache = own;
        let has_left_over = read
            .given_up
            .iter()
            .any(|name| read.known.open(name).is_none());
        let adopted = local.to_adopt(read.now);
        let is_idle = self.decide(&read).is_empty() && !has_left_over;
        if is_idle && adopted.is_empty() || read.is_left_to_others {
            local.forget();
            local.remember(read.known.all_open(), read.now);
            return Ok(false);
        }
        let evaluator = self.clone();
        let told = db.transaction("tell alerts", async move |conn| {
            let row = NotifyRow::lock(conn, evaluator.subject()).await?;
            let mut read = evaluator.read(conn, &mut Cache::default()).await?;
            read.row = row;
            let taken = adopt(&mut read, adopted.clone());
            let mut decisions = evaluator.decide(&read);
            for alert in taken {
                if decisions.iter().all(|own| own.alert.name != alert.name) {
                    decisions.push(read.listed(alert));
                }
            }
            evaluator.write(conn, read, decisions).await
        });
        let is_told = told.await?;
        local.forget();
        Ok(is_told)
    }

    fn subject(&self) -> Subject {
        self.settings.links.subject()
    }

    fn decide(&self, read: &ReadTables) -> Vec<Decision> {
        let is_full = Budget(read.row.mails.clone()).is_full(read.now);
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
    async fn read(&self, conn: &mut Conn, cache: &mut Cache) -> QueryResult<ReadTables> {
        let subject = self.subject();
        let now = self.settings.now(conn).await?;
        let row = NotifyRow::read(conn, subject).await?;
        if cache.version != Some(row.version) {
            cache.levels = stored::all(conn, subject).await?;
            cache.told = alerts::told_since(conn, subject, now - REMEMBERED).await?;
            cache.version = Some(row.version);
        }
        let processes = processes::fresh(conn, subject, now).await?;
        let is_left_to_others =
            !self.settings.has_readers() && processes.iter().any(|process| process.reads);
        let schedules = self.due(conn, now).await?;
        let is_late = schedules
            .iter()
            .any(|it| it.due.is_some_and(|due| due < now));
        let mut snapshot = Snapshot {
            is_read_from_mysql: true,
            processes,
            levels: cache.levels.clone(),
            schedules,
            holder: None,
            promises: promises(conn, subject, &mut cache.promises).await?,
            repairs: alerts::repairs_untold_or_since(conn, subject, now - REPAIRED).await?,
        };
        if is_late {
            snapshot.holder = processes::pass_holder(conn).await?;
        }
        let (seen, unknown) = conditions(&snapshot, now);
        let given_up = cache
            .levels
            .iter()
            .filter(|level| level.given_up)
            .map(|level| level.name.clone())
            .collect();
        let mut known = Alerts::new(cache.told.iter().cloned(), now);
        known.unsent_since = alerts::oldest_unsent(conn).await?;
        Ok(ReadTables {
            now,
            row,
            seen,
            unknown,
            known,
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
        mut read: ReadTables,
        mut decisions: Vec<Decision>,
    ) -> QueryResult<bool> {
        let subject = self.subject();
        for Decision { alert, .. } in &mut decisions {
            subject.word().clone_into(&mut alert.subject);
            alert.given_up = alert.ended_at.is_some() && read.given_up.contains(&alert.name);
            read.known.put(alert.clone());
        }
        let sources = Sources::read(conn, &decisions).await?;
        let mut mail = AlertMail::empty(&self.settings.links, read.now);
        for decision in &decisions {
            let mut row = decision.alert.clone();
            let section = sources.section(decision);
            if let Some(section) = section.as_ref().filter(|_| row.ended_at.is_none()) {
                row.summary.clone_from(&section.alert.summary);
            }
            let id = alerts::write_told(conn, row).await?;
            if let Some(mut section) = section.filter(|_| decision.reason.is_some()) {
                section.alert.id = id;
                mail.add(section);
            }
        }
        let has_ended = |name: &&String| read.known.open(name).is_none();
        let over: Vec<String> = read.given_up.iter().filter(has_ended).cloned().collect();
        stored::delete(conn, &over).await?;
        let is_told = decisions.iter().any(|it| it.reason.is_some());
        let mut row = read.row;
        if is_told {
            let mut budget = Budget(row.mails);
            budget.count(read.now);
            row.mails = budget.0;
            let found = mail.read(conn, &read.seen, &read.known, &decisions, sources);
            found.await?;
            self.enqueue(conn, &mail).await?;
            if !mail.repairs.is_empty() {
                alerts::note_repairs_told(conn, subject).await?;
            }
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
}

impl ReadTables {
    /// An alert that was told without MySQL begins to be listed.
    fn listed(&self, alert: ToldRow) -> Decision {
        let mut seen = self.seen.iter();
        let condition = seen.find(|it| it.name == alert.name).cloned();
        Decision {
            reason: None,
            alert,
            condition,
        }
    }
}

/// Adds what was told while MySQL was away, unless somebody else has told it, or it has ended
/// since. Returns what was added.
fn adopt(read: &mut ReadTables, adopted: Vec<ToldRow>) -> Vec<ToldRow> {
    let mut taken = Vec::new();
    for alert in adopted {
        let is_known = read.known.all().any(|known| {
            let has_begun = known.ended_at.is_none_or(|at| at >= alert.began_at);
            known.name == alert.name && has_begun
        });
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

pub(crate) fn unwritten(error: anyhow::Error) -> diesel::result::Error {
    diesel::result::Error::SerializationError(error.into())
}
