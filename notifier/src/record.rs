//! Records alerts, and the mail and the events about the changes, in one transaction, so that a
//! restart neither repeats nor loses a mail.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::result::{Error, QueryResult};
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::alerts::RepairsRow;
use firstcome_shared::mysql::{Conn, Db, DbError, alerts, outbox, runs};

use crate::alerts::{
    self as judging, ADMISSION, Alert, AlertMemory, AlertState, MailPolicy, NoticeReason, Problem,
    Verdict, names_only_promises,
};
use crate::clock::elapsed;
use crate::events::{self, Event};
use crate::mails::AlertMail;
use crate::report::{AlertKind, DropReport, Finding, Kind, Run, Status};
use crate::settings::MailSettings;
use crate::wording;

/// Maximum duration of recording.
const LIMIT: Duration = Duration::from_secs(30);

/// Maximum number of alerts of a pass that get an event. The mail counts all of them.
const EVENTS: usize = 100;

/// Maximum number of threads that one mail refers to.
const THREADS: usize = 10;

/// An observation to record.
#[derive(Debug, Clone)]
pub(crate) enum Seen {
    Pass {
        run: Box<Run>,
        /// Whether this process has recorded that Kafka is away.
        has_lost_kafka: bool,
    },
    /// An outage, and when it began. The caller has already waited for its patience.
    Outage(Problem, DateTime<Utc>),
    /// The outage with this name is over, if there was one, and if it is of one of these kinds. Of
    /// the others under the same name, the observer cannot tell whether they are over.
    Over { name: String, kinds: Vec<AlertKind> },
    /// The end of an outage that could not be recorded while it lasted.
    OverUnrecorded(Box<Alert>),
}

/// Records what was seen. It can be repeated after a timeout: what is stored as mailed is not
/// mailed again.
pub(crate) async fn record(
    db: &Db,
    seen: Seen,
    settings: Arc<MailSettings>,
    now: DateTime<Utc>,
) -> Result<(), DbError> {
    let db = db.within(LIMIT);
    db.transaction("record alerts", async move |conn| {
        alerts::lock(conn).await?;
        record_locked(conn, &seen, &settings, now).await
    })
    .await
}

/// Like [`record`], in the caller's transaction, which holds the lock of the alerts.
pub(crate) async fn record_locked(
    conn: &mut Conn,
    seen: &Seen,
    settings: &MailSettings,
    now: DateTime<Utc>,
) -> QueryResult<()> {
    let mut memory = seen.remember(conn).await?;
    if settings.has_readers() {
        memory.forget_unread();
    }
    let verdict = seen.verdict(&memory, settings.policy, now);
    let mut post = Post {
        conn,
        settings,
        now,
    };
    post.enqueue(seen, &verdict, &memory).await
}

impl Seen {
    /// The pass, unless it is a dry run or still runs.
    fn run(&self) -> Option<&Run> {
        match self {
            Self::Pass { run, .. } if !run.dry_run && run.status != Status::Running => Some(run),
            _ => None,
        }
    }

    /// Reads the stored alerts that the decision needs.
    async fn remember(&self, conn: &mut Conn) -> QueryResult<AlertMemory> {
        let mut broken = Vec::new();
        let names = match self {
            Self::Pass { run, .. } => {
                let examined: Vec<i64> = run.drops.iter().map(|drop| drop.drop_id.0).collect();
                broken = alerts::broken_promises(conn, &examined).await?;
                let seen = judging::problems(run, &broken).into_iter();
                let names = seen.map(|it| it.name);
                names.chain([ADMISSION.to_owned()]).collect()
            }
            Self::Outage(problem, _) => vec![problem.name.clone()],
            Self::Over { name, .. } => vec![name.clone()],
            Self::OverUnrecorded(alert) => vec![alert.name.clone()],
        };
        let known = alerts::firing_or_named(conn, &names).await?;
        if let Self::Pass { run, .. } = self {
            // Also read the broken promises of drops that this pass did not examine, if there is an
            // alert about them.
            let promises = Kind::BrokenPromise.as_str();
            let of_promises = known.values().filter(|it| it.kind == promises);
            let mut others: Vec<i64> = of_promises.filter_map(|it| Some(it.drop_id?.0)).collect();
            others.retain(|id| run.drops.iter().all(|drop| drop.drop_id.0 != *id));
            if !others.is_empty() {
                broken.extend(alerts::broken_promises(conn, &others).await?);
            }
        }
        Ok(AlertMemory {
            alerts: known,
            broken,
            has_lost_kafka: matches!(
                self,
                Self::Pass {
                    has_lost_kafka: true,
                    ..
                }
            ),
        })
    }

    fn verdict(&self, memory: &AlertMemory, policy: MailPolicy, now: DateTime<Utc>) -> Verdict {
        let mut verdict = Verdict::default();
        match self {
            Self::Pass { run, .. } => return judging::judge(run, memory, policy, now),
            Self::Outage(problem, since) => {
                let mut problem = problem.clone();
                let is_closed = problem.kind == AlertKind::AdmissionClosed;
                if is_closed && judging::are_held_back(&problem.findings, memory) {
                    return verdict;
                }
                if problem.name == ADMISSION && problem.kind != AlertKind::RedisRefuses {
                    let lost = AlertKind::Left(Kind::RedisLost);
                    let lost: Vec<&Alert> = judging::firing(memory, lost).collect();
                    problem.findings = lost
                        .iter()
                        .map(|it: &&Alert| Finding::report(Kind::RedisLost, it.summary.clone()))
                        .collect();
                    let closed: u64 = lost.iter().map(|it| it.size).sum();
                    if is_closed && closed > 0 {
                        let coupons = wording::count(closed, "coupon is", "coupons are");
                        problem.summary = format!("{coupons} closed");
                    }
                }
                let may_follow_closure = problem.name == ADMISSION && !is_closed;
                let policy = MailPolicy {
                    patience: TimeDelta::zero(),
                    ..policy
                };
                // The mails of an alert that fires, or that has ended since, count from its own
                // beginning.
                let known = memory.alerts.get(&problem.name);
                let begins = known.is_none_or(|it| it.resolved_at.is_some_and(|at| at < *since));
                judging::observe(problem, memory, policy, now, &mut verdict);
                for alert in verdict.alerts.iter_mut().filter(|_| begins) {
                    alert.first_seen_at = alert.first_seen_at.min(*since);
                }
                for notice in &mut verdict.problems {
                    notice.since = match notice.reason {
                        // The alert fires for longer, about coupons that were closed before.
                        NoticeReason::Changed | NoticeReason::Repeat if may_follow_closure => {
                            *since
                        }
                        NoticeReason::New | NoticeReason::Changed | NoticeReason::Repeat => {
                            notice.since.min(*since)
                        }
                    };
                }
            }
            Self::Over { name, kinds } => {
                let known = memory.alerts.get(name);
                let kind = known.and_then(|it| AlertKind::from_word(&it.kind));
                let is_over = kind.is_some_and(|kind| kinds.contains(&kind));
                if let Some(alert) = known.filter(|_| is_over) {
                    judging::end(alert, now, &mut verdict);
                }
            }
            // A process that was killed before it forgot the outage records its end again.
            Self::OverUnrecorded(alert) if is_recorded(alert, memory) => {}
            Self::OverUnrecorded(alert) => {
                // It could not be recorded while it lasted.
                verdict.alerts.push(*alert.clone());
                verdict.resolved.push(*alert.clone());
            }
        }
        verdict
    }
}

/// Whether the end of this outage is in the tables.
fn is_recorded(ended: &Alert, memory: &AlertMemory) -> bool {
    memory.alerts.get(&ended.name).is_some_and(|it: &Alert| {
        it.state == AlertState::Resolved && it.first_seen_at == ended.first_seen_at
    })
}

pub(crate) fn unwritten(error: anyhow::Error) -> Error {
    Error::SerializationError(error.into())
}

/// Writes mails and events in a transaction.
struct Post<'a> {
    conn: &'a mut Conn,
    settings: &'a MailSettings,
    now: DateTime<Utc>,
}

impl Post<'_> {
    /// Stores alerts and repairs, and puts the mail and the events about them, and about drops that
    /// were sealed, into the outbox, all in the caller's transaction.
    async fn enqueue(
        &mut self,
        seen: &Seen,
        verdict: &Verdict,
        memory: &AlertMemory,
    ) -> QueryResult<()> {
        let has_readers = self.settings.has_readers();
        for alert in &verdict.alerts {
            if has_readers {
                alerts::keep(self.conn, alert).await?;
            } else {
                let is_sealed = seen.run().is_some_and(|run| is_sealed(alert, run));
                let unread = judging::unread(alert, is_sealed, memory, self.now);
                alerts::keep(self.conn, &unread).await?;
            }
        }
        let problems = &verdict.problems;
        let resolved = &verdict.resolved;
        let mut repairs = Vec::new();
        // Only a pass knows the drops.
        if let Some(run) = seen.run() {
            self.keep_repairs(run, memory).await?;
            // This leaves out drops that were sealed before: a deep pass reads their rows, but no
            // users.
            let sealed = run
                .drops
                .iter()
                .filter(|drop: &&DropReport| drop.sealed && drop.after.users == drop.after.rows)
                .filter(|drop: &&DropReport| !names_only_promises(drop))
                .map(|it| events::about_sealed(it, self.now));
            self.events(sealed.collect()).await?;
        }
        if !has_readers {
            return Ok(());
        }
        if seen.run().is_some() {
            repairs = self.due_repairs(verdict, memory).await?;
        }
        if problems.is_empty() && resolved.is_empty() && repairs.is_empty() {
            return Ok(());
        }
        let mut names: Vec<&str> = problems.iter().map(|it| it.problem.name.as_str()).collect();
        names.extend(resolved.iter().map(|it| it.name.as_str()));
        let kept = self.kept_run(seen).await?;
        let mail = AlertMail {
            run: kept.as_ref().or(seen.run()),
            problems,
            resolved,
            repairs: &repairs,
            broken: &memory.broken,
            ids: alerts::ids(self.conn, &names).await?,
            older_since: alerts::reopened_since(self.conn, &repairs).await?,
            fates: self.fates(resolved).await?,
            ..AlertMail::empty(&self.settings.links, self.now)
        };
        let threads = threads(&mail, verdict, memory, &self.settings.domain);
        let written = mail.render().map_err(unwritten)?;
        let messages = self.settings.mails(&written, &threads, self.now);
        outbox::enqueue(self.conn, messages).await?;
        let events = events::about_alerts(&mail).into_iter();
        self.events(events.take(EVENTS).collect()).await?;
        if repairs.is_empty() {
            return Ok(());
        }
        alerts::mark_repairs_mailed(self.conn, self.now).await
    }

    /// If an earlier pass found the same and keeps the findings, returns this pass under the id of
    /// that one: its own id is deleted after a day.
    async fn kept_run(&mut self, seen: &Seen) -> QueryResult<Option<Run>> {
        let Some(run) = seen.run() else {
            return Ok(None);
        };
        let same_as = runs::same_as(&run.run_id).first(self.conn).await?;
        Ok(same_as.map(|run_id: String| Run {
            run_id,
            ..run.clone()
        }))
    }

    async fn keep_repairs(&mut self, run: &Run, memory: &AlertMemory) -> QueryResult<()> {
        let rows =
            judging::repairs(run, &memory.broken)
                .into_iter()
                .map(|((drop, kind), number)| RepairsRow {
                    run_id: run.run_id.clone(),
                    drop_id: drop.map_or(0, |drop| drop.0),
                    kind: kind.as_str().to_owned(),
                    number: u32::try_from(number).unwrap_or(u32::MAX),
                    repaired_at: self.now,
                });
        alerts::keep_repairs(self.conn, rows.collect()).await
    }

    async fn events(&mut self, events: Vec<Event>) -> QueryResult<()> {
        outbox::enqueue(self.conn, self.settings.posts(&events, self.now)).await
    }

    /// Returns the repairs to mail now: all that are not mailed yet, or none. They wait, for the
    /// cooldown at most, while an outage or a standstill of the consumers lasts, which makes
    /// repairs necessary and is mailed itself. They also wait while mails about repairs come too
    /// often, unless something else is mailed now.
    async fn due_repairs(
        &mut self,
        verdict: &Verdict,
        memory: &AlertMemory,
    ) -> QueryResult<Vec<RepairsRow>> {
        let policy = self.settings.policy;
        let since = self.now - policy.cooldown;
        let (rows, mails) = alerts::unmailed_repairs(self.conn, since).await?;
        let mut all: HashMap<&str, &Alert> = HashMap::new();
        for alert in memory.alerts.values().chain(&verdict.alerts) {
            all.insert(&alert.name, alert);
        }
        let oldest = rows.first().map(|row| row.repaired_at);
        let is_recent = oldest.is_none_or(|oldest| oldest >= since);
        if is_recent && all.values().any(|alert| explains_repairs(alert)) {
            return Ok(Vec::new());
        }
        let has_news = !(verdict.problems.is_empty() && verdict.resolved.is_empty());
        // Users who were on a waiting list may need to know.
        let has_lost_data = rows.iter().any(|it| it.kind == Kind::RedisLost.as_str());
        let most = if has_lost_data {
            judging::OUTAGE_PAUSE
        } else {
            policy.cooldown
        };
        let pause =
            judging::pause(u32::try_from(mails.len()).unwrap_or(u32::MAX), policy).min(most);
        let last = mails.first();
        let is_too_soon = last.is_some_and(|at| elapsed(*at, self.now) < pause);
        let is_due = has_news || !is_too_soon;
        Ok(if is_due { rows } else { Vec::new() })
    }

    /// Returns, by drop, what became of the users whose broken promises are over.
    async fn fates(&mut self, over: &[Alert]) -> QueryResult<HashMap<DropId, [i64; 2]>> {
        let word = Kind::BrokenPromise.as_str();
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

/// Whether the run reports the drop of this alert as sealed.
fn is_sealed(alert: &Alert, run: &Run) -> bool {
    let mut own = run
        .drops
        .iter()
        .filter(|it: &&DropReport| Some(it.drop_id) == alert.drop_id);
    own.any(|it| it.sealed)
}

/// Whether an alert fires about an outage or a standstill of the consumers.
fn explains_repairs(alert: &Alert) -> bool {
    let is_such = match AlertKind::from_word(&alert.kind) {
        Some(AlertKind::Left(Kind::Stalled)) => alert.coupon_id.is_none(),
        kind => kind.is_some_and(AlertKind::is_outage),
    };
    is_such && alert.state == AlertState::Firing
}

/// The Message-ID that every mail about one alert refers to. No mail has this ID itself, but mail
/// programs group mails that refer to the same ID.
pub(crate) fn thread(name: &str, since: DateTime<Utc>, domain: &str) -> String {
    format!("alert.{name}.{}@{domain}", since.timestamp_millis())
}

fn threads(
    mail: &AlertMail<'_>,
    verdict: &Verdict,
    memory: &AlertMemory,
    domain: &str,
) -> Vec<String> {
    let is_noticed = |it: &&Alert| mail.problems.iter().any(|of| of.problem.name == it.name);
    let problems = verdict.alerts.iter().filter(is_noticed);
    let mailed = problems.chain(mail.resolved);
    let mut named: Vec<(&str, DateTime<Utc>)> = mailed
        .map(|it: &Alert| (it.name.as_str(), it.first_seen_at))
        .collect();
    // A mail about data that Redis lost also belongs to the thread of its outage.
    let lost = Kind::RedisLost.as_str();
    if mail.repairs.iter().any(|row| row.kind == lost) {
        let outage = memory
            .alerts
            .get(ADMISSION)
            .filter(|it| it.was_mailed())
            .filter(|it: &&Alert| elapsed(it.last_seen_at, mail.now) < TimeDelta::hours(1));
        named.extend(outage.map(|it| (it.name.as_str(), it.first_seen_at)));
    }
    let named = named.into_iter().take(THREADS);
    named
        .map(|(name, since)| thread(name, since, domain))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn end_of_an_outage_is_mailed_once_if_the_process_is_killed_before_it_forgets() {
        let ended = |second| Alert {
            name: "mysql".to_owned(),
            state: AlertState::Resolved,
            first_seen_at: DateTime::from_timestamp(second, 0).unwrap(),
            ..Alert::default()
        };
        let policy = MailPolicy {
            cooldown: TimeDelta::hours(4),
            patience: TimeDelta::zero(),
        };
        let mails = |memory: &AlertMemory, second| {
            let seen = Seen::OverUnrecorded(Box::new(ended(second)));
            let verdict = seen.verdict(memory, policy, DateTime::UNIX_EPOCH);
            verdict.resolved.len()
        };
        let mut memory = AlertMemory::default();
        assert_eq!(mails(&memory, 100), 1);
        memory.alerts.insert("mysql".to_owned(), ended(100));
        assert_eq!(mails(&memory, 100), 0);
        assert_eq!(mails(&memory, 200), 1, "another outage");
    }
}
