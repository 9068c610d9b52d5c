//! Records the alerts of a pass, and the mail and the events about the changes, in one transaction,
//! so that a restart neither repeats nor loses a mail.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::result::{Error, QueryResult};
use diesel_async::AsyncConnection as _;
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::alerts::RepairsRow;
use firstcome_shared::mysql::outbox::{Channel, NewMessage};
use firstcome_shared::mysql::{Conn, Db, DbError, alerts, outbox, runs};
use uuid::Uuid;

use crate::alerts::{
    self as judging, ADMISSION, Alert, AlertMemory, AlertState, MailPolicy, Problem, Verdict,
};
use crate::clock::elapsed;
use crate::mails::{AlertMail, Rendered};
use crate::report::{AlertKind, Finding, Kind, Run, Status};
use crate::send::webhook::{self, Event};
use crate::settings::MailSettings;

/// Maximum duration of recording a pass.
const LIMIT: Duration = Duration::from_secs(30);

/// Maximum number of alerts of a pass that get an event of their own. One more counts the rest.
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
            let mut post = Post::new(conn, &settings, now);
            if !run.dry_run && run.status != Status::Running {
                post.keep_repairs(&run, &memory).await?;
                let sealed = run.drops.iter().filter(|drop| drop.sealed);
                let sealed = sealed.map(|drop| webhook::of_sealed(drop, now));
                post.events(&sealed.collect::<Vec<_>>()).await?;
            }
            post.tell(verdict, &memory, Some(&run), closed_for).await
        })
        .await
    })
    .await
}

/// Records that admission has been closed since this time, or with `None` that it is open.
pub(crate) async fn record_admission(
    db: &Db,
    outage: Option<(AlertKind, &'static str, DateTime<Utc>)>,
    settings: Arc<MailSettings>,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    db.run("record an outage", async move |conn| {
        conn.transaction(async |conn| {
            alerts::lock(conn).await?;
            let memory = AlertMemory {
                alerts: alerts::firing_or_named(conn, &[ADMISSION.to_owned()]).await?,
                ..AlertMemory::default()
            };
            let mut verdict = Verdict::default();
            if let Some((kind, summary, since)) = outage {
                let mut problem = Problem::outage(kind, summary);
                problem.findings = why_closed(&memory);
                // The caller has waited for the patience.
                let policy = MailPolicy {
                    patience: TimeDelta::zero(),
                    ..settings.policy
                };
                judging::observe(problem, &memory, policy, now, &mut verdict);
                let stored = verdict.alerts.iter_mut().map(|it| &mut it.first_seen_at);
                let told = verdict.problems.iter_mut().map(|it| &mut it.since);
                stored.chain(told).for_each(|at| *at = since.min(*at));
            } else if let Some(alert) = memory.alerts.get(ADMISSION) {
                judging::end(alert, now, &mut verdict);
            }
            let mut post = Post::new(conn, &settings, now);
            post.tell(verdict, &memory, None, None).await
        })
        .await
    })
    .await
}

/// Enqueues the mail and the event about the end of an outage that is in no table.
pub(crate) async fn enqueue_end(
    db: &Db,
    ended: Alert,
    settings: Arc<MailSettings>,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    db.run("enqueue mail", async move |conn| {
        conn.transaction(async |conn| {
            let mail = AlertMail {
                resolved: std::slice::from_ref(&ended),
                ..AlertMail::empty(&settings.links, now)
            };
            let mail = mail.render().map_err(unwritten)?;
            let thread = thread(&ended.name, ended.first_seen_at, &settings.domain);
            let event = webhook::of_resolved(&ended, None, &settings.links, now);
            let mut post = Post::new(conn, &settings, now);
            post.events(&[event]).await?;
            post.mail(&mail, &[thread]).await
        })
        .await
    })
    .await
}

/// Enqueues the mail that `decide` derives from the fact `name` in `reconciler_state`, and stores
/// the new fact in the same transaction. If several processes notice the same thing, only one of
/// them mails it.
pub(crate) async fn enqueue_once(
    db: &Db,
    settings: Arc<MailSettings>,
    now: DateTime<Utc>,
    name: String,
    decide: impl Fn(Option<&str>) -> anyhow::Result<Option<(Rendered, String, Option<Event>)>>
    + Send
    + Sync
    + 'static,
) -> Result<(), DbError> {
    db.run("enqueue mail", async move |conn| {
        conn.transaction(async |conn| {
            alerts::lock(conn).await?;
            let fact = runs::state(conn, &name).await?;
            let decided = decide(fact.as_deref()).map_err(unwritten)?;
            let Some((mail, fact, event)) = decided else {
                return Ok(());
            };
            let mut post = Post::new(conn, &settings, now);
            post.events(event.as_slice()).await?;
            post.mail(&mail, &[]).await?;
            runs::set_state(conn, &name, &fact).await
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
    let seen = judging::problems(run, &broken)
        .into_iter()
        .map(|it| it.name);
    let names: Vec<String> = seen.chain([ADMISSION.to_owned()]).collect();
    let known = alerts::firing_or_named(conn, &names).await?;
    let drops = known.values().filter_map(|alert| Some(alert.drop_id?.0));
    let of_alerts: Vec<i64> = drops.collect();
    let concerned: Vec<i64> = of_alerts.iter().copied().chain(examined).collect();
    Ok(AlertMemory {
        broken,
        silenced_until: alerts::silences(conn, &concerned).await?,
        gone: alerts::gone(conn, &of_alerts).await?,
        alerts: known,
    })
}

/// Writes mails and events in a transaction.
struct Post<'a> {
    conn: &'a mut Conn,
    settings: &'a MailSettings,
    now: DateTime<Utc>,
}

impl<'a> Post<'a> {
    fn new(conn: &'a mut Conn, settings: &'a MailSettings, now: DateTime<Utc>) -> Self {
        Self {
            conn,
            settings,
            now,
        }
    }

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
        let Verdict {
            problems, resolved, ..
        } = &verdict;
        let has_news = !(problems.is_empty() && resolved.is_empty());
        // Only a pass knows the drops.
        let repairs = match run {
            Some(_) => self.due_repairs(&verdict, memory, has_news).await?,
            None => Vec::new(),
        };
        if !has_news && repairs.is_empty() {
            return Ok(());
        }
        let names = problems.iter().map(|it| it.problem.name.as_str());
        let names: Vec<&str> = names
            .chain(resolved.iter().map(|it| it.name.as_str()))
            .collect();
        let ids = alerts::ids(self.conn, &names).await?;
        let links = &self.settings.links;
        let mail = AlertMail {
            run,
            problems,
            resolved,
            repairs: &repairs,
            broken: &memory.broken,
            ids: &ids,
            fates: &self.fates(resolved).await?,
            closed_for,
            ..AlertMail::empty(links, self.now)
        };
        let threads = threads(&mail, memory, &self.settings.domain);
        let written = mail.render().map_err(unwritten)?;
        let mut events = webhook::of_mail(&mail, &written);
        if events.len() > EVENTS {
            let more = events.split_off(EVENTS).len();
            events.push(webhook::of_more(more, links, self.now));
        }
        self.mail(&written, &threads).await?;
        self.events(&events).await?;
        alerts::repairs_are_mailed(self.conn, &repairs, self.now).await
    }

    /// Returns the repairs to mail now: all that are not mailed yet, or none. They wait while an
    /// outage lasts, which makes repairs necessary and is mailed itself, if mails about them come
    /// too often, and if all are silenced.
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
        all.extend(memory.alerts.values().map(|it| (it.name.as_str(), it)));
        all.extend(verdict.alerts.iter().map(|it| (it.name.as_str(), it)));
        let is_outage = |it: &&Alert| {
            let kind = AlertKind::from_word(&it.kind).filter(|kind| kind.is_outage());
            it.state == AlertState::Firing && kind.is_some()
        };
        let is_old = rows
            .first()
            .is_some_and(|row| row.repaired_at.and_utc() < since);
        if all.into_values().any(|it| is_outage(&it)) && !is_old {
            return Ok(Vec::new());
        }
        let pause = judging::pause(u32::try_from(mails.len()).unwrap_or(u32::MAX), policy);
        let is_too_soon = mails
            .first()
            .is_some_and(|at| elapsed(*at, self.now) < pause);
        let drops: Vec<i64> = rows.iter().map(|row| row.drop_id).collect();
        let silenced = alerts::silences(self.conn, &drops).await?;
        let is_heard = |row: &RepairsRow| {
            let until = silenced.get(&DropId(row.drop_id));
            let is_silent = until.is_some_and(|until| *until > self.now);
            row.kind == Kind::RedisLost.as_str() || !is_silent
        };
        let is_due = !is_too_soon && rows.iter().any(is_heard);
        Ok(if has_news || is_due { rows } else { Vec::new() })
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

    /// Enqueues a mail to each recipient.
    async fn mail(&mut self, mail: &Rendered, threads: &[String]) -> QueryResult<()> {
        let batch = Uuid::now_v7().to_string();
        let threads = threads.join(" ");
        let messages = self.settings.recipients.iter().map(|recipient| NewMessage {
            created_at: self.now.naive_utc(),
            next_attempt_at: self.now.naive_utc(),
            channel: Channel::Mail.word(),
            kind: mail.kind,
            batch: &batch,
            target: recipient,
            subject: &mail.subject,
            thread: Some(threads.as_str()).filter(|threads| !threads.is_empty()),
            body: mail.text.clone(),
            html: Some(&mail.html),
        });
        outbox::enqueue(self.conn, messages.collect()).await
    }

    /// Enqueues events to each webhook.
    async fn events(&mut self, events: &[Event]) -> QueryResult<()> {
        let (hooks, now) = (&self.settings.hooks, self.now);
        let messages = events.iter().flat_map(|event| {
            hooks.iter().map(move |hook| NewMessage {
                created_at: now.naive_utc(),
                next_attempt_at: now.naive_utc(),
                channel: Channel::Webhook.word(),
                kind: event.kind,
                batch: &event.id,
                target: &hook.name,
                subject: "",
                thread: None,
                body: event.body(hook.format),
                html: None,
            })
        });
        outbox::enqueue(self.conn, messages.collect()).await
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
    let problems = mail.problems.iter();
    let problems = problems.map(|it| thread(&it.problem.name, it.since, domain));
    let of_alert = |it: &Alert| thread(&it.name, it.first_seen_at, domain);
    let resolved = mail.resolved.iter().map(of_alert);
    // What Redis lost is told in the thread of its outage.
    let lost = Kind::RedisLost.as_str();
    let is_lost = mail.repairs.iter().any(|row| row.kind == lost);
    let outage = memory
        .alerts
        .get(ADMISSION)
        .filter(|it| is_lost && it.was_mailed());
    let outage = outage.filter(|it| elapsed(it.last_seen_at, mail.now) < TimeDelta::hours(1));
    let outage = outage.map(of_alert);
    problems
        .chain(resolved)
        .chain(outage)
        .take(THREADS)
        .collect()
}
