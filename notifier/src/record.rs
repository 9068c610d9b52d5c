//! Records alerts, and the mail and the events about the changes, in one transaction, so that a
//! restart neither repeats nor loses a mail.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::result::{Error, QueryResult};
use diesel_async::AsyncConnection as _;
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::alerts::RepairsRow;
use firstcome_shared::mysql::{Conn, Db, DbError, alerts, outbox, runs};

use crate::alerts::{
    self as judging, ADMISSION, Alert, AlertMemory, AlertState, MailPolicy, Problem, Verdict,
};
use crate::clock::elapsed;
use crate::mails::{AlertMail, Rendered};
use crate::report::{AlertKind, Finding, Kind, Run, Status};
use crate::send::event::{self, Event};
use crate::settings::MailSettings;

/// Maximum duration of recording.
const LIMIT: Duration = Duration::from_secs(30);

/// Maximum number of alerts of a pass that get an event.
const EVENTS: usize = 100;

/// Maximum number of threads that one mail refers to.
const THREADS: usize = 10;

/// Records the alerts of a pass and enqueues its mail. It can be repeated after a timeout: what is
/// stored as mailed is not mailed again.
pub(crate) async fn record_pass(
    db: &Db,
    run: Run,
    settings: Arc<MailSettings>,
    closed_for: Option<TimeDelta>,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    db.run_within(LIMIT, "record alerts", async move |conn| {
        conn.transaction(async |conn| {
            alerts::lock(conn).await?;
            let memory = remember(conn, &run).await?;
            let verdict = judging::judge(&run, &memory, settings.policy, now);
            let mut post = Post {
                conn,
                settings: &settings,
                now,
            };
            if !run.dry_run && run.status != Status::Running {
                post.keep_repairs(&run, &memory).await?;
                let sealed = run.drops.iter().filter(|drop| drop.sealed);
                let sealed: Vec<Event> = sealed.map(|it| event::of_sealed(it, now)).collect();
                post.events(&sealed).await?;
            }
            post.tell(verdict, &memory, Some(&run), closed_for).await
        })
        .await
    })
    .await
}

/// What is seen outside a pass.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    /// An outage, and when it began. The caller has waited for its patience.
    Outage(Problem, DateTime<Utc>),
    /// The outage with this name is over, if there was one.
    Over(&'static str),
    /// An outage is over that could not be recorded.
    OverUnrecorded(Alert),
}

/// Records what was seen outside a pass.
pub(crate) async fn record_seen(
    db: &Db,
    seen: Seen,
    settings: Arc<MailSettings>,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    db.run_within(LIMIT, "record an outage", async move |conn| {
        conn.transaction(async |conn| {
            alerts::lock(conn).await?;
            let name = match &seen {
                Seen::Outage(problem, _) => problem.name.clone(),
                Seen::Over(name) => (*name).to_owned(),
                Seen::OverUnrecorded(alert) => alert.name.clone(),
            };
            let memory = AlertMemory {
                alerts: alerts::firing_or_named(conn, std::slice::from_ref(&name)).await?,
                ..AlertMemory::default()
            };
            let mut verdict = Verdict::default();
            match seen.clone() {
                Seen::Outage(mut problem, since) => {
                    if name == ADMISSION {
                        problem.findings = why_closed(&memory);
                    }
                    let policy = MailPolicy {
                        patience: TimeDelta::zero(),
                        ..settings.policy
                    };
                    judging::observe(problem, &memory, policy, now, &mut verdict);
                    for alert in &mut verdict.alerts {
                        alert.first_seen_at = since.min(alert.first_seen_at);
                    }
                    for notice in &mut verdict.problems {
                        notice.since = since.min(notice.since);
                    }
                }
                Seen::Over(_) => {
                    if let Some(alert) = memory.alerts.get(&name) {
                        judging::end(alert, now, &mut verdict);
                    }
                }
                Seen::OverUnrecorded(alert) => verdict.resolved.push(alert),
            }
            let mut post = Post {
                conn,
                settings: &settings,
                now,
            };
            post.tell(verdict, &memory, None, None).await
        })
        .await
    })
    .await
}

/// Enqueues the mail that `decide` derives from the fact `name` in `reconciler_state`, and stores
/// the new fact in the same transaction. If several processes decide at once, only one of them
/// mails.
pub(crate) async fn enqueue_once(
    db: &Db,
    settings: Arc<MailSettings>,
    now: DateTime<Utc>,
    name: &'static str,
    decide: impl Fn(Option<&str>) -> anyhow::Result<Option<(Rendered, String)>> + Send + Sync + 'static,
) -> Result<(), DbError> {
    db.run("enqueue mail", async move |conn| {
        conn.transaction(async |conn| {
            alerts::lock(conn).await?;
            let fact = runs::state(conn, name).await?;
            let Some((mail, fact)) = decide(fact.as_deref()).map_err(unwritten)? else {
                return Ok(());
            };
            outbox::enqueue(conn, settings.mails(&mail, &[], now)).await?;
            runs::set_state(conn, name, &fact).await
        })
        .await
    })
    .await
}

fn unwritten(error: anyhow::Error) -> Error {
    Error::SerializationError(error.into())
}

/// Reads the stored alerts that the decision needs.
async fn remember(conn: &mut Conn, run: &Run) -> QueryResult<AlertMemory> {
    let examined: Vec<i64> = run.drops.iter().map(|drop| drop.drop_id.0).collect();
    let broken = alerts::broken_promises(conn, &examined).await?;
    let seen = judging::problems(run, &broken);
    let mut names: Vec<String> = seen.into_iter().map(|it| it.name).collect();
    names.push(ADMISSION.to_owned());
    let known = alerts::firing_or_named(conn, &names).await?;
    let drops = known.values().filter_map(|alert| Some(alert.drop_id?.0));
    let drops: Vec<i64> = drops.collect();
    Ok(AlertMemory {
        broken,
        gone: alerts::gone(conn, &drops).await?,
        alerts: known,
    })
}

/// Writes mails and events in a transaction.
struct Post<'a> {
    conn: &'a mut Conn,
    settings: &'a MailSettings,
    now: DateTime<Utc>,
}

impl Post<'_> {
    async fn keep_repairs(&mut self, run: &Run, memory: &AlertMemory) -> QueryResult<()> {
        let rows = judging::repairs(run, &memory.broken);
        let rows = rows.into_iter().map(|((drop, kind), number)| RepairsRow {
            run_id: run.run_id.clone(),
            drop_id: drop.map_or(0, |drop| drop.0),
            kind: kind.as_str().to_owned(),
            number: u32::try_from(number).unwrap_or(u32::MAX),
            repaired_at: self.now.naive_utc(),
        });
        alerts::keep_repairs(self.conn, rows.collect()).await
    }

    async fn events(&mut self, events: &[Event]) -> QueryResult<()> {
        outbox::enqueue(self.conn, self.settings.posts(events, self.now)).await
    }

    /// Stores the alerts, and enqueues the mail and the events about them.
    async fn tell(
        &mut self,
        verdict: Verdict,
        memory: &AlertMemory,
        run: Option<&Run>,
        closed_for: Option<TimeDelta>,
    ) -> QueryResult<()> {
        for alert in &verdict.alerts {
            alerts::keep(self.conn, alert).await?;
        }
        let (problems, resolved) = (&verdict.problems, &verdict.resolved);
        let has_news = !(problems.is_empty() && resolved.is_empty());
        // Only a pass knows the drops.
        let repairs = match run {
            Some(_) => self.due_repairs(&verdict, memory, has_news).await?,
            None => Vec::new(),
        };
        if !has_news && repairs.is_empty() {
            return Ok(());
        }
        let mut names: Vec<&str> = problems.iter().map(|it| it.problem.name.as_str()).collect();
        names.extend(resolved.iter().map(|it| it.name.as_str()));
        let mail = AlertMail {
            run,
            problems,
            resolved,
            repairs: &repairs,
            broken: &memory.broken,
            ids: &alerts::ids(self.conn, &names).await?,
            fates: &self.fates(resolved).await?,
            closed_for,
            ..AlertMail::empty(&self.settings.links, self.now)
        };
        let threads = threads(&mail, memory, &self.settings.domain);
        let written = mail.render().map_err(unwritten)?;
        let messages = self.settings.mails(&written, &threads, self.now);
        outbox::enqueue(self.conn, messages).await?;
        let mut events = event::of_mail(&mail);
        if events.len() > EVENTS {
            tracing::warn!(alerts = events.len(), "only {EVENTS} alerts get an event");
            events.truncate(EVENTS);
        }
        self.events(&events).await?;
        alerts::repairs_are_mailed(self.conn, &repairs, self.now).await
    }

    /// Returns the repairs to mail now: all that are not mailed yet, or none. They wait while an
    /// outage lasts, which makes repairs necessary and is mailed itself, and if mails about them
    /// come too often.
    async fn due_repairs(
        &mut self,
        verdict: &Verdict,
        memory: &AlertMemory,
        has_news: bool,
    ) -> QueryResult<Vec<RepairsRow>> {
        let policy = self.settings.policy;
        let since = self.now - policy.cooldown;
        let (rows, mails) = alerts::unmailed_repairs(self.conn, since).await?;
        let mut all: HashMap<&str, &Alert> = HashMap::new();
        for alert in memory.alerts.values().chain(&verdict.alerts) {
            all.insert(&alert.name, alert);
        }
        let is_outage = |it: &&Alert| {
            let kind = AlertKind::from_word(&it.kind);
            it.state == AlertState::Firing && kind.is_some_and(AlertKind::is_outage)
        };
        let oldest = rows.first().map(|row| row.repaired_at.and_utc());
        if all.values().any(is_outage) && oldest.is_none_or(|oldest| oldest >= since) {
            return Ok(Vec::new());
        }
        let pause = judging::pause(u32::try_from(mails.len()).unwrap_or(u32::MAX), policy);
        let last = mails.first();
        let is_too_soon = last.is_some_and(|at| elapsed(*at, self.now) < pause);
        Ok(if has_news || !is_too_soon {
            rows
        } else {
            Vec::new()
        })
    }

    /// What became of the users behind broken promises that are over, by drop.
    async fn fates(&mut self, over: &[Alert]) -> QueryResult<HashMap<DropId, [i64; 2]>> {
        let word = Kind::BrokenPromise.facts().word;
        let mut fates = HashMap::new();
        for alert in over.iter().filter(|alert| alert.kind == word) {
            if let Some(drop) = alert.drop_id {
                let fate = alerts::mended(self.conn, drop, alert.first_seen_at).await?;
                fates.insert(drop, fate);
            }
        }
        Ok(fates)
    }
}

/// Why coupons stay closed, as the last attempts to open them said.
fn why_closed(memory: &AlertMemory) -> Vec<Finding> {
    let word = Kind::RedisLost.facts().word;
    let lost = memory.alerts.values().filter(|it| it.kind == word);
    let firing = lost.filter(|it| it.state == AlertState::Firing);
    let why = firing.map(|it| Finding::report(Kind::RedisLost, it.summary.clone()));
    why.collect()
}

/// The Message-ID that every mail about one alert refers to. No mail has this ID itself, but mail
/// programs group mails that refer to the same ID.
pub(crate) fn thread(name: &str, since: DateTime<Utc>, domain: &str) -> String {
    format!("alert.{name}.{}@{domain}", since.timestamp_millis())
}

fn threads(mail: &AlertMail<'_>, memory: &AlertMemory, domain: &str) -> Vec<String> {
    let of_alert = |it: &Alert| thread(&it.name, it.first_seen_at, domain);
    let problems = mail.problems.iter();
    let mut threads: Vec<String> = problems
        .map(|it| thread(&it.problem.name, it.since, domain))
        .collect();
    threads.extend(mail.resolved.iter().map(of_alert));
    // What Redis lost is told in the thread of its outage.
    let lost = Kind::RedisLost.as_str();
    if mail.repairs.iter().any(|row| row.kind == lost) {
        let outage = memory.alerts.get(ADMISSION).filter(|it| it.was_mailed());
        let is_recent = |it: &&Alert| elapsed(it.last_seen_at, mail.now) < TimeDelta::hours(1);
        threads.extend(outage.filter(is_recent).map(of_alert));
    }
    threads.truncate(THREADS);
    threads
}
