//! Alerts without MySQL: while it cannot be used, each daemon tells its targets itself what it sees
//! of MySQL, Redis and the gates, by the same rules, in memory. Told is what was delivered. Once
//! MySQL is back, the first evaluation takes over what was told, and ends it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::mysql::processes::FreshProcess;
use firstcome_shared::process_state::{ProcessState, StoreState};
use firstcome_shared::report::AlertKind;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::alert::{Alerts, moved};
use crate::condition::Condition;
use crate::conditions::{Snapshot, conditions};
use crate::decide::{Decision, decide};
use crate::events;
use crate::mails::{AlertMail, Sources};
use crate::queries::alerts::ToldRow;
use crate::queries::outbox::Outgoing;
use crate::send::Sender;
use crate::settings::MailSettings;
use crate::times::{Source, source};

/// The pause after an attempt that failed: the mail server may be away for a moment, too.
const RETRY: TimeDelta = TimeDelta::minutes(1);

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
    before: Vec<ToldRow>,
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
    alerts: Vec<ToldRow>,
}

/// What this process sees of MySQL, Redis and the gates, and what it does not know.
#[derive(Debug, Clone)]
struct SeenAlone {
    seen: Vec<Condition>,
    unknown: BTreeSet<Source>,
}

impl SeenAlone {
    fn new(mysql: StoreState, known: ProcessState, now: DateTime<Utc>) -> Self {
        let state = ProcessState {
            redis: known.redis,
            mysql: Some(mysql),
            closed: known.closed,
            ..ProcessState::default()
        };
        let process = FreshProcess {
            state,
            ..FreshProcess::default()
        };
        let snapshot = Snapshot {
            processes: vec![process],
            ..Snapshot::default()
        };
        let (seen, unknown) = conditions(&snapshot, now);
        Self { seen, unknown }
    }
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
    pub(crate) fn remember<'a>(&self, told: impl Iterator<Item = &'a ToldRow>, now: DateTime<Utc>) {
        let ahead = self.now() - now;
        let seen = told.filter(|alert| {
            let kind = AlertKind::from_word(&alert.kind);
            let seen_alone = [Source::Redis, Source::Mysql, Source::Gates];
            kind.is_some_and(|kind| seen_alone.contains(&source(kind)))
        });
        self.told.lock().before = seen.map(|alert| moved(alert, ahead)).collect();
    }

    /// Returns what was told while MySQL could not be used, by MySQL's clock.
    pub(crate) fn to_adopt(&self, now: DateTime<Utc>) -> Vec<ToldRow> {
        let ahead = now - self.now();
        let own = self.told.lock();
        let mut adopted: HashMap<String, ToldRow> = HashMap::new();
        for target in own.targets.values() {
            // Those with an id were told by the outbox.
            let own = target.alerts.all_open().filter(|it| it.id == 0);
            for alert in own.filter(|it| it.told_at.is_some()) {
                let name = alert.name.clone();
                adopted.entry(name).or_insert_with(|| moved(alert, ahead));
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
        mysql: StoreState,
        known: ProcessState,
    ) {
        let now = self.now();
        let alone = SeenAlone::new(mysql, known, now);
        let mut targets = settings.targets(sender.mailer.is_some());
        targets.sort_unstable();
        for target in targets {
            if let Some(attempt) = self.attempt(&target, settings, &alone, now) {
                tokio::spawn(deliver(self.clone(), sender.clone(), attempt));
            }
        }
    }

    /// Decides what a target is told now, if nothing is on its way to it.
    fn attempt(
        &self,
        target: &str,
        settings: &MailSettings,
        alone: &SeenAlone,
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
        let SeenAlone { seen, unknown } = alone;
        let decisions = decide(now, seen, unknown, &to.alerts, &settings.policy, false);
        for Decision { reason, alert, .. } in &decisions {
            if reason.is_none() {
                to.alerts.put(alert.clone());
            } else if to.alerts.open(&alert.name).is_none() {
                // The patience counts on, even if the attempt fails.
                to.alerts.put(ToldRow {
                    told_at: None,
                    tells: 0,
                    ..alert.clone()
                });
            }
        }
        if decisions.iter().all(|it| it.reason.is_none()) {
            return None;
        }
        let messages = messages(target, settings, &decisions, now)?;
        to.is_under_way = true;
        Some(Attempt {
            target: target.to_owned(),
            messages,
            alerts: decisions.into_iter().map(|it| it.alert).collect(),
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
            for alert in &attempt.alerts {
                to.alerts.put(alert.clone());
            }
        }
    }
}

async fn deliver(local: Arc<Local>, sender: Sender, attempt: Attempt) {
    let mut has_arrived = true;
    for message in &attempt.messages {
        if let Err(error) = sender.deliver(message, local.now()).await {
            let target = &message.target;
            tracing::error!(%error, target, "nobody is told there that MySQL cannot be used");
            has_arrived = false;
        }
    }
    local.ended(&attempt, has_arrived);
}

fn messages(
    target: &str,
    settings: &MailSettings,
    decisions: &[Decision],
    now: DateTime<Utc>,
) -> Option<Vec<Outgoing>> {
    let sources = Sources::default();
    let mut mail = AlertMail::empty(&settings.links, now);
    let told = decisions.iter().filter(|it| it.reason.is_some());
    for section in told.filter_map(|decision| sources.section(decision)) {
        mail.add(section);
    }
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

#[cfg(test)]
mod tests {
    use firstcome_shared::report::{COMMITS_HANG, FailureCause};

    use super::*;
    use crate::clock::SystemClock;
    use crate::mails::Links;
    use crate::times::Policy;

    fn settings() -> MailSettings {
        MailSettings {
            clock: Arc::new(SystemClock),
            recipients: vec!["a@example.org".to_owned()],
            domain: "example.org".to_owned(),
            links: Links::default(),
            policy: Policy {
                repeat: TimeDelta::hours(4),
                patience: TimeDelta::seconds(30),
                is_last: false,
            },
            hooks: Vec::new(),
        }
    }

    fn without(error: &str, state: ProcessState) -> SeenAlone {
        let mysql = StoreState::from_error(FailureCause::Mysql, error);
        SeenAlone::new(mysql, state, Utc::now())
    }

    fn away() -> SeenAlone {
        without("Connection refused", ProcessState::default())
    }

    /// Attempts at this second what is due then.
    fn attempt(local: &Local, alone: &SeenAlone, second: i64) -> Option<Attempt> {
        let at = local.zero.0 + TimeDelta::seconds(second);
        local.attempt("a@example.org", &settings(), alone, at)
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
        let alone = without("Connection refused", state);
        attempt(&local, &alone, 0);
        let first = attempt(&local, &alone, 30).unwrap();
        let told = first.alerts.iter().filter(|alert| alert.tells == 1);
        assert_eq!(told.count(), 2);
        assert_eq!(first.messages.len(), 1);
    }

    #[test]
    fn commits_that_hang_are_named() {
        let alone = without(COMMITS_HANG, ProcessState::default());
        assert_eq!(alone.seen[0].kind, AlertKind::MysqlRefuses);
    }
}
