//! Records a pass in one transaction: alerts as they are now, and the mail about what changed. So
//! no restart makes a mail come twice or not at all.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::result::{Error, QueryResult};
use diesel_async::AsyncConnection as _;
use firstcome_shared::mysql::{Conn, Db, DbError, alerts, outbox};
use uuid::Uuid;

use crate::MailSettings;
use crate::alerts::{AlertMemory, AlertVerdict, judge, observe, repair_fingerprints, unmailed_repairs_since};
use crate::render::{self, Rendered};
use crate::report::Run;

/// Longest that recording a pass may take; one with ten thousand findings has much to hash.
const LIMIT: Duration = Duration::from_secs(30);

/// Records the alerts of a pass and enqueues its mail, if it has one. Gives the number of mails
/// enqueued. A run that was mailed already is not mailed again, so this may be tried again after a
/// timeout.
pub(super) async fn record_pass(
    db: &Db,
    run: Run,
    settings: Arc<MailSettings>,
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
            // Judged again after a timeout, only repairs would be mailed twice: all else is
            // remembered as mailed.
            if !verdict.says_something() || outbox::has_run(conn, &run.run_id).await? {
                return Ok(0);
            }
            let problems: Vec<&str> =
                verdict.problems.iter().map(|notice| notice.observation.fingerprint.as_str()).collect();
            let ids = alerts::ids(conn, &problems).await?;
            let pass = render::Pass { run: &run, verdict: &verdict, ids: &ids, links: &settings.links, now };
            let mail = render::pass(&pass).map_err(|error| Error::SerializationError(error.into()))?;
            let threads = threads(&verdict, &settings.domain);
            put_in_outbox(conn, &mail, Some(&run.run_id), threads.as_deref(), &settings, now).await
        })
        .await
    })
    .await
}

/// Enqueues a mail that belongs to no pass.
pub(super) async fn enqueue(
    db: &Db,
    mail: Rendered,
    settings: Arc<MailSettings>,
    now: DateTime<Utc>,
) -> Result<usize, DbError> {
    db.run("enqueue mail", async move |conn| {
        conn.transaction(async |conn| put_in_outbox(conn, &mail, None, None, &settings, now).await).await
    })
    .await
}

/// The rows that the decision needs.
async fn remember(conn: &mut Conn, run: &Run) -> QueryResult<AlertMemory> {
    let examined: Vec<i64> = run.drops.iter().map(|drop| drop.drop_id.0).collect();
    let broken = alerts::broken_promises(conn, &examined).await?;
    let mut seen = repair_fingerprints(run, &broken);
    seen.extend(observe(run, &broken).into_iter().map(|o| o.fingerprint));
    let known = alerts::open_or_seen(conn, &seen).await?;
    let concerned: Vec<i64> = known.iter().filter_map(|alert| Some(alert.drop_id?.0)).chain(examined).collect();
    let mut memory =
        AlertMemory { broken, silenced_until: alerts::silences(conn, &concerned).await?, ..AlertMemory::default() };
    let unmailed = known.iter().filter_map(|alert| Some((alert.drop_id, unmailed_repairs_since(alert)?)));
    let unmailed: Vec<_> = unmailed.collect();
    if !unmailed.is_empty() {
        memory.unmailed_repairs = alerts::repairs_since(conn, &unmailed, &run.run_id).await?;
    }
    memory.alerts = known.into_iter().map(|alert| (alert.fingerprint.clone(), alert)).collect();
    Ok(memory)
}

/// One row a recipient.
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

/// Most threads that one mail belongs to.
const THREADS: usize = 10;

/// The threads of the drifts that a mail is about, the most pressing first; none for what is mailed
/// once.
fn threads(verdict: &AlertVerdict, domain: &str) -> Option<String> {
    let notice = verdict.problems.iter().map(|notice| notice.observation.fingerprint.as_str());
    let notice = notice.chain(verdict.resolved.iter().map(|alert| alert.fingerprint.as_str()));
    let thread_of = |fingerprint: &str| {
        verdict
            .alerts
            .iter()
            .find(|alert| alert.fingerprint == fingerprint)
            .map(|alert| format!("{}@{domain}", alert.thread))
    };
    let threads: Vec<String> = notice.filter_map(thread_of).take(THREADS).collect();
    (!threads.is_empty()).then(|| threads.join(" "))
}
