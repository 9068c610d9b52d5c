//! Checks whether Redis accepts writes. A Redis that answers `PING` and reads may refuse every
//! claim: its disk or memory is full, it is a replica, or too few replicas follow it. Only a write
//! shows this.

use std::time::Duration;

use futures_util::future::join_all;
use redis::{RedisError, RedisResult, ServerErrorKind};
use tokio::time::Instant;

use super::Redis;
use super::client::Master;
use super::servers::{HASH_SLOTS, HashSlots, hash_slot_of, holding};
use crate::domain::CouponId;
use crate::quoted::without_values;
use crate::report::{FailureCause, StoreRefusal};

/// Maximum age of a result that is used again, so that frequent callers, such as probes, do not each
/// cause a write.
const USED_FOR: Duration = Duration::from_millis(900);

/// Expiry of the key that is written, in milliseconds.
const KEPT_MS: u64 = 60_000;

/// Returns the text of an error in Redis's own words. Quoted values, which may be user ids, are
/// removed, except from refusals, whose texts are fixed.
pub fn text_of(error: &RedisError) -> String {
    let said = match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => first_refused(error).unwrap_or_else(|| error.to_string()),
    };
    if is_of_hash_slot(error) || StoreRefusal::from_error(FailureCause::Redis, &said).is_some() {
        said
    } else {
        without_values(error)
    }
}

/// Returns the first error of several commands that were sent together. The errors of the other
/// commands usually repeat it.
fn first_refused(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    let (_, first) = errors.first()?;
    let detail = first.details().unwrap_or_default();
    Some(format!("{} {detail}", first.code()))
}

/// Whether a server answers and refuses.
pub fn is_refusal(error: &RedisError) -> bool {
    StoreRefusal::from_error(FailureCause::Redis, &text_of(error)).is_some()
}

/// Whether a node of a cluster answers that it does not serve the hash slot, or not all keys of it:
/// the hash slot is being moved, or has no server. Then the command, or the whole transaction, has
/// not run, and only the coupons of that hash slot are concerned. No redirect is followed, because
/// the gate of a coupon names the server that admits to it.
pub fn is_of_hash_slot(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, Moved, TryAgain};
    error.clone().into_server_errors().is_some_and(|errors| {
        let mut kinds = errors.iter().filter_map(|(_, error)| error.kind());
        kinds.any(|kind| matches!(kind, Moved | Ask | TryAgain | ClusterDown))
    })
}

/// Whether Redis answers and has not run a command: the server refuses, or does not serve the hash
/// slot.
pub fn is_refused(error: &RedisError) -> bool {
    is_of_hash_slot(error) || is_refusal(error)
}

/// Returns `None` for a coupon whose hash slot is not served, which was missed.
pub fn unless_missed<T>(read: RedisResult<T>) -> RedisResult<Option<T>> {
    match read {
        Err(error) if is_of_hash_slot(&error) => Ok(None),
        read => read.map(Some),
    }
}

/// The servers that answer and refuse writes, each with its error.
#[derive(Debug, Clone, Default)]
pub struct Refusing(Vec<(Vec<HashSlots>, Option<RedisError>)>);

impl Refusing {
    /// Returns why the server that holds a coupon refuses writes, if it does.
    pub fn holding(&self, coupon: CouponId) -> Option<&RedisError> {
        holding(&self.0, coupon).and_then(Option::as_ref)
    }

    /// Returns a refusal, if there is one.
    pub fn first(&self) -> Option<&RedisError> {
        self.0.iter().find_map(|(_, refusal)| refusal.as_ref())
    }

    /// Whether every server refuses.
    pub fn are_all(&self) -> bool {
        self.0.iter().all(|(_, refusal)| refusal.is_some())
    }
}

impl Redis {
    /// Checks that Redis accepts writes, on every server that holds data and answers. Writes at most
    /// about once a second.
    ///
    /// # Errors
    /// A refusal, or the fault if no server answers.
    pub async fn check_writes(&self) -> RedisResult<()> {
        let refusing = self.refusing_writes().await?;
        refusing.first().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Returns which servers refuse writes, as [`Redis::check_writes`].
    ///
    /// # Errors
    /// If no server answers.
    pub async fn refusing_writes(&self) -> RedisResult<Refusing> {
        let mut last = self.last_write.lock().await;
        if let Some((at, result)) = last.as_ref().filter(|(at, _)| at.elapsed() < USED_FOR) {
            tracing::trace!(age = ?at.elapsed(), "the last check of writes is used again");
            return result.clone();
        }
        let begun = Instant::now();
        let result = self.write_everywhere().await;
        *last = Some((begun, result.clone()));
        result
    }

    async fn write_everywhere(&self) -> RedisResult<Refusing> {
        let masters = self.masters().await?;
        let written = join_all(masters.iter().map(|master| self.write_to(master))).await;
        let mut refusing = Vec::new();
        let mut silent = None;
        for (master, written) in masters.into_iter().zip(written) {
            match written {
                Err(error) if !is_refusal(&error) => silent = Some(error),
                answer => refusing.push((master.hash_slots, answer.err())),
            }
        }
        match silent {
            Some(error) if refusing.is_empty() => Err(error),
            _ => Ok(Refusing(refusing)),
        }
    }

    async fn write_to(&self, master: &Master) -> RedisResult<()> {
        let Some(key) = self.key_on(master) else {
            return Ok(());
        };
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg(key).arg(1).arg("PX").arg(KEPT_MS);
        for answer in master.send(&mut pipe).await? {
            answer.extract_error()?;
        }
        Ok(())
    }

    /// Names a key that this server holds.
    fn key_on(&self, master: &Master) -> Option<String> {
        let mut keys = (0..HASH_SLOTS).map(|number| format!("{}:writes:{number}", self.prefix()));
        keys.find(|key| {
            let slot = hash_slot_of(key);
            master
                .hash_slots
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&slot))
        })
    }
}
