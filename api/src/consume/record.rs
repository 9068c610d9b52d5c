//! A claim of a message, decoded, and its dead letter.

use firstcome_shared::claim::{Claim, Undecodable};
use firstcome_shared::kafka::KafkaSettings;
use firstcome_shared::model::DeadLetterReason;
use firstcome_shared::mysql::dead_letters::{FailedClaim, KEPT_OF_MESSAGE, MessageOrigin};
use rdkafka::message::{BorrowedMessage, Message as _};

/// Maximum length of a stored error, in characters. The JSON parser may quote the whole message.
const LONGEST_ERROR: usize = 500;

#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) source: MessageOrigin,
    /// The claim, or why the message is not readable.
    pub(super) claim: Result<Claim, Undecodable>,
    /// The first bytes of the message if it is not readable. A batch of messages may decompress to
    /// more than fits in memory.
    payload: Vec<u8>,
}

impl Record {
    /// Decodes the claims of a message, or returns a single error if the message is not readable.
    pub(super) fn decode(message: &BorrowedMessage<'_>, kafka: &KafkaSettings) -> Vec<Self> {
        let source = MessageOrigin {
            topic: message.topic().to_owned(),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            part: 0,
        };
        let payload = message.payload().unwrap_or_default();
        Self::from_claims(&source, payload, kafka.claims_of(message))
    }

    fn from_claims(
        source: &MessageOrigin,
        payload: &[u8],
        claims: Result<Vec<Claim>, Undecodable>,
    ) -> Vec<Self> {
        let record = |part, claim, kept: &[u8]| Self {
            source: MessageOrigin {
                part,
                ..source.clone()
            },
            claim,
            payload: kept.to_vec(),
        };
        match claims {
            Ok(claims) => (0..)
                .zip(claims)
                .map(|(part, claim)| record(part, Ok(claim), &[]))
                .collect(),
            Err(error) => {
                let kept = payload.len().min(usize::from(KEPT_OF_MESSAGE));
                vec![record(0, Err(error), &payload[..kept])]
            }
        }
    }

    /// Returns a record that stands for messages that no client can read. Its dead letter contains
    /// their offsets.
    pub(super) fn unreadable(source: &MessageOrigin, end: i64, why: &str) -> Vec<Self> {
        let error = format!(
            "offsets {} to {} of partition {} cannot be read, or come after one that cannot: \
            {why}; passes issue the promises in them from Redis",
            source.offset,
            end - 1,
            source.partition
        );
        let claim = Undecodable {
            reason: DeadLetterReason::Unreadable,
            error,
        };
        Self::from_claims(source, &[], Err(claim))
    }

    /// Builds the dead letter. It contains only this claim, even if its message has several, or the
    /// first bytes of an unreadable message.
    pub(super) fn letter(&self, reason: DeadLetterReason, error: &str) -> FailedClaim {
        let payload = match &self.claim {
            Ok(event) => event.encode().into_bytes(),
            Err(_) => self.payload.clone(),
        };
        FailedClaim {
            claim: self.claim.as_ref().ok().cloned(),
            payload,
            reason,
            error: error.chars().take(LONGEST_ERROR).collect(),
            source: self.source.clone(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
