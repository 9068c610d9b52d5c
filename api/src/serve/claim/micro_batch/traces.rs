//! Traces of a call: a span for each sampled claim.

use firstcome_shared::domain::DropId;
use firstcome_shared::redis::admission::{Admission, AdmissionError, AdmissionReply};
use firstcome_shared::trace::{SpanKind, TraceSpan, key};

use super::PendingClaim;

/// Exports the spans of a call.
pub(super) fn admissions(
    drop: DropId,
    batch: &[PendingClaim],
    called: &Result<Vec<Option<AdmissionReply>>, AdmissionError>,
) {
    for (at, pending) in batch.iter().enumerate() {
        let took = pending.arrived.elapsed();
        let start = |trace| TraceSpan::start(trace, "admission", SpanKind::Client, took);
        let Some(span) = pending.trace.and_then(start) else {
            continue;
        };
        let span = span
            .with(key::DB_SYSTEM_NAME, "redis")
            .with(key::DB_OPERATION_NAME, "EVALSHA")
            .with(key::DB_QUERY_SUMMARY, "admission")
            .with(
                key::DB_OPERATION_BATCH_SIZE,
                i64::try_from(batch.len()).unwrap_or(i64::MAX),
            )
            .with(key::COUPON, pending.coupon.coupon.id.0)
            .with(key::DROP, drop.0);
        let reply = called
            .as_ref()
            .map(|replies| replies.get(at).and_then(Option::as_ref));
        let span = match reply {
            Ok(Some(reply)) => match reply.admission {
                Admission::Accepted(slot) | Admission::Already(_, slot) => {
                    span.with(key::SLOT, i64::from(slot))
                }
                _ => span,
            }
            .with(key::OUTCOME, reply.admission.word()),
            Ok(None) => span.failed(AdmissionError::Unexpected.word()),
            Err(error) => span.failed(error.word()),
        };
        span.end();
    }
}
