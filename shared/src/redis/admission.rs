//! Admission, and the licence without which it is closed.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisError, Value};

use super::Redis;
use super::keys::DropKeys;
use super::scripts::is_noscript;
use crate::domain::{DropId, Slot, UserId};

/// How long after Redis made it so a change is told at the earliest: a yes of whom a process that answers losers from memory may
/// not know, a place on the waiting list, an operator's change, a repair (docs/decisions/0010-losers.md).
pub const TOLD_AFTER: Duration = Duration::from_micros(10_100);

/// What admission said, with Redis's time of saying it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The answer.
    pub admission: Admission,
    /// Redis's clock, Unix milliseconds.
    pub now_ms: i64,
    /// When whoever holds a slot was admitted, Unix milliseconds by the same clock; `None` where that is not known.
    pub admitted_at_ms: Option<i64>,
    /// Whether somebody may have been told `sold_out` of this drop before whoever holds a slot was admitted. `false` is certain.
    pub after_sold_out: bool,
}

/// The answers of the admission script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// A slot, just now.
    Accepted(Slot),
    /// This person holds a slot already, perhaps in another drop of the coupon.
    Already(DropId, Slot),
    /// A place on the waiting list, 1 is next.
    Waiting(u32),
    /// Nothing left, and no room to wait.
    SoldOut,
    /// The window opens at this instant, Unix milliseconds.
    NotOpen(i64),
    /// The window closed at this instant, Unix milliseconds.
    Closed(i64),
    /// Stopped by an operator.
    Paused,
    /// Redis does not know the drop: never loaded, or lost.
    Unloaded,
    /// The drop's numbers do not add up; the reconciler has to repair it first.
    Unverified,
}

/// What somebody of whom Redis knows nothing would be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// `sold_out`. As long as this state stays the same, so does everybody who would be told otherwise.
    SoldOut(String),
    /// Anything else.
    Other,
}

/// Why admission gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// No licence: Redis restarted, failed over, or was never verified. Nothing ran.
    #[error("admission is closed until the reconciler has verified Redis")]
    NoLicence,
    /// Redis could not be reached or did not answer in time. The script may have run.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// The reply is none that the script can give.
    #[error("Redis answered admission with something unexpected")]
    Unexpected,
}

impl Redis {
    /// Runs admission for one person. Never sent twice: a retry is the caller's, and finds [`Admission::Already`].
    ///
    /// # Errors
    /// [`AdmissionError`].
    pub async fn claim(&self, keys: &DropKeys, drop: DropId, user: &UserId) -> Result<Reply, AdmissionError> {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&*self.claim_hash)
            .arg(7)
            .arg(&keys.meta)
            .arg(&keys.count)
            .arg(&keys.users)
            .arg(&keys.free)
            .arg(&keys.waiting)
            .arg(&keys.claimants)
            .arg(&keys.times)
            .arg(drop.0)
            .arg(user.as_str());
        match cmd.query_async::<Value>(&mut self.conn.clone()).await {
            Ok(value) => read_reply(&value).ok_or(AdmissionError::Unexpected),
            Err(error) if is_noscript(&error) => Err(AdmissionError::NoLicence),
            Err(error) => Err(error.into()),
        }
    }

    /// What admission would tell somebody unknown, by the same script and the same licence. Nothing is changed.
    ///
    /// # Errors
    /// [`AdmissionError`].
    pub async fn look(&self, keys: &DropKeys, drop: DropId) -> Result<Look, AdmissionError> {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&*self.claim_hash)
            .arg(8)
            .arg(&[&keys.meta, &keys.count, &keys.users, &keys.free, &keys.waiting, &keys.claimants, &keys.times])
            .arg(&keys.generation)
            .arg(drop.0)
            .arg("");
        match cmd.query_async::<Value>(&mut self.conn.clone()).await {
            Ok(Value::Array(items)) => Ok(read_look(&items)),
            Ok(_) => Err(AdmissionError::Unexpected),
            Err(error) if is_noscript(&error) => Err(AdmissionError::NoLicence),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the licence is there.
    ///
    /// # Errors
    /// When Redis can't be reached.
    pub async fn has_licence(&self) -> Result<bool, RedisError> {
        self.licence_on(&mut self.conn.clone()).await
    }

    /// [`Redis::has_licence`] on a connection of the caller's.
    ///
    /// # Errors
    /// When Redis can't be reached.
    pub async fn licence_on(&self, conn: &mut impl ConnectionLike) -> Result<bool, RedisError> {
        let exists: Vec<bool> = redis::cmd("SCRIPT").arg("EXISTS").arg(&*self.claim_hash).query_async(conn).await?;
        Ok(exists == [true])
    }

    /// Opens admission on the server process behind `conn`. Only the reconciler may, and only after it has verified every
    /// drop that is not sealed against that same process.
    ///
    /// # Errors
    /// When Redis can't be reached.
    pub async fn grant_licence(&self, conn: &mut impl ConnectionLike) -> Result<(), RedisError> {
        redis::cmd("SCRIPT").arg("LOAD").arg(&*self.claim_text).query_async::<Value>(conn).await.map(|_| ())
    }
}

fn read_look(items: &[Value]) -> Look {
    let [Value::BulkString(word), _, _, _, _, Value::BulkString(state)] = items else { return Look::Other };
    if word == b"sold_out" { Look::SoldOut(String::from_utf8_lossy(state).into_owned()) } else { Look::Other }
}

fn read_reply(value: &Value) -> Option<Reply> {
    let Value::Array(items) = value else { return None };
    let [word, drop, number, now, rest @ ..] = items.as_slice() else { return None };
    let Value::BulkString(word) = word else { return None };
    let Value::BulkString(drop) = drop else { return None };
    let (Value::Int(number), Value::Int(now_ms)) = (number, now) else { return None };
    let small = u32::try_from(*number).ok();
    let admission = match word.as_slice() {
        b"accepted" => Admission::Accepted(small?),
        b"already" => Admission::Already(DropId(std::str::from_utf8(drop).ok()?.parse().ok()?), small?),
        b"waiting" => Admission::Waiting(small?),
        b"sold_out" => Admission::SoldOut,
        b"not_open" => Admission::NotOpen(*number),
        b"closed" => Admission::Closed(*number),
        b"paused" => Admission::Paused,
        b"unloaded" => Admission::Unloaded,
        b"unverified" => Admission::Unverified,
        _ => return None,
    };
    let admitted_at_ms = rest.first().and_then(|at| if let Value::Int(ms) = at { Some(*ms) } else { None });
    let after_sold_out = !matches!(rest.get(1), Some(Value::Int(0)));
    Some(Reply { admission, now_ms: *now_ms, admitted_at_ms: admitted_at_ms.filter(|ms| *ms > 0), after_sold_out })
}
