//! Alerts without MySQL: while it cannot be used, each daemon tells its targets itself what it sees
//! of MySQL, Redis and the gates, by the same rules, in memory. Told is what was delivered. Once
//! MySQL is back, the first evaluation takes over what was told, and ends it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::mysql::outbox::Outgoing;
use firstcome_shared::process_state::{ProcessState, StoreState};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::alert::{Alert, Alerts};
use crate::condition::{Condition, StoreProblem};
use crate::conditions::{of_closed, of_store};
use crate::decide::{Verdict, decide};
use crate::events;
use crate::mails::{Decided, ReadMail};
use crate::report::{AlertKind, FailureCause, StoreRefusal};
use crate::send::Sender;
use crate::settings::MailSettings;

/// The pause after an attempt that failed: the mail server may be away for a moment, too.
const RETRY: TimeDelta = TimeDelta::minutes(1);

/// Why MySQL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MysqlFailure {
    pub(crate) error: String,
    /// It does not answer at all.
    pub(crate) is_away: bool,
}

/// What this process has told without MySQL.
#[derive(Debug)]
pub(crate) struct Local {
    /// The zero of this process's monotonic clock.
    zero: (DateTime<Utc>, Instant),
    told: Mutex<LocalTold>,
}

#[derive(Debug, Default)]
struct LocalTold {
    /// What was told before MySQL went away.
    before: Vec<Alert>,
    targets: HashMap<String, Target>,
}

#[derive(Debug, Clone, Default)]
struct Target {
    alerts: Alerts,
    is_under_way: bool,
    failed_at: Option<DateTime<Utc>>,
}

/// A mail that is on its way to a target.
struct Attempt {
    target: String,
    messages: Vec<Outgoing>,
    verdict: Verdict,
}

impl Default for Local {
    fn default() -> Self {
        Self {
            zero: (Utc::now(), Instant::now()),
            told: Mutex::default(),
        }
    }
}

impl Local {
    fn now(&self) -> DateTime<Utc> {
        let (time, instant) = self.zero;
        time + TimeDelta::from_std(instant.elapsed()).unwrap_or_default()
    }

    /// Notes what was told so far, by MySQL's clock, for the next time that it cannot be used.
    pub(crate) fn remember<'a>(&self, told: impl Iterator<Item = &'a Alert>, now: DateTime<Utc>) {
        let ahead = self.now() - now;
        let seen = told.filter(|alert| {
            ["redis", "mysql"].contains(&alert.name.as_str())
                || alert.kind == AlertKind::AdmissionClosed.word()
        });
        self.told.lock().before = seen.map(|alert| alert.moved(ahead)).collect();
    }

    /// Returns what was told while MySQL could not be used, by MySQL's clock.
    pub(crate) fn to_adopt(&self, now: DateTime<Utc>) -> Vec<Alert> {
        let ahead = now - self.now();
        let own = self.told.lock();
        let mut adopted: HashMap<String, Alert> = HashMap::new();
        for target in own.targets.values() {
            // Those with an id were told by the outbox.
            let own = target.alerts.all_open().filter(|it| it.id.is_none());
            for alert in own.filter(|it| it.told_at.is_some()) {
                let moved = alert.moved(ahead);
                adopted.entry(alert.name.clone()).or_insert(moved);
            }
        }
        adopted.into_values().collect()
    }

    /// Forgets what was told: it is adopted. What is on its way is adopted once it has arrived.
    pub(crate) fn forget(&self) {
        let mut own = self.told.lock();
        own.targets.retain(|_, target| target.is_under_way);
    }

    /// Tells each target what is due.
    pub(crate) fn tell(
        self: &Arc<Self>,
        sender: &Sender,
        settings: &MailSettings,
        failure: &MysqlFailure,
        state: &ProcessState,
    ) {
        let now = self.now();
        let seen = seen(failure, state);
        let mut targets = settings.targets(sender.mailer.is_some());
        targets.sort_unstable();
        for target in targets {
            if let Some(attempt) = self.attempt(&target, settings, &seen, now) {
                tokio::spawn(deliver(self.clone(), sender.clone(), attempt));
            }
        }
    }

    /// Decides what a target is told now, if nothing is on its way to it.
    fn attempt(
        &self,
        target: &str,
        settings: &MailSettings,
        seen: &[Condition],
        now: DateTime<Utc>,
    ) -> Option<Attempt> {
        let mut own = self.told.lock();
        let before = own.before.clone();
        let to = own
            .targets
            .entry(target.to_owned())
            .or_insert_with(|| Target {
                alerts: Alerts::new(before, now),
                ..Target::default()
            });
        let is_too_soon = to.failed_at.is_some_and(|at| now - at < RETRY);
        if to.is_under_way || is_too_soon {
            return None;
        }
        let unknown = BTreeSet::new();
        let verdict = decide(now, seen, &unknown, &to.alerts, &settings.policy, false);
        let told: BTreeSet<&str> = (verdict.notices.iter())
            .map(|it| it.alert.name.as_str())
            .collect();
        for alert in verdict
            .alerts
            .iter()
            .filter(|it| !told.contains(it.name.as_str()))
        {
            to.alerts.put(alert.clone());
        }
        if verdict.notices.is_empty() {
            return None;
        }
        for notice in &verdict.notices {
            // The patience counts on, even if the attempt fails.
            if to.alerts.open(&notice.alert.name).is_none() {
                to.alerts.put(Alert {
                    told_at: None,
                    tells: 0,
                    ..notice.alert.clone()
                });
            }
        }
        let messages = messages(target, settings, seen, &verdict, now)?;
        to.is_under_way = true;
        let target = target.to_owned();
        Some(Attempt {
            target,
            messages,
            verdict,
        })
    }

    /// Notes how an attempt ended.
    fn ended(&self, attempt: &Attempt, has_arrived: bool) {
        let now = self.now();
        let mut own = self.told.lock();
        let Some(to) = own.targets.get_mut(&attempt.target) else {
            return;
        };
        to.is_under_way = false;
        to.failed_at = (!has_arrived).then_some(now);
        if has_arrived {
            for alert in &attempt.verdict.alerts {
                to.alerts.put(Alert {
                    is_unsent: false,
                    ..alert.clone()
                });
            }
        }
    }
}

async fn deliver(local: Arc<Local>, sender: Sender, attempt: Attempt) {
    let mut has_arrived = true;
    for message in &attempt.messages {
        if let Err(error) = sender.deliver(message).await {
            let target = &message.target;
            tracing::error!(%error, target, "nobody is told there that MySQL cannot be used");
            has_arrived = false;
        }
    }
    local.ended(&attempt, has_arrived);
}

/// What this process sees without MySQL.
fn seen(failure: &MysqlFailure, state: &ProcessState) -> Vec<Condition> {
    let error = failure.error.clone();
    let refusal = StoreRefusal::from_error(FailureCause::Mysql, &error);
    let kind = match (refusal, failure.is_away) {
        (Some(_), _) => AlertKind::MysqlRefuses,
        (None, true) => AlertKind::MysqlUnreachable,
        (None, false) => AlertKind::AlertsNotRecorded,
    };
    let problem = |refusal, error| StoreProblem {
        refusal,
        error,
        hosts: Vec::new(),
    };
    let mut seen = vec![of_store("mysql", kind, vec![problem(refusal, error)])];
    match &state.redis {
        Some(StoreState::Refuses(error)) => {
            let refusal = StoreRefusal::from_error(FailureCause::Redis, error);
            let problem = problem(refusal, error.clone());
            seen.push(of_store("redis", AlertKind::RedisRefuses, vec![problem]));
        }
        Some(StoreState::Away(error) | StoreState::Partly(error)) => {
            let problem = problem(None, error.clone());
            seen.push(of_store(
                "redis",
                AlertKind::RedisUnreachable,
                vec![problem],
            ));
        }
        Some(StoreState::Fine) | None => {}
    }
    seen.extend(state.closed.clone().and_then(of_closed));
    seen
}

/// The messages of a verdict to one target.
fn messages(
    target: &str,
    settings: &MailSettings,
    seen: &[Condition],
    verdict: &Verdict,
    now: DateTime<Utc>,
) -> Option<Vec<Outgoing>> {
    let decided = Decided {
        seen,
        known: &Alerts::default(),
        verdict,
        rows: &HashMap::new(),
        given_up: &HashSet::new(),
        now,
    };
    let mail = ReadMail::local(&settings.links, decided);
    let written = match mail.render() {
        Ok(written) => written,
        Err(error) => {
            tracing::error!(%error, "the mail about MySQL is not written");
            return None;
        }
    };
    let threads = mail.threads(&settings.domain);
    let mut messages = settings.posts(&events::about_alerts(&mail), now);
    messages.extend(settings.mails(&written, &threads, now));
    messages.retain(|message| message.target == target);
    Some(messages)
}

impl Alert {
    /// Returns it by another clock.
    fn moved(&self, by: TimeDelta) -> Self {
        let moved = |at: Option<DateTime<Utc>>| at.map(|at| at + by);
        Self {
            began_at: self.began_at + by,
            waits_from: moved(self.waits_from),
            gone_at: moved(self.gone_at),
            told_at: moved(self.told_at),
            ended_at: moved(self.ended_at),
            acknowledged_at: moved(self.acknowledged_at),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::report::COMMITS_HANG;

    use super::*;
    use crate::mails::Links;
    use crate::times::Policy;

    fn settings() -> MailSettings {
        MailSettings {
            recipients: vec!["a@example.org".to_owned()],
            domain: "example.org".to_owned(),
            links: Links::default(),
            policy: Policy {
                repeat: TimeDelta::hours(4),
                patience: TimeDelta::seconds(30),
            },
            hooks: Vec::new(),
        }
    }

    fn without(error: &str, state: &ProcessState) -> Vec<Condition> {
        let failure = MysqlFailure {
            error: error.to_owned(),
            is_away: true,
        };
        seen(&failure, state)
    }

    fn away() -> Vec<Condition> {
        without("Connection refused", &ProcessState::default())
    }

    /// Attempts at this second what is due then.
    fn attempt(local: &Local, seen: &[Condition], second: i64) -> Option<Attempt> {
        let at = local.zero.0 + TimeDelta::seconds(second);
        local.attempt("a@example.org", &settings(), seen, at)
    }

    #[test]
    fn target_that_is_away_is_tried_again_after_a_minute() {
        let local = Local::default();
        assert!(attempt(&local, &away(), 0).is_none());
        let first = attempt(&local, &away(), 30).unwrap();
        assert!(attempt(&local, &away(), 35).is_none(), "it is under way");
        local.ended(&first, false);
        assert!(attempt(&local, &away(), 55).is_none());
        assert!(attempt(&local, &away(), 95).is_some());
    }

    #[test]
    fn what_nobody_got_is_not_told() {
        let local = Local::default();
        attempt(&local, &away(), 0);
        let first = attempt(&local, &away(), 30).unwrap();
        local.ended(&first, false);
        assert_eq!(local.to_adopt(local.now()), []);
    }

    /// MySQL may be back before the mail server has answered.
    #[test]
    fn mail_that_arrives_after_mysql_is_back_is_adopted() {
        let local = Local::default();
        attempt(&local, &away(), 0);
        let first = attempt(&local, &away(), 30).unwrap();
        assert_eq!(local.to_adopt(local.now()), []);
        local.forget();
        local.ended(&first, true);
        let adopted = local.to_adopt(local.now());
        assert_eq!(adopted.len(), 1);
        local.forget();
        assert_eq!(local.to_adopt(local.now()), [], "once");
    }

    #[test]
    fn what_is_due_together_is_one_mail() {
        let local = Local::default();
        let state = ProcessState {
            redis: Some(StoreState::Away("Connection refused".to_owned())),
            ..ProcessState::default()
        };
        let seen = without("Connection refused", &state);
        attempt(&local, &seen, 0);
        let first = attempt(&local, &seen, 30).unwrap();
        assert_eq!(first.verdict.notices.len(), 2);
        assert_eq!(first.messages.len(), 1);
    }

    #[test]
    fn commits_that_hang_are_named() {
        let seen = without(COMMITS_HANG, &ProcessState::default());
        assert_eq!(seen[0].kind, AlertKind::MysqlRefuses);
    }
}
