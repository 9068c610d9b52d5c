//! Admission: assigns slots to users. Every claim is refused while the admission gate
//! ([`super::gate`]) is closed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::{FromRedisValue, RedisError, Value};
use strum::IntoStaticStr;

use super::Redis;
use super::client::Script;
use super::keys::{DropKeys, instant};
use crate::coupon::Group;
use crate::domain::{DropId, Slot, UserId};

static CLAIM: Script = Script::new(include_str!("scripts/claim.lua"));

/// Maximum number of users in one micro-batch. The script blocks Redis while it runs, which takes
/// half a millisecond for a full batch.
pub const MAX_BATCH: usize = 128;

/// The drops of one coupon to which a claim may apply. The script chooses one of them by Redis's
/// clock and the windows in `meta`. If a claim may be a retry, it also looks up the user in the
/// other one.
#[derive(Debug, Clone, Copy)]
pub struct Candidates<'a> {
    /// The drop that is most likely open.
    pub first: &'a DropKeys,
    /// The drop before or after it.
    pub second: Option<&'a DropKeys>,
}

/// The ids of the drops of [`Candidates`].
pub type CandidateIds = (DropId, Option<DropId>);

impl Candidates<'_> {
    pub fn ids(&self) -> CandidateIds {
        (self.first.drop, self.second.map(|keys| keys.drop))
    }
}

/// A claiming user and, if known, the user's membership in a group.
#[derive(Debug)]
pub struct Claimant {
    pub user: UserId,
    /// The coupon's group as read by the caller, and whether the user is a member. The group may be
    /// outdated: only the script reads the current one.
    pub group: Option<(Group, bool)>,
}

/// The longest time for which an API may answer `sold_out` without Redis (`LEASE_MS` in
/// identity.lua). No slot is given meanwhile.
pub const LEASE: Duration = Duration::from_millis(200);

/// The results of one call.
#[derive(Debug)]
pub struct Admissions {
    /// One reply per user in the same order, or `None` for a reply that cannot be parsed.
    pub replies: Vec<Option<Admission>>,
    /// The lease of the open candidate, if the caller asked for it and Redis grants it.
    pub lease: Option<LeaseReply>,
}

/// A lease of a sold-out drop: until the lease ends, no user gets a slot of the drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseReply {
    pub drop: DropId,
    /// Time until the lease ends. Count it from before Redis was asked: then the lease never
    /// outlasts the one in Redis.
    pub left: Duration,
    /// The version of the drop's holders in this era: it changes whenever a slot is given.
    pub version: i64,
}

/// A slot of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmittedSlot {
    pub drop: DropId,
    pub slot: Slot,
    /// When the user was admitted, by Redis's clock, or `None` if unknown.
    pub claimed_at: Option<DateTime<Utc>>,
}

/// Results of the admission script; the name of each is the label of its metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Admission {
    /// A slot of the open candidate.
    Accepted(AdmittedSlot),
    /// The slot that this user already holds, perhaps in another drop of the coupon.
    #[strum(serialize = "already_claimed")]
    Already(AdmittedSlot),
    /// A position in the waiting list; 1 is next.
    Waiting(u32),
    /// No slot is left and the waiting list is full, or the drop is leased, so that a freed slot is
    /// not given yet.
    SoldOut,
    /// The window opens at this time, in Unix milliseconds.
    NotOpen(i64),
    /// The window closed at this time, in Unix milliseconds.
    Closed(i64),
    Paused,
    /// This user's claim was given back or revoked, and the user may not claim again.
    Revoked,
    /// The coupon is restricted to users on its allow list or in a group, and this user is not
    /// among them.
    NotAllowed,
    /// The coupon is restricted to a group, and the caller did not state whether the user is a
    /// member.
    #[strum(serialize = "unverified")]
    ForGroup,
    /// Redis does not have this candidate, which was never loaded or was lost, and no other
    /// candidate is open.
    Unloaded(DropId),
    /// The drop's counters disagree, or data about its users or its allow list is missing or
    /// incomplete: the reconciler must repair it first. Also returned if Redis's clock was set back
    /// to before a revocation.
    Unverified,
}

#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The gate is closed: Redis restarted, failed over or was emptied, or a pass is verifying or
    /// rebuilding the coupon's data. The script changed nothing.
    #[error("admission is closed until the reconciler has verified Redis")]
    Closed,
    /// The gate's era differs from the caller's: the caller's copy of the coupon is outdated or
    /// about to be, or Redis has an older gate. The script changed nothing.
    #[error("admission is closed: Redis is in another era than this copy of the coupon")]
    AnotherEra,
    /// Redis was unreachable or did not answer in time. The script may have run.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// Not sent, because earlier calls took too long. The script did not run.
    #[error("Redis was too slow to be asked")]
    Unanswered,
    /// The reply is not one that the script returns.
    #[error("Redis answered admission with something unexpected")]
    Unexpected,
}

impl Redis {
    /// Runs admission for several users in one call, as if they came one after the other. Also
    /// requests a lease if `asks_for_lease` is set. Accepts at most [`MAX_BATCH`] users. Sends the
    /// call again only if Redis did not have the script, which means that nothing ran.
    pub async fn claim_all(
        &self,
        candidates: Candidates<'_>,
        era: u64,
        people: &[&Claimant],
        asks_for_lease: bool,
    ) -> Result<Admissions, AdmissionError> {
        let Candidates { first, second } = candidates;
        let mut keys = first.of_scripts().to_vec();
        keys.extend(second.iter().flat_map(|second| second.own()));
        let other = second.map_or_else(String::new, |second| second.drop.to_string());
        let head = [
            era.to_string(),
            groups(people),
            first.drop.to_string(),
            other,
            if asks_for_lease { "lease" } else { "" }.to_owned(),
        ];
        let users = people.iter().map(|person| person.user.as_str());
        let args: Vec<&str> = head.iter().map(String::as_str).chain(users).collect();
        match self.call(&CLAIM, &keys, &args).await? {
            Value::BulkString(word) if word == b"closed" => Err(AdmissionError::Closed),
            Value::BulkString(word) if word == b"another_era" => Err(AdmissionError::AnotherEra),
            reply => read_replies(&reply, people.len()).ok_or(AdmissionError::Unexpected),
        }
    }
}

/// Formats the users' known groups as the script expects them.
fn groups(people: &[&Claimant]) -> String {
    if people.iter().all(|person| person.group.is_none()) {
        return String::new();
    }
    people
        .iter()
        .map(|person| match &person.group {
            None => String::new(),
            Some((group, true)) => group.as_str().to_owned(),
            Some((group, false)) => format!("!{}", group.as_str()),
        })
        .collect::<Vec<_>>()
        .join(",")
}

/// Parses the reply. Returns `None` if it is not one of the script.
fn read_replies(value: &Value, people: usize) -> Option<Admissions> {
    let Value::Array(items) = value else {
        return None;
    };
    let [
        Value::Int(now_ms),
        Value::Int(open_drop),
        Value::Int(left_ms),
        Value::Int(version),
        answers @ ..,
    ] = items.as_slice()
    else {
        return None;
    };
    let open_drop = Some(DropId(*open_drop)).filter(|drop| drop.0 > 0);
    let lease = || {
        Some(LeaseReply {
            drop: open_drop?,
            left: Duration::from_millis(u64::try_from(*left_ms).ok()?),
            version: *version,
        })
    };
    let reply = |answer| read_answer(answer, open_drop, *now_ms);
    let replies = if answers.is_empty() {
        vec![reply(&Value::Int(0)); people]
    } else {
        answers.iter().map(reply).collect()
    };
    (replies.len() == people).then(|| Admissions {
        replies,
        lease: lease().filter(|lease| !lease.left.is_zero()),
    })
}

fn read_answer(answer: &Value, open_drop: Option<DropId>, now_ms: i64) -> Option<Admission> {
    let parts = match answer {
        Value::Int(0) => return Some(Admission::SoldOut),
        Value::Int(slot) => {
            return Some(Admission::Accepted(AdmittedSlot {
                drop: open_drop?,
                slot: Slot::try_from(*slot).ok()?,
                claimed_at: instant(Some(now_ms)),
            }));
        }
        Value::Array(parts) => parts.as_slice(),
        one => std::slice::from_ref(one),
    };
    let number = |at| part::<i64>(parts, at);
    Some(match part::<String>(parts, 0)?.as_str() {
        "paused" => Admission::Paused,
        "revoked" => Admission::Revoked,
        "not_allowed" => Admission::NotAllowed,
        "unverified" => Admission::Unverified,
        "waiting" => Admission::Waiting(part(parts, 1)?),
        "not_open" => Admission::NotOpen(number(1)?),
        "closed" => Admission::Closed(number(1)?),
        "unloaded" => Admission::Unloaded(DropId(number(1)?)),
        "group" => Admission::ForGroup,
        "already" => Admission::Already(AdmittedSlot {
            drop: DropId(part::<String>(parts, 1)?.parse().ok()?),
            slot: part(parts, 2)?,
            claimed_at: instant(Some(number(3)?).filter(|ms| *ms > 0)),
        }),
        _ => return None,
    })
}

fn part<T: FromRedisValue>(parts: &[Value], at: usize) -> Option<T> {
    T::from_redis_value_ref(parts.get(at)?).ok()
}
