//! When passes run by themselves, and which ones did not.
//!
//! tokio-cron-scheduler fires; its jobs only signal. It would start a job again while the last
//! still runs, and forgets running ones at shutdown, so no work is done inside a job. It also
//! freezes a zone's offset, so all times are UTC.

use std::time::Instant;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use croner::Cron;
use firstcome_shared::mysql::Db;
use tokio_cron_scheduler::{Job, JobScheduler};

use crate::notify::Notifier;
use crate::record;

/// What a schedule sets off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A pass over what is not sealed.
    Reconcile,
    /// A pass over sealed drops too.
    Deep,
    Digest,
}

impl Event {
    /// The setting's name, as people know it.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Reconcile => "RECONCILE_CRON",
            Self::Deep => "DEEP_CRON",
            Self::Digest => "DIGEST_CRON",
        }
    }

    /// Name in `reconciler_state` of when it last ran.
    pub fn state_name(self) -> &'static str {
        match self {
            Self::Reconcile => "last_run:reconcile",
            Self::Deep => "last_run:deep",
            Self::Digest => "last_run:digest",
        }
    }
}

/// Checks a cron expression: six fields, and a time to come.
pub fn six_fields(text: &str) -> Result<String, String> {
    let fields = text.split_whitespace().count();
    if fields != 6 {
        return Err(format!("it has {fields} fields; six are needed: second minute hour day month weekday"));
    }
    let cron = parse(text).map_err(|error| format!("it cannot be read: {error}"))?;
    cron.find_next_occurrence(&Utc::now(), false).map_err(|_| "it never comes".to_owned())?;
    Ok(text.to_owned())
}

fn parse(text: &str) -> Result<Cron, croner::errors::CronError> {
    croner::parser::CronParser::builder()
        .seconds(croner::parser::Seconds::Required)
        .dom_and_dow(true)
        .build()
        .parse(text)
}

/// One schedule, with what is due and what was done.
#[derive(Debug, Clone)]
pub struct CronSchedule {
    /// What it sets off.
    pub event: Event,
    cron: Cron,
    /// When it last ran, as far as is known.
    pub last: DateTime<Utc>,
}

impl CronSchedule {
    /// A schedule that last ran at `last`.
    pub fn new(event: Event, text: &str, last: DateTime<Utc>) -> anyhow::Result<Self> {
        let cron = parse(text).with_context(|| format!("{} cannot be read", event.setting()))?;
        Ok(Self { event, cron, last })
    }

    /// The first run that should have been since the last one and is later than `tolerance` at
    /// `now`.
    pub fn missed_since(&self, now: DateTime<Utc>, tolerance: TimeDelta) -> Option<DateTime<Utc>> {
        let due = self.cron.find_next_occurrence(&self.last, false).ok()?;
        (due + tolerance < now).then_some(due)
    }
}

/// Runs that were due and did not come: this process was stopped, paused, or started late. They are
/// caught up at once.
pub(super) struct Missed {
    /// The schedules with when they last ran.
    pub schedules: Vec<CronSchedule>,
    /// How late is missed.
    pub tolerance: TimeDelta,
}

impl Missed {
    /// The schedules as they stand in MySQL; one that never ran counts from now.
    pub(super) async fn load(db: &Db, schedules: &[(Event, &str)], tolerance: TimeDelta) -> anyhow::Result<Self> {
        let mut loaded = Vec::with_capacity(schedules.len());
        for (event, text) in schedules {
            let last = if let Some(at) = record::recall(db, event.state_name()).await? {
                at
            } else {
                let now = Utc::now();
                record::remember(db, event.state_name(), now).await?;
                now
            };
            loaded.push(CronSchedule::new(*event, text, last)?);
        }
        Ok(Self { schedules: loaded, tolerance })
    }

    /// Notes that an event ran.
    pub(super) fn ran(&mut self, event: Event, now: DateTime<Utc>) {
        for schedule in self.schedules.iter_mut().filter(|s| s.event == event) {
            schedule.last = now;
        }
    }

    /// What was missed at `now`, with since when.
    pub(super) fn at(&self, now: DateTime<Utc>) -> Vec<(Event, DateTime<Utc>)> {
        self.schedules.iter().filter_map(|s| Some((s.event, s.missed_since(now, self.tolerance)?))).collect()
    }
}

pub(super) async fn mail_missed(notifier: &Notifier, event: Event, since: DateTime<Utc>, now: DateTime<Utc>) {
    tracing::warn!(schedule = event.setting(), since = %since.to_rfc3339(), "a scheduled run did not happen; catching up");
    if let Err(error) = notifier.missed_run(event.setting(), since, now).await {
        tracing::error!(error = format!("{error:#}"), "the mail about a missed run could not be prepared");
    }
}

/// Notices when the host's clock was set back: the scheduler goes by instants that were worked out
/// ahead, and would be silent for as long as the clock went back.
#[derive(Debug)]
pub struct ClockWatch {
    wall: DateTime<Utc>,
    at: Instant,
}

impl ClockWatch {
    /// Goes by both clocks as they are now.
    pub fn new(now: DateTime<Utc>, at: Instant) -> Self {
        Self { wall: now, at }
    }

    /// Whether the wall clock has lost more than two seconds since the last call.
    pub fn went_back(&mut self, now: DateTime<Utc>, at: Instant) -> bool {
        let passed = TimeDelta::from_std(at.duration_since(self.at)).unwrap_or(TimeDelta::MAX);
        let lost = (self.wall + passed).signed_duration_since(now);
        *self = Self::new(now, at);
        lost > TimeDelta::seconds(2)
    }
}

/// Starts the scheduler: each event is handed to `signal` at its time. It runs until its
/// `shutdown`.
pub async fn start(
    schedules: &[(Event, &str)],
    signal: impl Fn(Event) + Clone + Send + Sync + 'static,
) -> anyhow::Result<JobScheduler> {
    let scheduler = JobScheduler::new().await?;
    for (event, text) in schedules {
        let (event, signal) = (*event, signal.clone());
        let job = Job::new(*text, move |_, _| signal(event))
            .with_context(|| format!("{} cannot be read", event.setting()))?;
        scheduler.add(job).await?;
    }
    scheduler.start().await?;
    Ok(scheduler)
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        DateTime::from_str(text).unwrap()
    }

    #[test]
    fn only_six_fields_that_come_to_pass_are_taken() {
        assert!(six_fields("*/30 * * * * *").is_ok());
        assert!(six_fields("* * * * *").unwrap_err().contains("5 fields"));
        assert!(six_fields("0 0 0 31 2 *").unwrap_err().contains("never"));
        assert!(six_fields("x * * * * *").is_err());
    }

    #[test]
    fn a_clock_that_was_set_back_is_noticed_once() {
        let (wall, start) = (at("2026-01-01T03:00:00Z"), Instant::now());
        let after = |seconds: u64| start + std::time::Duration::from_secs(seconds);
        let mut watch = ClockWatch::new(wall, start);
        assert!(!watch.went_back(wall + TimeDelta::seconds(10), after(10)));
        assert!(!watch.went_back(wall + TimeDelta::hours(1), after(11)), "set forward");
        assert!(!watch.went_back(wall + TimeDelta::hours(1), after(12)), "a second is no step");
        assert!(watch.went_back(wall, after(13)));
        assert!(!watch.went_back(wall + TimeDelta::seconds(1), after(14)));
    }

    #[test]
    fn a_run_is_missed_once_it_is_later_than_tolerated() {
        let schedule = CronSchedule::new(Event::Deep, "0 0 3 * * *", at("2026-01-01T03:00:00Z")).unwrap();
        let missed = |now| schedule.missed_since(at(now), TimeDelta::minutes(5));
        assert_eq!(missed("2026-01-01T23:00:00Z"), None);
        assert_eq!(missed("2026-01-02T03:04:00Z"), None);
        assert_eq!(missed("2026-01-02T03:06:00Z"), Some(at("2026-01-02T03:00:00Z")));
        assert_eq!(missed("2026-01-09T00:00:00Z"), Some(at("2026-01-02T03:00:00Z")), "since the first one");
    }
}
