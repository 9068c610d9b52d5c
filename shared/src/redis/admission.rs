//! Admission, and the admission gate without which it is closed.

use redis::aio::ConnectionLike;
use redis::{RedisError, Value};

use super::Redis;
use super::client::is_noscript;
use super::keys::DropKeys;
use super::safety::is_master;
use crate::domain::{DropId, Slot, UserId};

/// Most people in one micro-batch. The script holds up everything else in Redis while it runs: so
/// many take half a millisecond.
pub const MAX_BATCH: usize = 128;

/// What admission said, with Redis's time of saying it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    pub admission: Admission,
    /// Redis's clock, Unix milliseconds.
    pub now_ms: i64,
    /// When the holder of the slot was admitted, Unix milliseconds by the same clock; `None` where
    /// that is not known.
    pub admitted_at_ms: Option<i64>,
}

/// The answers of the admission script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
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
    Paused,
    /// Redis does not know the drop: never loaded, or lost.
    Unloaded,
    /// The drop's numbers do not add up; the reconciler has to repair it first.
    Unverified,
}

#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// The gate is closed: Redis restarted, failed over, or was never verified. Nothing ran.
    #[error("admission is closed until the reconciler has verified Redis")]
    Closed,
    /// Redis could not be reached or did not answer in time. The script may have run.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// Not asked, since the calls before took too long. Nothing ran.
    #[error("Redis was too slow to be asked")]
    Unanswered,
    /// The reply is none that the script can give.
    #[error("Redis answered admission with something unexpected")]
    Unexpected,
}

impl Redis {
    /// Runs admission for one person. Never sent twice: a retry is the caller's, and finds
    /// [`Admission::Already`].
    pub async fn claim(&self, keys: &DropKeys, drop: DropId, user: &UserId) -> Result<Reply, AdmissionError> {
        self.claim_all(keys, drop, &[user]).await?.pop().flatten().ok_or(AdmissionError::Unexpected)
    }

    /// Runs admission for several people in one call, as if they had come one after the other; as
    /// many replies, in their order, `None` where one person's can't be read. At most [`MAX_BATCH`]
    /// people. Never sent twice.
    pub async fn claim_all(
        &self,
        keys: &DropKeys,
        drop: DropId,
        users: &[&UserId],
    ) -> Result<Vec<Option<Reply>>, AdmissionError> {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&*self.claim_hash).arg(7);
        for key in [&keys.meta, &keys.count, &keys.users, &keys.free, &keys.waiting, &keys.claimants, &keys.times] {
            cmd.arg(key);
        }
        cmd.arg(drop.0);
        for user in users {
            cmd.arg(user.as_str());
        }
        match cmd.query_async::<Value>(&mut self.conn.clone()).await {
            Ok(value) => read_replies(&value, drop, users.len()).ok_or(AdmissionError::Unexpected),
            Err(error) if is_noscript(&error) => Err(AdmissionError::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the gate is open: the script is there, and the server is a master. A connection to a
    /// server that is none is replaced: the address may lead to the master by now.
    pub async fn gate_is_open(&self) -> Result<bool, RedisError> {
        let (script, master) = self.gate(&mut self.connection()).await?;
        if !master {
            self.conn.replace();
        }
        Ok(script && master)
    }

    /// [`Redis::gate_is_open`] on a connection of the caller's.
    pub async fn gate_is_open_on(&self, conn: &mut impl ConnectionLike) -> Result<bool, RedisError> {
        let (script, master) = self.gate(conn).await?;
        Ok(script && master)
    }

    async fn gate(&self, conn: &mut impl ConnectionLike) -> Result<(bool, bool), RedisError> {
        let mut pipe = redis::pipe();
        pipe.cmd("SCRIPT").arg("EXISTS").arg(&*self.claim_hash).cmd("INFO").arg("replication");
        let (script, replication): (Vec<bool>, String) = pipe.query_async(conn).await?;
        Ok((script == [true], is_master(&replication)))
    }

    /// Opens admission on the server process behind `conn`. Only the reconciler may, and only after
    /// it has verified every drop that is not sealed against that same process.
    pub async fn open_gate(&self, conn: &mut impl ConnectionLike) -> Result<(), RedisError> {
        redis::cmd("SCRIPT").arg("LOAD").arg(&*self.claim_text).query_async::<Value>(conn).await.map(|_| ())
    }
}

/// One reply a person, `None` for one that the script can't have given; `None` in all where this is
/// no reply of the script.
fn read_replies(value: &Value, drop: DropId, people: usize) -> Option<Vec<Option<Reply>>> {
    let Value::Array(items) = value else { return None };
    let (Value::Int(now_ms), answers) = items.split_first()? else { return None };
    if answers.len() != people {
        return None;
    }
    Some(answers.iter().map(|answer| read_answer(answer, drop, *now_ms)).collect())
}

fn read_answer(answer: &Value, asked: DropId, now_ms: i64) -> Option<Reply> {
    let mut admitted_at_ms = None;
    let admission = match answer {
        Value::Int(0) => Admission::SoldOut,
        Value::Int(slot) => {
            admitted_at_ms = Some(now_ms);
            Admission::Accepted(Slot::try_from(*slot).ok()?)
        }
        Value::BulkString(word) => match word.as_slice() {
            b"paused" => Admission::Paused,
            b"unloaded" => Admission::Unloaded,
            b"unverified" => Admission::Unverified,
            _ => return None,
        },
        Value::Array(parts) => match parts.as_slice() {
            [Value::BulkString(word), Value::Int(number)] => match word.as_slice() {
                b"waiting" => Admission::Waiting(u32::try_from(*number).ok()?),
                b"not_open" => Admission::NotOpen(*number),
                b"closed" => Admission::Closed(*number),
                _ => return None,
            },
            [Value::BulkString(word), Value::BulkString(drop), Value::Int(slot), Value::Int(at_ms)]
                if word == b"already" =>
            {
                let drop = DropId(std::str::from_utf8(drop).ok()?.parse().ok()?);
                admitted_at_ms = Some(*at_ms).filter(|ms| *ms > 0 && drop == asked);
                Admission::Already(drop, Slot::try_from(*slot).ok()?)
            }
            _ => return None,
        },
        _ => return None,
    };
    Some(Reply { admission, now_ms, admitted_at_ms })
}
