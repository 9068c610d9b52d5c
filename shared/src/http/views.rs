//! Response types of the reconciler's and the API's routes that the console shows. Both services
//! serialize theirs; the console and other programs parse them.

use std::ops::Deref;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;
use utoipa::ToSchema;

use crate::coupon::{CouponSettings, DropState};
use crate::domain::{CouponId, DropId, Slot};
use crate::model::RecordedAct;
use crate::mysql::dead_letters::DeadLetterRow;
use crate::mysql::runs::RunRow;
use crate::report::AlertState;
use crate::schedule::Tz;

pub use crate::mysql::stored_run::RunPage;

/// Whether Redis admits claims to the coupons of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdmissionState {
    Open,
    /// At least one coupon is closed until it is verified. Usually, Redis was restarted or lost
    /// data.
    Closed,
    /// Redis does not answer.
    Unknown,
}

/// Maximum number of alerts in an overview.
pub const MOST_ALERTS: u32 = 50;

/// The state of the installation: stores, alerts, and the drops that are live or need manual
/// attention.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Overview {
    /// When this state was read. The data of MySQL may be older: see `mysql_read_at`.
    pub at: DateTime<Utc>,
    pub admission: AdmissionState,
    /// If false, MySQL's data is as old as `mysql_read_at`.
    pub mysql_answers: bool,
    /// When coupons, alerts and the last run were read; null before the first time.
    pub mysql_read_at: Option<DateTime<Utc>>,
    /// Alerts that fire, newest first, 50 at most.
    pub alerts: Vec<ListedAlert>,
    /// The last run over all drops; null before the first.
    pub last_run: Option<LastRun>,
    /// The drops of this page, the most urgent first.
    pub drops: Vec<DropOverview>,
    /// This page, from 1.
    pub page: usize,
    /// How many pages there are, at least 1.
    pub pages: usize,
    /// Drops that are not sealed; null while MySQL has not been read.
    pub live_drops: Option<u64>,
}

/// The extent of the last run over all drops.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LastRun {
    #[schema(example = "01a206b4-f1dc-72f5-b1c0-afe93251b14a")]
    pub run_id: String,
    /// When it ended.
    pub finished_at: DateTime<Utc>,
    pub drops: u64,
    /// Users in Redis.
    pub users: u64,
    /// Rows in MySQL.
    pub rows: u64,
}

/// One drop as the stores show it now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DropOverview {
    pub coupon_id: CouponId,
    #[schema(example = "Winter coupon")]
    pub coupon_name: String,
    /// The time zone of the coupon; null: UTC.
    #[schema(value_type = Option<String>, example = "Asia/Seoul")]
    pub time_zone: Option<Tz>,
    pub drop_id: DropId,
    pub opens_at: DateTime<Utc>,
    /// Null for a drop that stays open.
    pub closes_at: Option<DateTime<Utc>>,
    #[schema(value_type = u32)]
    pub quantity: Slot,
    pub state: DropState,
    /// An operator paused the coupon, perhaps before it opens.
    pub paused: bool,
    /// The coupon was verified since Redis last restarted or lost data. Until then its claims get
    /// 503. False also if Redis does not answer.
    pub verified: bool,
    /// Null if Redis does not answer.
    pub redis: Option<RedisCounts>,
    /// Null before the first count, and for a drop above 2,000,000 slots.
    pub rows: Option<RowCount>,
    /// Unresolved failed claims; null if MySQL does not answer in time.
    pub failed_claims: Option<u64>,
    /// What the last run over all drops found in this one, human-readable.
    #[schema(example = "exact, after repairs")]
    pub last_run: String,
}

/// The numbers of a drop in Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RedisCounts {
    /// The highest slot given; null if the key is missing or not a number.
    pub count: Option<i64>,
    /// Users who hold a slot.
    pub users: u64,
    /// Slots up to `count` that nobody holds. Slots above `count` were never given and are not
    /// included.
    pub free: u64,
    /// Users on the waiting list.
    pub waiting: u64,
}

/// The rows of a drop when they were last counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RowCount {
    pub rows: u64,
    /// Users who held a slot in Redis just before that count.
    pub users: u64,
}

/// A coupon's settings and state.
//
// Its settings are read as if they were its own fields.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[schema(as = CouponSettings)]
pub struct CouponDetails {
    pub id: CouponId,
    // Inline, because no operation of the reconciler takes the body of a new coupon.
    #[serde(flatten)]
    #[schema(inline)]
    pub settings: CouponSettings,
    /// Users on its allow list.
    pub allow_list_users: u32,
    /// Increases with each change of the settings; for `If-Match`.
    pub revision: u64,
    /// All drops are sealed, and no other will come.
    pub over: bool,
    /// Address of its coupon page.
    #[schema(example = "https://coupons.example.com/c/1")]
    pub page: String,
}

impl Deref for CouponDetails {
    type Target = CouponSettings;

    fn deref(&self) -> &CouponSettings {
        &self.settings
    }
}

/// A coupon with a page of its drops, newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CouponDrops {
    pub coupon: CouponDetails,
    pub drops: Vec<ListedDrop>,
    /// The `page` of the next older drops; null on the last page.
    pub next_page: Option<u32>,
    /// What operators did to the coupon, newest first, 20 at most.
    pub history: Vec<RecordedAct>,
}

/// Whether a coupon's next drop can open.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CouponReadiness {
    pub coupon_id: CouponId,
    /// The open drop, or the one that opens next; null if none is left.
    pub drop_id: Option<DropId>,
    pub opens_at: Option<DateTime<Utc>>,
    /// All parts are ready, and there is a drop.
    pub ready: bool,
    pub checks: Vec<ReadinessCheck>,
}

/// One part of what claims need.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReadinessCheck {
    pub part: ReadinessPart,
    pub ready: bool,
    /// What was found, or what is wrong.
    #[schema(example = "no consumer runs")]
    pub detail: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ReadinessPart {
    /// The coupon admits users.
    Gate,
    /// Redis has the drop with its settings, and nobody holds a slot before it opens.
    Drop,
    /// Redis has memory for the quantity.
    RedisRoom,
    /// Consumers run.
    Consumers,
    /// They have read the topic, but for a batch of each partition.
    Lag,
    /// Each partition with messages has a consumer.
    Partitions,
    /// MySQL takes writes. How full its disk is cannot be asked.
    Mysql,
    /// Redis has the allow list as recorded, and somebody is on it.
    AllowList,
    /// No mail or event is stuck.
    Mails,
}

impl ReadinessPart {
    pub fn name(self) -> &'static str {
        self.into()
    }
}

/// A drop in the list of its coupon.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ListedDrop {
    pub id: DropId,
    pub opens_at: DateTime<Utc>,
    /// Null for a drop that stays open.
    pub closes_at: Option<DateTime<Utc>>,
    #[schema(value_type = u32)]
    pub quantity: Slot,
    /// By its window alone: `open` may be sold out or paused.
    pub state: DropState,
    /// Null if counting them would take too long.
    pub rows: Option<u64>,
}

/// A drop: its state, and what needs manual attention.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct DropDetails {
    pub coupon: CouponDetails,
    /// The response of `GET /v1/overview`, limited to this drop.
    pub overview: Overview,
    /// Open broken promises of the drop.
    pub broken_promises: u64,
}

/// A coupon, its settings and its current drops.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Coupon)]
pub struct CouponView {
    pub id: CouponId,
    #[serde(flatten)]
    pub settings: CouponSettings,
    /// Increases with each change of the settings, not of what is left; also the `ETag`, in quotes.
    pub revision: u64,
    /// The open drop, else the last opened; null before the first.
    pub current_drop: Option<DropView>,
    /// The next drop to open; null if none is planned.
    pub next_drop: Option<DropView>,
}

/// One opening of a coupon.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Drop)]
pub struct DropView {
    pub id: DropId,
    /// Claims are admitted from this time.
    pub opens_at: DateTime<Utc>,
    /// Claims are rejected from this time; null: it stays open.
    pub closes_at: Option<DateTime<Utc>>,
    #[schema(value_type = u32)]
    pub quantity: Slot,
    /// How many are left; null while unknown (Redis is unavailable, or being verified).
    pub remaining: Option<u32>,
    /// While `remaining` is null, `open` may be `sold_out`.
    pub state: DropState,
}

/// Runs, newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct Runs {
    pub runs: Vec<RunRow>,
}

/// A pass that was started.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Started)]
pub struct StartedRun {
    #[schema(example = "01a206b4-f1dc-72f5-b1c0-afe93251b14a")]
    pub run_id: String,
    /// It begins when another pass has ended. Until then its path answers 503.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub queued: bool,
}

/// A page of failed claims.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FailedClaimPage {
    pub failed_claims: Vec<DeadLetterRow>,
    /// The next `page`; null on the last page.
    pub next_page: Option<u32>,
}

/// One failed claim with its message.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FailedClaimDetails {
    #[serde(flatten)]
    pub claim: DeadLetterRow,
    /// The name of its coupon; null if there is no such coupon.
    #[schema(example = "Winter coupon")]
    pub coupon_name: Option<String>,
    /// Whether its coupon has the drop that it names.
    pub drop_exists: bool,
    /// Why the last run left it; null if no run has given a reason.
    pub left: Option<LeftReason>,
    /// The first 4,096 bytes of its message as text; null if it has none.
    #[schema(example = "{\"v\":2,\"coupon_id\":1}")]
    pub message: Option<String>,
    /// The length of what is stored of its message: of a longer message, the first 4,096 bytes.
    pub message_bytes: u64,
}

/// Why a run left a failed claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftReason {
    #[schema(example = "the drop has no such slot, and Redis does not know its user")]
    pub why: String,
    pub at: DateTime<Utc>,
}

/// How many failed claims were discarded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Discarded {
    pub failed_claims: u64,
}

/// Result of a search.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FoundCoupons {
    pub coupons: Vec<NamedCoupon>,
    /// Whether older coupons have such a name, too.
    pub has_more: bool,
    /// False if Redis did not answer: then coupons may be missing in which the user only waits, or
    /// only has a slot without a row yet.
    pub redis_answered: bool,
}

/// A coupon by ID and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NamedCoupon {
    pub id: CouponId,
    #[schema(example = "Winter coupon")]
    pub name: String,
}

/// How many broken promises were closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GivenUp {
    pub promises: u64,
}

/// Something that happened to a user's claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Happening)]
pub struct StoryEvent {
    /// Null if unknown.
    pub at: Option<DateTime<Utc>>,
    /// Its source: `redis`, `mysql`, `dead letter` or `reconciler`.
    pub source: String,
    #[schema(example = "the row was written by the consumer")]
    pub what: String,
}

/// What a user holds now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Holds)]
pub enum ClaimState {
    /// The row exists, so the user holds a coupon.
    Issued,
    /// The user is admitted, but the row does not exist yet.
    Accepted,
    /// The user is on the waiting list.
    Waiting,
    /// The user was promised a coupon, but the promise could not be kept.
    Broken,
    /// The coupon was given back or revoked.
    Revoked,
    /// A claim of the user is a dead letter and needs an operator.
    Failed,
    /// No claim is known.
    None,
    /// A store could not be read, so the state is uncertain.
    Unknown,
}

/// A user's history with a coupon.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Story {
    pub coupon_id: CouponId,
    #[schema(example = "Winter coupon")]
    pub coupon_name: String,
    /// In full.
    #[schema(example = "u-37")]
    pub user_id: String,
    pub holds: ClaimState,
    /// The state in one sentence, with what to do.
    #[schema(example = "they hold slot 37 of drop 7; the row was written by the consumer")]
    pub conclusion: String,
    pub drop_id: Option<DropId>,
    pub slot: Option<i64>,
    /// All known events, oldest first; of findings and of dead letters, the newest 1,000 each.
    /// Events without a time come last.
    pub happenings: Vec<StoryEvent>,
    /// Facts that are no longer known, could not be read, or were left out because they are old.
    pub no_longer_known: Vec<String>,
}

/// An alert as shown to operators.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Alert {
    /// Its kind: a section of docs/OPERATIONS.md.
    #[schema(example = "unissued")]
    pub kind: String,
    pub coupon_id: Option<CouponId>,
    pub drop_id: Option<DropId>,
    #[serde(rename = "status")]
    pub state: AlertState,
    /// One human-readable line.
    #[schema(example = "3 people hold a slot and have no row")]
    pub summary: String,
    /// Since when it has been there.
    pub first_seen_at: DateTime<Utc>,
    /// When it was last seen; null if it is so now. It may come back until it is over.
    pub last_seen_at: Option<DateTime<Utc>>,
    /// When its last mail was queued, or would have been queued if anybody could get it.
    pub last_mailed_at: Option<DateTime<Utc>>,
    /// Number of mails about it.
    pub mails: u32,
    /// The kind of the alert that explains it, which is mailed instead.
    #[serde(default)]
    pub explained_by: Option<String>,
    /// When it was over.
    pub resolved_at: Option<DateTime<Utc>>,
    /// It is over because nothing compares it any more: it was not repaired.
    #[serde(default)]
    pub given_up: bool,
    /// When it was acknowledged.
    pub acknowledged_at: Option<DateTime<Utc>>,
    #[schema(example = "Kim")]
    pub acknowledged_by: Option<String>,
}

/// An alert with what lists show of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListedAlert {
    pub id: i64,
    #[serde(flatten)]
    pub alert: Alert,
    /// The name of its coupon; null if it has none.
    #[schema(example = "Winter coupon")]
    pub coupon_name: Option<String>,
}

/// Alerts, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AlertPage {
    pub alerts: Vec<ListedAlert>,
    /// `before` of the next page; null on the last page.
    pub next_before: Option<i64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_of_a_coupon_stand_beside_its_other_fields() {
        let coupon = json!({
            "id": 1, "name": "Winter", "quantity": 100, "once_per": "drop", "waiting_list": 5,
            "paused": true, "valid_until": "2026-12-31T23:00:00Z", "valid_days": null,
            "allow": "group:vip", "allow_list_users": 2, "revision": 3, "schedule": null,
            "over": false, "page": "https://coupons.example.com/c/1",
        });
        let read: CouponDetails = serde_json::from_value(coupon.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), coupon);
        let opened = json!({
            "id": 7, "opens_at": "2026-12-01T06:00:00Z", "closes_at": null, "quantity": 100,
            "remaining": null, "state": "open",
        });
        let coupon = json!({
            "id": 1, "name": "Winter", "quantity": 100, "once_per": "drop", "waiting_list": 5,
            "paused": true, "valid_until": null, "valid_days": 30, "allow": "list",
            "schedule": null, "revision": 3, "current_drop": opened, "next_drop": null,
        });
        let read: CouponView = serde_json::from_value(coupon.clone()).unwrap();
        assert_eq!(serde_json::to_value(read).unwrap(), coupon);
    }
}
