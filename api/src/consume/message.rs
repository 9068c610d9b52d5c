//! A message of the topic, decoded, and the dead letters of its claims.

use std::ops::Range;

use firstcome_shared::event::{ClaimEvent, Fragments, Undecodable};
use firstcome_shared::kafka::{KafkaSettings, trace_of};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::dead_letters::{FailedClaim, MessageOrigin};
use firstcome_shared::trace::TraceContext;
use rdkafka::message::{BorrowedMessage, Message as _};

/// Maximum length of a stored error, in characters. The JSON parser may quote the whole message.
const LONGEST_ERROR: usize = 500;

/// Maximum size of a message in a dead letter, in bytes.
const KEPT_BYTES: usize = 4_096;

/// Maximum size of a message that is parsed, in bytes. Claims are shorter.
const LONGEST_MESSAGE: usize = 65_536;

#[derive(Debug)]
pub(super) struct Message {
    pub(super) source: MessageOrigin,
    /// The offsets that are read with this message: from where the last one ended.
    pub(super) offsets: Range<i64>,
    /// The claims, or a single error if the message is not readable.
    pub(super) claims: Vec<Result<ClaimEvent, Undecodable>>,
    /// The first bytes of a message with an unreadable claim, because a batch of messages may
    /// decompress to more than fits in memory.
    payload: Vec<u8>,
    trace: Option<TraceContext>,
}

impl Message {
    /// Decodes a message. `from` is the offset after the previous one.
    pub(super) fn of(message: &BorrowedMessage<'_>, from: i64, kafka: &KafkaSettings) -> Self {
        let source = MessageOrigin {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            part: None,
        };
        let payload = message.payload().unwrap_or_default();
        let bytes = payload.len() + message.key_len();
        let trace = message.headers().and_then(trace_of);
        Self::decode(source, from, payload, bytes, || kafka.claims_of(message)).with(trace)
    }

    fn decode(
        source: MessageOrigin,
        from: i64,
        payload: &[u8],
        bytes: usize,
        claims: impl FnOnce() -> Vec<Result<ClaimEvent, Undecodable>>,
    ) -> Self {
        let claims = if bytes > LONGEST_MESSAGE {
            let error =
                format!("the message has {bytes} bytes, and claims have {LONGEST_MESSAGE} at most");
            let fragments = Fragments::default();
            vec![Err(Undecodable {
                reason: "undecodable",
                error,
                fragments,
            })]
        } else {
            claims()
        };
        let is_readable = claims.iter().all(Result::is_ok);
        let kept = if is_readable {
            0
        } else {
            payload.len().min(KEPT_BYTES)
        };
        Self {
            offsets: from..source.offset + 1,
            payload: payload[..kept].to_vec(),
            source,
            claims,
            trace: None,
        }
    }

    fn with(self, trace: Option<TraceContext>) -> Self {
        Self { trace, ..self }
    }

    /// Returns a claim, unless that is unreadable.
    pub(super) fn claim(&self, part: usize) -> Option<Claim> {
        let event = self.claims[part].as_ref().ok()?;
        Some(Claim {
            coupon_id: event.coupon_id,
            drop_id: event.drop_id,
            slot: event.slot,
            user_id: event.user_id.clone(),
            claimed_at: Some(event.claimed_at),
            trace: self.trace,
        })
    }

    /// Builds the dead letter of a claim. Of a message with several claims it shows only this one,
    /// if that is readable.
    pub(super) fn letter(&self, part: usize, reason: &'static str, error: &str) -> FailedClaim {
        let (known, payload) = match &self.claims[part] {
            Ok(event) => (event.into(), event.encode().into_bytes()),
            // Without its time, a claim cannot be checked against the drop's window. Its dead
            // letter then names no user, so that no pass issues it.
            Err(bad) if bad.fragments.claimed_at.is_none() => {
                (Fragments::default(), self.payload.clone())
            }
            Err(bad) => (bad.fragments.clone(), self.payload.clone()),
        };
        let part = (self.claims.len() > 1).then_some(part);
        FailedClaim {
            known,
            payload,
            reason,
            error: error.chars().take(LONGEST_ERROR).collect(),
            source: MessageOrigin {
                part,
                ..self.source.clone()
            },
            trace: self.trace,
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
