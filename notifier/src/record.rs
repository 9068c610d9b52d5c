//! Records the alerts of a pass and the mail about the changes in one transaction, so that a
//! restart neither repeats nor loses a mail.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::result::{Error, QueryResult};
use diesel_async::AsyncConnection as _;
use firstcome_shared::mysql::{Conn, Db, DbError, alerts, outbox, runs};
use uuid::Uuid;

use crate::alerts::{AlertMemory, AlertVerdict, judge, observe, repair_fingerprints};
use crate::render::{self, Rendered};
use crate::report::Run;
use crate::settings::MailSettings;
use crate::webhooks::{self, EventKind, WebhookEvent};

/// Maximum duration of recording a pass. Ten thousand findings take long to hash.
const LIMIT: Duration = Duration::from_secs(30);

/// Records the alerts of a pass and enqueues its mail, if there is one. Returns the number of
/// enqueued mails. It can be retried after a timeout, since a run is never mailed twice.
pub(super) async fn record_pass(
    db: &Db,
    run: Run,
    settings: Arc<MailSettings>,
    closed_for: Option<TimeDelta>,
    now: DateTime<Utc>,
) -> Result<usize, DbError> {
    db.run_within(LIMIT, "record alerts", async move |conn| {
        conn.transaction(async |conn| {
            alerts::lock(conn).await?;
            let memory = remember(conn, &run).await?;
            let verdict = judge(&run, &memory, settings.policy, now);
            for alert in &verdict.alerts {
                alerts::keep(conn, alert).await?;
            }
            let ids = alerts::ids(conn, &fingerprints(&verdict)).await?;
            let pass = render::PassMail {
                run: &run,
                verdict: &verdict,
                ids: &ids,
                links: &settings.links,
                closed_for,
                now,
            };
            settings
                .subscriptions
                .enqueue(conn, &webhooks::of_pass(&pass), now)
                .await?;
            settings
                .subscriptions
                .enqueue_of_drops(conn, &run, now)
                .await?;
            // If the run is judged again after a timeout, its repairs would be mailed twice.
            // Everything else is stored as mailed: the run of a daemon that waits for a store is
            // judged at each attempt, and mailed again after the cooldown. Events need no check,
            // because the outbox accepts each only once.
            let has_repairs = !(verdict.repaired.is_empty() && verdict.earlier.is_empty());
            if !verdict.says_something()
                || has_repairs && outbox::has_run(conn, &run.run_id).await?
            {
                return Ok(0);
            }
            let mail =
                render::pass(&pass).map_err(|error| Error::SerializationError(error.into()))?;
            let threads = threads(&verdict, &settings.domain);
            put_in_outbox(
                conn,
                &mail,
                Some(&run.run_id),
                threads.as_deref(),
                &settings,
                now,
            )
            .await
        })
        .await
    })
    .await
}

/// Enqueues an event that does not belong to a pass, and its mail.
pub(super) async fn enqueue(
    db: &Db,
    mail: Option<Rendered>,
    event: WebhookEvent,
    settings: Arc<MailSettings>,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    db.run("enqueue mail", async move |conn| {
        conn.transaction(async |conn| {
            settings
                .subscriptions
                .enqueue(conn, std::slice::from_ref(&event), now)
                .await?;
            let Some(mail) = &mail else { return Ok(()) };
            put_in_outbox(conn, mail, None, None, &settings, now)
                .await
                .map(drop)
        })
        .await
    })
    .await
}

/// A mail that does not belong to a pass, with the fact whose change prevents another process from
/// enqueueing the same mail.
pub(super) struct StandaloneMail {
    pub(super) mail: Rendered,
    /// The new value of the fact.
    pub(super) fact: String,
    /// The event for webhooks, if any.
    pub(super) event: Option<WebhookEvent>,
}

impl StandaloneMail {
    /// Adds the event for webhooks.
    pub(super) fn with_event(
        self,
        kind: EventKind,
        what: &str,
        since: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Self {
        let event = WebhookEvent::of_notice(kind, what, since, now, &self.mail);
        Self {
            event: Some(event),
            ..self
        }
    }
}

/// Enqueues the mail that `decide` derives from the fact `name` in `reconciler_state`, and changes
/// the fact in the same transaction. If several processes notice the same problem, only one of them
/// mails it.
pub(super) async fn enqueue_once(
    db: &Db,
    settings: Arc<MailSettings>,
    now: DateTime<Utc>,
    name: String,
    decide: impl Fn(Option<&str>, &MailSettings) -> anyhow::Result<Option<StandaloneMail>>
    + Send
    + Sync
    + 'static,
) -> Result<(), DbError> {
    db.run("enqueue mail", async move |conn| {
        conn.transaction(async |conn| {
            alerts::lock(conn).await?;
            let fact = runs::state(conn, &name).await?;
            let decided = decide(fact.as_deref(), &settings);
            let decided = decided.map_err(|error| Error::SerializationError(error.into()))?;
            let Some(notice) = decided else { return Ok(()) };
            settings
                .subscriptions
                .enqueue(conn, notice.event.as_slice(), now)
                .await?;
            put_in_outbox(conn, &notice.mail, None, None, &settings, now).await?;
            runs::set_state(conn, &name, &notice.fact).await
        })
        .await
    })
    .await
}

/// Reads the stored alerts that the decision needs.
async fn remember(conn: &mut Conn, run: &Run) -> QueryResult<AlertMemory> {
    let examined: Vec<i64> = run.drops.iter().map(|drop| drop.drop_id.0).collect();
    let broken = alerts::broken_promises(conn, &examined).await?;
    let mut seen = repair_fingerprints(run, &broken);
    seen.extend(observe(run, &broken).into_iter().map(|o| o.fingerprint));
    let known = alerts::open_or_seen(conn, &seen).await?;
    let of_alerts: Vec<i64> = known
        .iter()
        .filter_map(|alert| Some(alert.drop_id?.0))
        .collect();
    let concerned: Vec<i64> = of_alerts.iter().copied().chain(examined).collect();
    let mut memory = AlertMemory {
        broken,
        silenced_until: alerts::silences(conn, &concerned).await?,
        gone: alerts::gone(conn, &of_alerts).await?,
        ..AlertMemory::default()
    };
    for alert in known {
        memory.alerts.insert(alert.fingerprint.clone(), alert);
    }
    Ok(memory)
}

/// Returns the fingerprints of alerts that are mailed with their ID.
fn fingerprints(verdict: &AlertVerdict) -> Vec<&str> {
    let problems = verdict
        .problems
        .iter()
        .map(|notice| notice.observation.fingerprint.as_str());
    problems
        .chain(
            verdict
                .resolved
                .iter()
                .map(|alert| alert.fingerprint.as_str()),
        )
        .collect()
}

/// Writes one row per recipient.
async fn put_in_outbox(
    conn: &mut Conn,
    mail: &Rendered,
    run_id: Option<&str>,
    threads: Option<&str>,
    settings: &MailSettings,
    now: DateTime<Utc>,
) -> QueryResult<usize> {
    let id = Uuid::now_v7();
    let recipients = settings.recipients.iter().enumerate();
    let mails = recipients.map(|(at, recipient)| outbox::NewMail {
        created_at: now.naive_utc(),
        next_attempt_at: now.naive_utc(),
        kind: mail.kind,
        run_id,
        recipient,
        subject: &mail.subject,
        message_id: format!("{id}.{at}@{}", settings.domain),
        thread_refs: threads,
        body_text: &mail.text,
        body_html: &mail.html,
    });
    outbox::enqueue(conn, mails.collect()).await
}

/// Maximum number of threads of one mail.
const THREADS: usize = 10;

/// Returns the thread IDs of the drifts in a mail, most urgent first. Information that is mailed
/// once has none.
fn threads(verdict: &AlertVerdict, domain: &str) -> Option<String> {
    let thread_of = |fingerprint: &str| {
        verdict
            .alerts
            .iter()
            .find(|alert| alert.fingerprint == fingerprint)
            .map(|alert| format!("{}@{domain}", alert.thread))
    };
    let threads: Vec<String> = fingerprints(verdict)
        .into_iter()
        .filter_map(thread_of)
        .take(THREADS)
        .collect();
    (!threads.is_empty()).then(|| threads.join(" "))
}
