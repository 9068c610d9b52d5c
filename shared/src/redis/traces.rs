//! Stores the traces of sampled admissions, so that the repair of a claim whose message was lost
//! can continue its trace. No guarantee depends on them.

use redis::RedisError;

use super::Redis;
use super::keys::DropKeys;
use crate::domain::Slot;
use crate::trace::TraceContext;

/// Expiry in seconds after the last write. By then, each claim has a row, which contains the trace.
const KEPT: u64 = 24 * 60 * 60;

/// Identifies an admission by its slot and its time by Redis's clock in ms, because a freed slot
/// may be given again.
#[derive(Debug, Clone, Copy)]
pub struct AdmissionKey {
    pub slot: Slot,
    pub at_ms: i64,
}

impl Redis {
    /// Stores the traces of admissions for a day.
    pub async fn keep_traces(
        &self,
        keys: &DropKeys,
        traces: &[(AdmissionKey, TraceContext)],
    ) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        pipe.cmd("HSET").arg(&keys.traces);
        for (admission, trace) in traces {
            pipe.arg(field(*admission)).arg(trace.to_string());
        }
        pipe.ignore()
            .cmd("EXPIRE")
            .arg(&keys.traces)
            .arg(KEPT)
            .ignore();
        pipe.query_async(&mut self.connection()).await
    }

    /// Reads the traces of admissions, if known, in the same order.
    pub async fn traces(
        &self,
        keys: &DropKeys,
        admissions: &[AdmissionKey],
    ) -> Result<Vec<Option<TraceContext>>, RedisError> {
        if admissions.is_empty() {
            return Ok(Vec::new());
        }
        let fields: Vec<String> = admissions.iter().copied().map(field).collect();
        let found: Vec<Option<String>> = redis::cmd("HMGET")
            .arg(&keys.traces)
            .arg(fields)
            .query_async(&mut self.connection())
            .await?;
        Ok(found
            .into_iter()
            .map(|text| TraceContext::parse(text?.as_bytes()))
            .collect())
    }
}

fn field(AdmissionKey { slot, at_ms }: AdmissionKey) -> String {
    format!("{slot}:{at_ms}")
}
