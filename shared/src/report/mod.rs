//! The report of a pass, for the endpoint, the command line, the tables and the mails. Only data:
//! no decisions, and no text that a program reads.

mod case;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize, Serializer};
use strum::{EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::domain::{CouponId, DropId};

pub use case::{FindingCase, StoreOfDrop, UnsafePart};

/// What set a pass off.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    IntoStaticStr,
    EnumString,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Trigger {
    /// The schedule.
    Cron,
    /// `POST /v1/reconcile`.
    Endpoint,
    /// `firstcome-reconciler once`.
    Cli,
    /// The daemon started, or found the gate closed.
    Startup,
}

/// How a pass ended.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    IntoStaticStr,
    EnumString,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Status {
    /// Still under way.
    Running,
    /// Nothing to repair.
    Clean,
    /// Everything found was repaired, and the next check showed it.
    Repaired,
    /// Something needs a person, or a dry run found something.
    Drift,
    /// So much was to be repaired that nothing was, until a person confirms.
    Braked,
    /// The pass could not be finished.
    Failed,
}

/// What a finding is about. docs/OPERATIONS.md has a section for each.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    IntoStaticStr,
    EnumString,
    VariantArray,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum Kind {
    /// Promised, and no row came.
    Unissued,
    /// In the dead-letter table, unresolved.
    FailedClaim,
    /// A row whose person Redis does not know.
    MissingAdmission,
    /// The counter does not add up.
    CountMismatch,
    /// Two people on one slot, or one person on two.
    SlotConflict,
    /// More admitted than there is.
    OverAdmitted,
    /// Revoked, and Redis still has it or does not know.
    RevokedAdmission,
    /// Revoked, and its row is there.
    RevokedRow,
    /// Slots left although people wait, or at closing.
    Unfilled,
    /// Redis lost a drop, or may have lost data.
    RedisLost,
    /// Something does not move or can't be reached.
    Stalled,
    /// A store is set up by now so that it may lose promises, or the codes that people were shown.
    UnsafeSetting,
}

/// What made a pass fail: the identity of its alert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum FailureCause {
    Mysql,
    Redis,
    Kafka,
    /// A file of this process, say.
    Other,
}

/// The repair that a finding asks for.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    IntoStaticStr,
    EnumString,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ActionKind {
    /// Write the row.
    Issue,
    /// Admit the person again, in a free slot.
    Readmit,
    /// Give the person another slot.
    Move,
    /// Give a free slot to the first on the waiting list.
    Promote,
    /// Take back a second slot of one person.
    Withdraw,
    /// Do what is missing of a revocation, or close the failed claim of one.
    Revoke,
    /// Put the person of a row back into Redis.
    PutBack,
    /// Close a failed claim whose person holds a row already.
    ResolveDuplicate,
    /// Write the whole drop to Redis again.
    Rebuild,
    /// Set the drop's counter.
    SetCount,
    /// Write settings to the store that lacks them.
    WriteMeta,
    /// Open the admission gate.
    #[serde(rename = "grant_licence")]
    #[strum(serialize = "grant_licence")]
    OpenGate,
    /// None: it is only reported.
    Report,
}

/// What became of a finding.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    IntoStaticStr,
    EnumString,
    VariantArray,
    ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Outcome {
    /// Repaired, and the next check shows it.
    Applied,
    /// Would be repaired: a dry run, or the repair limit.
    Planned,
    /// Nothing was to be done, or it had changed meanwhile; or only a person can decide.
    Skipped,
    /// The repair was tried and is not there.
    Failed,
}

/// One drift that a pass saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// What it is about.
    pub kind: Kind,
    /// The coupon, where it concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coupon_id: Option<CouponId>,
    /// The drop, where it concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_id: Option<DropId>,
    /// The slot, where it concerns one.
    pub slot: Option<i64>,
    /// The person, in full: the endpoint is for operators. Logs and mails mask it.
    #[schema(example = "u-37")]
    pub user_id: Option<String>,
    pub action: ActionKind,
    /// What became of it.
    pub result: Outcome,
    /// More, for a person. It never holds a user id: that is `user_id`, which mails mask.
    #[schema(example = "admitted, and no row came")]
    pub detail: String,
    /// A person must act: no later pass will repair it by itself.
    #[serde(default)]
    pub needs_person: bool,
    /// What sets it apart from others of its kind, for mails.
    #[serde(skip)]
    pub case: FindingCase,
    /// The row of the dead-letter table, where it is about one. Not kept, as `case`.
    #[serde(skip)]
    pub dead_letter: Option<i64>,
}

/// What stands in a finding's detail before the trace of its claim, at the end.
pub const TRACE: &str = "; trace ";

impl Finding {
    /// The detail without the trace, and the trace of its claim, where it has one.
    pub fn detail_and_trace(&self) -> (&str, Option<&str>) {
        let is_one = |id: &str| id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
        match self.detail.rsplit_once(TRACE) {
            Some((detail, trace)) if is_one(trace) => (detail, Some(trace)),
            _ => (&self.detail, None),
        }
    }

    /// One of no drop in particular, for a person.
    pub fn general(kind: Kind, action: ActionKind, detail: String) -> Self {
        Self {
            kind,
            coupon_id: None,
            drop_id: None,
            slot: None,
            user_id: None,
            action,
            result: Outcome::Skipped,
            detail,
            needs_person: true,
            case: FindingCase::Plain,
            dead_letter: None,
        }
    }
}

/// The numbers of a drop at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Numbers {
    /// Redis: highest slot given out.
    pub count: i64,
    /// Redis: people holding a slot.
    pub users: u64,
    /// MySQL: rows.
    pub rows: u64,
    /// Dead-letter table: unresolved.
    pub failed_claims: u64,
    /// On the topic, not yet read by the consumer.
    pub in_flight: u64,
    /// Redis: slots given back.
    #[serde(default)]
    pub free: u64,
    /// Redis: people on the waiting list.
    #[serde(default)]
    pub waiting: u64,
    /// MySQL: broken promises not mended.
    #[serde(default)]
    pub broken_promises: u64,
}

/// How much was examined, so that "0 drift" never means "nothing was examined".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Examined {
    /// People in Redis.
    pub users: u64,
    /// Rows in MySQL.
    pub rows: u64,
    /// Rows of the dead-letter table.
    pub failed_claims: u64,
}

/// A pass over one drop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DropReport {
    /// The coupon.
    pub coupon_id: CouponId,
    /// Its name, as it was then.
    #[serde(default)]
    #[schema(example = "Winter coupon")]
    pub coupon_name: String,
    /// The drop.
    pub drop_id: DropId,
    /// How many it gives out.
    pub quantity: u32,
    /// Every promise has its row, none is broken, no row is one too many, and nobody waits while a
    /// slot is free.
    pub exact: bool,
    /// Verified exact after closing; later passes skip it.
    #[serde(default)]
    pub sealed: bool,
    /// Before repairs.
    pub before: Numbers,
    /// As the next check showed.
    pub after: Numbers,
    /// The pass repaired the drop and ended, or had to leave it, before it compared it again: both
    /// numbers are of before the repairs.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unconfirmed: bool,
    /// How much was examined.
    pub examined: Examined,
    /// What was found.
    pub findings: Vec<Finding>,
}

impl DropReport {
    /// Whether the drop is exact, in words. A claim that failed and of whose person Redis knows
    /// nothing is no promise as far as is known: it does not make the drop inexact, but says so.
    pub fn exactness(&self) -> String {
        match (self.exact, self.after.failed_claims) {
            (false, _) => "not exact".to_owned(),
            (true, 0) => "exact".to_owned(),
            (true, 1) => "exact for everybody whom Redis knows; 1 failed claim is left".to_owned(),
            (true, many) => {
                format!("exact for everybody whom Redis knows; {many} failed claims are left")
            }
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Drops of a run that it does not list one by one, since nothing was found in them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Unlisted {
    /// How many there are.
    pub drops: u64,
    /// How much of them was examined.
    #[serde(flatten)]
    pub examined: Examined,
}

/// One run of the reconciler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    /// Its id, in order of time.
    #[schema(example = "01a206b4-f1dc-72f5-b1c0-afe93251b14a")]
    pub run_id: String,
    /// What set it off.
    pub trigger: Trigger,
    /// The name of the operator who asked for it, where one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "Kim")]
    pub asked_by: Option<String>,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Sealed drops were examined too.
    #[serde(default)]
    pub deep: bool,
    /// Not every drop was compared: one coupon or drop was asked for, or the pass failed before.
    /// Not kept: it matters only right after the pass.
    #[serde(skip)]
    pub partial: bool,
    /// The earlier run that said the same, where this one has no row of its own. Not kept, as
    /// `partial`.
    #[serde(skip)]
    pub goes_on_as: Option<String>,
    /// It failed because the process was asked to stop. Not kept, as `partial`.
    #[serde(skip)]
    pub stopped: bool,
    /// How it ended.
    pub status: Status,
    /// When it began.
    #[serde(serialize_with = "millis")]
    pub started_at: DateTime<Utc>,
    /// When it ended; `None` while it runs.
    #[serde(serialize_with = "millis_or_null")]
    pub finished_at: Option<DateTime<Utc>>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "MySQL did not answer")]
    pub error: Option<String>,
    /// The same for programs. Not kept, as `partial`.
    #[serde(skip)]
    pub cause: Option<FailureCause>,
    /// Findings of no drop in particular: the gate, a store, a missed run.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// The drops it examined. Sealed ones that are right are not listed; and a run that is read
    /// back lists only those that something was found in, that changed, or that were under way.
    pub drops: Vec<DropReport>,
    /// The others.
    #[serde(default)]
    pub unlisted: Unlisted,
}

/// As the table of runs keeps it, so that a run reads the same wherever it is read.
fn millis<S: Serializer>(at: &DateTime<Utc>, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&at.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[allow(clippy::ref_option)] // serde's signature
fn millis_or_null<S: Serializer>(at: &Option<DateTime<Utc>>, s: S) -> Result<S::Ok, S::Error> {
    at.as_ref()
        .map(|at| at.to_rfc3339_opts(SecondsFormat::Millis, true))
        .serialize(s)
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
    /// One that begins.
    pub fn begun(run_id: &str, trigger: Trigger, started_at: DateTime<Utc>) -> Self {
        Self {
            run_id: run_id.to_owned(),
            trigger,
            asked_by: None,
            dry_run: false,
            deep: false,
            partial: false,
            goes_on_as: None,
            stopped: false,
            status: Status::Running,
            started_at,
            finished_at: None,
            error: None,
            cause: None,
            findings: Vec::new(),
            drops: Vec::new(),
            unlisted: Unlisted::default(),
        }
    }

    /// Whether it examined everything and no repair failed. What is left then waits for a person,
    /// who has a mail: this is about passes that do their work.
    pub fn ended_well(&self) -> bool {
        let is_done = !matches!(self.status, Status::Running | Status::Failed);
        is_done
            && !self.dry_run
            && !self.partial
            && self.all_findings().all(|f| f.result != Outcome::Failed)
    }

    /// The id under which it can be read.
    pub fn kept_as(&self) -> &str {
        self.goes_on_as.as_ref().unwrap_or(&self.run_id)
    }

    /// Every finding of the run, those of no drop first.
    pub fn all_findings(&self) -> impl Iterator<Item = &Finding> {
        self.findings
            .iter()
            .chain(self.drops.iter().flat_map(|drop| &drop.findings))
    }

    /// How many drops it examined, and how much in them.
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
    use super::*;

    /// Tables, metrics and JSON of other builds have these words.
    #[test]
    fn words_are_the_same_in_json_and_in_the_tables_and_can_be_read_back() {
        let words = "issue readmit move promote withdraw put_back resolve_duplicate revoke rebuild set_count write_meta \
                     grant_licence report";
        for word in words.split(' ') {
            let action: ActionKind = word.parse().unwrap();
            assert_eq!(
                (action.as_str(), serde_json::to_value(action).unwrap()),
                (word, word.into())
            );
        }
        let words = "unissued failed_claim missing_admission count_mismatch slot_conflict over_admitted revoked_admission revoked_row unfilled \
                     redis_lost stalled";
        for word in words.split(' ') {
            let kind: Kind = word.parse().unwrap();
            assert_eq!(
                (kind.as_str(), serde_json::to_value(kind).unwrap()),
                (word, word.into())
            );
        }
    }
}
