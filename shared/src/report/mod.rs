//! The report of a pass, shared by the endpoint, the command line, the tables and the mails. Data
//! only: it makes no decisions, and no program parses its texts.

mod attached;
mod cause;
mod held_back;
mod judged;
mod kinds;
mod refusals;
pub mod wording;

use chrono::{DateTime, NaiveDate, SubsecRound as _, Utc};
use diesel::deserialize::FromSqlRow;
use diesel::expression::AsExpression;
use diesel::sql_types::Text;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use strum::{EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::domain::{CouponId, DropId, UserId};
use crate::hash::hash64;
use crate::subject::Subject;

pub use cause::{Cause, UnsafePart};
pub use held_back::{Fingerprint, HeldBack};
pub use judged::{Absence, CouponJudged, Judged, Kinds, RunJudged};
pub use kinds::{AlertKind, Kind, KindFacts, Remedy, Severity};
pub use refusals::{COMMITS_HANG, RefusalFacts, StoreRefusal};

/// A word read from a table. A word that this version does not know was written by a later version,
/// or by hand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, AsExpression, FromSqlRow)]
#[diesel(sql_type = Text)]
#[serde(untagged)]
pub enum Stored<T> {
    Known(T),
    Unknown(String),
}

impl<T> Stored<T> {
    /// Returns the value, or the unknown word.
    pub fn known(self) -> Result<T, String> {
        match self {
            Self::Known(value) => Ok(value),
            Self::Unknown(word) => Err(word),
        }
    }
}

/// What triggered a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(IntoStaticStr, EnumString, ToSchema)]
#[strum(serialize_all = "lowercase")]
pub enum Trigger {
    /// The schedule.
    Cron,
    /// `POST /v1/reconcile`.
    Endpoint,
    /// `firstcome-reconciler once`.
    Cli,
    /// The daemon started.
    Startup,
    /// The watch found something to do, such as a coupon that is closed.
    Watch,
}

/// The status of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(IntoStaticStr, EnumString, VariantArray, ToSchema)]
#[strum(serialize_all = "lowercase")]
pub enum Status {
    /// Still running.
    Running,
    /// Nothing to repair.
    Clean,
    /// Everything found was repaired, and the next check confirmed it.
    Repaired,
    /// Something is left: an operator must act, a repair failed, a coupon may still be closed, or a
    /// dry run found something to repair.
    Drift,
    /// The repairs of a drop exceed the repair limit: none of these is made until an operator
    /// confirms them.
    Braked,
    /// The pass could not finish.
    Failed,
}

/// The cause of a failed pass, which determines the kind of its alert. Also names the store of a
/// refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum FailureCause {
    Mysql,
    Redis,
    Kafka,
    /// Another cause, for example a file of this process.
    Other,
}

/// The repair for a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[derive(IntoStaticStr, EnumString, ToSchema)]
#[strum(serialize_all = "snake_case")]
pub enum ActionKind {
    /// Write the row.
    Issue,
    /// Close a failed claim: its user has a row, or the claim was given back or revoked.
    Resolve,
    /// List the promise as broken, and put the user first on the waiting list.
    Owe,
    /// Write the drop to Redis again from its rows.
    Project,
    /// Give a free slot to the first on the waiting list.
    Promote,
    /// Complete a revocation.
    Revoke,
    /// Write settings, allow list, claimants or revocations again.
    WriteSettings,
    /// Open the coupon.
    Open,
    /// None: the finding is only reported.
    Report,
}

/// The outcome of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[derive(IntoStaticStr, EnumString, VariantArray, ToSchema)]
#[strum(serialize_all = "lowercase")]
pub enum Outcome {
    /// The repair was made, and the next check confirms it.
    Applied,
    /// The repair is planned, but this is a dry run or the repair limit holds it back.
    Planned,
    /// Nothing had to be done, the state changed in the meantime, or only an operator can decide.
    Skipped,
    /// The repair was attempted, but the next check does not confirm it.
    Failed,
}

/// One difference or problem that a pass found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    pub kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coupon_id: Option<CouponId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_id: Option<DropId>,
    pub slot: Option<i64>,
    /// In full; logs and mails mask it.
    #[schema(example = "u-37")]
    pub user_id: Option<String>,
    pub action: ActionKind,
    pub result: Outcome,
    /// Human-readable, without user ids and without the id of a dead letter.
    #[schema(example = "admitted, and has no row")]
    pub detail: String,
    /// Only an operator can resolve it: no pass will repair it.
    pub needs_person: bool,
    /// The failed claim that it concerns, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<i64>,
    /// Why it exists, as data: distinguishes the finding from others of its kind.
    #[serde(skip)]
    pub cause: Cause,
}

impl Finding {
    /// Returns a hash of everything that stays the same while the finding persists. It excludes the
    /// detail, whose words, ages and lags are for people.
    pub fn identity(&self) -> i64 {
        let place = (self.coupon_id, self.drop_id, self.slot, &self.user_id);
        let what = (self.kind, self.cause.identity(), self.dead_letter);
        let end = (self.action, self.result, self.needs_person);
        hash64(json!([place, what, end]).to_string()).cast_signed()
    }

    /// Returns its detail, with the dead letter that it concerns.
    pub fn text(&self) -> String {
        match self.dead_letter {
            Some(id) => format!("failed claim {id}: {}", self.detail),
            None => self.detail.clone(),
        }
    }

    /// Whether the finding concerns no single slot or user.
    pub fn is_whole(&self) -> bool {
        self.slot.is_none() && self.user_id.is_none()
    }

    /// Returns why the run failed, if the finding reports that.
    pub fn failure(&self) -> Option<FailureCause> {
        match self.cause {
            Cause::RunFailed(failure) => Some(failure),
            _ => None,
        }
    }

    /// Creates a finding that concerns no particular drop, slot or user.
    pub fn new(kind: Kind, action: ActionKind, result: Outcome, detail: impl Into<String>) -> Self {
        Self {
            kind,
            coupon_id: None,
            drop_id: None,
            slot: None,
            user_id: None,
            action,
            result,
            detail: detail.into(),
            needs_person: false,
            dead_letter: None,
            cause: Cause::Plain,
        }
    }

    /// Creates a finding that passes only report, and that an operator must resolve.
    pub fn report(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            needs_person: true,
            ..Self::new(kind, ActionKind::Report, Outcome::Skipped, detail)
        }
    }

    /// Names the slot and the user.
    #[must_use]
    pub fn naming(mut self, slot: Option<i64>, user: Option<&UserId>) -> Self {
        self.slot = slot;
        self.user_id = user.map(ToString::to_string);
        self
    }
}

/// Returns a user's name as the tables hold it. Some names of attached systems do not fit: their
/// hash does, so that a confirmation names those users, too.
pub fn recorded_user(name: &str) -> String {
    if name.is_ascii() && name.len() <= UserId::MAX_LEN {
        return name.to_owned();
    }
    format!("sha256:{:x}", Sha256::digest(name))
}

/// The numbers of a drop at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Numbers {
    /// Redis: highest slot given.
    pub count: i64,
    /// Redis: users who hold a slot.
    pub users: u64,
    /// MySQL: rows.
    pub rows: u64,
    /// Dead-letter table: unresolved.
    pub failed_claims: u64,
    /// Users whose claim is not due yet: it may be on the topic.
    pub in_flight: u64,
    /// Redis: free slots, which were given back.
    pub free: u64,
    /// Redis: users on the waiting list.
    pub waiting: u64,
    /// MySQL: unresolved broken promises.
    pub broken_promises: u64,
}

/// How much was examined, so that "0 drift" never means "nothing was examined".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Examined {
    /// Users in Redis.
    pub users: u64,
    /// Rows in MySQL.
    pub rows: u64,
    /// Rows of the dead-letter table.
    pub failed_claims: u64,
}

/// The report of a pass on one drop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DropReport {
    pub coupon_id: CouponId,
    /// The coupon's name at the time of the pass.
    pub coupon_name: String,
    /// The day on which it opens, in the coupon's time zone. Missing for an attached campaign.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<NaiveDate>,
    pub drop_id: DropId,
    pub quantity: u32,
    /// Every promise has its row, none is broken, no row is surplus, and no user waits while a slot
    /// is free.
    pub exact: bool,
    /// What the look that verified last judged about this drop. Not stored, because it matters only
    /// right after the pass.
    #[serde(skip)]
    pub judged: Judged,
    /// Verified exact after closing; later passes skip it.
    pub sealed: bool,
    /// Repairs above the repair limit. Missing if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back: Option<HeldBack>,
    /// Numbers before repairs.
    pub before: Numbers,
    /// Numbers from the check after the repairs.
    pub after: Numbers,
    pub examined: Examined,
    pub findings: Vec<Finding>,
}

impl DropReport {
    /// Creates a report of a drop that has not been compared.
    pub fn begun(coupon_id: CouponId, drop_id: DropId, quantity: u32) -> Self {
        Self {
            coupon_id,
            drop_id,
            quantity,
            ..Self::default()
        }
    }

    /// Whether repairs wait for a confirmation, or were only planned by a dry run.
    pub fn has_planned(&self) -> bool {
        self.findings.iter().any(|it| it.result == Outcome::Planned)
    }

    /// Why it is not exact although nothing differs, such as that users are claiming at the moment.
    pub fn undecided(&self) -> Option<&'static str> {
        match self.drop_id.subject() {
            Subject::Campaign if !self.exact && self.findings.is_empty() => {
                let found = self.before.users + self.before.rows;
                Some(match found {
                    0 => "nothing found yet: if it has begun, correct `promised` and `issued`",
                    _ => "being sold",
                })
            }
            // Whether a drop is being sold is shown by its gate, not by its report.
            Subject::Campaign | Subject::Drop => None,
        }
    }

    /// Whether the drop is exact, in words. A failed claim whose user is unknown to Redis may not
    /// be a promise: it does not make the drop inexact, but is mentioned.
    pub fn exactness(&self) -> String {
        let known = "exact for everybody whom Redis knows";
        match (self.exact, self.after.failed_claims) {
            (false, _) => self.undecided().unwrap_or("not exact").to_owned(),
            (true, 0) => "exact".to_owned(),
            (true, 1) => format!("{known}; 1 failed claim is left"),
            (true, many) => format!("{known}; {many} failed claims are left"),
        }
    }
}

/// The drops that a run does not list, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unlisted {
    /// The number of drops.
    pub drops: u64,
    /// How much of them was examined. Also counts failed claims outside the listed drops.
    #[serde(flatten)]
    pub examined: Examined,
}

/// One run of the reconciler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// Run ids sort by time.
    #[schema(example = "01a206b4-f1dc-72f5-b1c0-afe93251b14a")]
    pub run_id: String,
    pub trigger: Trigger,
    /// The operator who asked for it, if a name was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Kim")]
    pub asked_by: Option<String>,
    /// A dry run: nothing was changed.
    pub dry_run: bool,
    /// The run also examined sealed drops.
    pub deep: bool,
    /// Not every drop was compared: one coupon or drop was requested, or the pass failed before the
    /// end. Not stored, because it matters only right after the pass.
    #[serde(skip)]
    pub partial: bool,
    /// The pass failed for a reason that gets no separate alert: its process was stopped, Redis was
    /// replaced, or only this process lost Redis. Not stored, like `partial`.
    #[serde(skip)]
    pub stopped: bool,
    /// What the run judged outside its drops. Not stored, like `partial`.
    #[serde(skip)]
    pub judged: RunJudged,
    pub status: Status,
    pub started_at: DateTime<Utc>,
    /// Null while it runs.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "MySQL did not answer")]
    pub error: Option<String>,
    /// Findings about no drop: the gate, a store, a missed run.
    pub findings: Vec<Finding>,
    /// Without sealed ones that have all their rows, unless one was requested. A stored run lists
    /// only drops that have findings, are sealed, or were inexact or changed with no claim in
    /// flight, and at most 10,000 of them.
    pub drops: Vec<DropReport>,
    /// The other drops.
    pub unlisted: Unlisted,
}

/// The status of an alert.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[derive(IntoStaticStr, EnumString, AsExpression, FromSqlRow)]
#[diesel(sql_type = Text)]
#[strum(serialize_all = "lowercase")]
pub enum AlertState {
    /// The problem is there.
    #[default]
    Firing,
    /// It is gone, and may come back.
    Quiet,
    /// It is over.
    Resolved,
}

macro_rules! words {
    ($($type:ty),*) => {$(
        impl $type {
            /// The word in JSON, in metrics and in the tables.
            pub fn as_str(self) -> &'static str {
                self.into()
            }
        }
    )*};
}

words!(Trigger, Status, Kind, FailureCause, ActionKind, Outcome);

impl Run {
    /// Creates a run that has just started. Its times are cut to milliseconds, the precision of the
    /// table of runs, so that a run looks the same everywhere.
    pub fn begun(run_id: &str, trigger: Trigger, started_at: DateTime<Utc>) -> Self {
        Self {
            run_id: run_id.to_owned(),
            trigger,
            asked_by: None,
            dry_run: false,
            deep: false,
            partial: false,
            stopped: false,
            judged: RunJudged::default(),
            status: Status::Running,
            started_at: started_at.trunc_subsecs(3),
            finished_at: None,
            error: None,
            findings: Vec::new(),
            drops: Vec::new(),
            unlisted: Unlisted::default(),
        }
    }

    /// Ends the run.
    pub fn end(&mut self) {
        self.finished_at = Some(Utc::now().trunc_subsecs(3));
        self.status = if self.error.is_some() {
            Status::Failed
        } else {
            self.final_status()
        };
    }

    /// Returns the status of a run that has ended without an error: from its findings, and from the
    /// promises that are still broken.
    fn final_status(&self) -> Status {
        if !self.dry_run && self.drops.iter().any(DropReport::has_planned) {
            return Status::Braked;
        }
        let is_left = self.all_findings().any(|it| {
            // A coupon on which another process works may still be closed.
            let is_of_others = it.kind == Kind::RedisLost && it.result == Outcome::Skipped;
            matches!(it.result, Outcome::Failed | Outcome::Planned)
                || it.needs_person
                || is_of_others
        });
        let is_broken = self.drops.iter().any(|drop| drop.after.broken_promises > 0);
        if is_broken || is_left {
            Status::Drift
        } else if self.all_findings().any(|it| it.result == Outcome::Applied) {
            Status::Repaired
        } else {
            Status::Clean
        }
    }

    /// Whether the run examined everything and no repair failed. Findings that wait for an operator
    /// do not count as failures, because they have been mailed: this shows whether passes work.
    pub fn ended_well(&self) -> bool {
        let is_done = !matches!(self.status, Status::Running | Status::Failed);
        is_done
            && !self.dry_run
            && !self.partial
            && self.all_findings().all(|f| f.result != Outcome::Failed)
    }

    /// Returns why the run failed.
    pub fn failure(&self) -> Option<FailureCause> {
        self.findings.iter().rev().find_map(Finding::failure)
    }

    /// Returns every finding of the run; those that concern no drop come first.
    pub fn all_findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .chain(self.drops.iter().flat_map(|drop| &drop.findings))
    }

    /// Returns the number of drops examined, and how much was examined in them.
    pub fn examined(&self) -> (u64, Examined) {
        let listed = self.drops.iter().map(|drop| drop.examined);
        let examined = listed.fold(self.unlisted.examined, |all, one| Examined {
            users: all.users + one.users,
            rows: all.rows + one.rows,
            failed_claims: all.failed_claims + one.failed_claims,
        });
        (self.drops.len() as u64 + self.unlisted.drops, examined)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;
    use std::str::FromStr;

    use super::*;

    #[test]
    fn identity_of_a_finding_ignores_only_its_detail() {
        let first = Finding {
            slot: Some(3),
            user_id: Some("u-1".to_owned()),
            detail: "admitted 34 s ago, no row".to_owned(),
            ..Finding::report(Kind::FailedClaim, String::new())
        };
        let with = |change: fn(&mut Finding)| {
            let mut other = first.clone();
            change(&mut other);
            other.identity()
        };
        let older = with(|it| it.detail = "admitted 1 min ago".to_owned());
        assert_eq!(first.identity(), older);
        let others = [
            with(|it| it.slot = Some(4)),
            with(|it| it.user_id = None),
            with(|it| it.dead_letter = Some(7)),
            with(|it| it.cause = Cause::ConsumerStands),
            with(|it| it.cause = Cause::RunFailed(FailureCause::Redis)),
            with(|it| it.cause = Cause::RunFailed(FailureCause::Kafka)),
            with(|it| it.result = Outcome::Failed),
        ];
        let all: std::collections::HashSet<_> = others.iter().chain([&older]).collect();
        assert_eq!(all.len(), others.len() + 1, "{all:?}");
    }

    /// Fails unless each word names the same value in JSON, in tables and when parsed.
    fn assert_words<T>(words: &str)
    where
        T: FromStr<Err: Debug> + Serialize + Copy,
        &'static str: From<T>,
    {
        for word in words.split_whitespace() {
            let value: T = word.parse().unwrap();
            let json = serde_json::to_value(value).unwrap();
            assert_eq!((<&str>::from(value), json), (word, word.into()));
        }
    }

    /// Programs use these words in tables, metrics and JSON.
    #[test]
    fn enum_words_match_in_json_and_tables_and_parse_back() {
        assert_words::<ActionKind>(
            "issue resolve owe project promote revoke write_settings open report",
        );
        assert_words::<Status>("running clean repaired drift braked failed");
        assert_words::<Outcome>("applied planned skipped failed");
        let words = "unissued failed_claim missing_admission slot_conflict over_admitted \
            count_mismatch settings_mismatch redis_lost unfilled broken_promise stalled over_issued \
            duplicate_row bad_use check missing_drop not_ready";
        assert_eq!(words.split_whitespace().count(), Kind::VARIANTS.len());
        assert_words::<Kind>(words);
    }
}
