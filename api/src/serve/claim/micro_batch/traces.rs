//! Traces of a call: a span for each sampled claim.

use firstcome_shared::domain::DropId;
use firstcome_shared::redis::admission::{Admission, AdmissionError, AdmissionReply};
use firstcome_shared::trace::{self, SpanEnd, SpanKind, TraceSpan, key};

use super::PendingClaim;

/// Exports the spans of a call.
pub(super) fn admissions(
    drop: DropId,
    batch: &[PendingClaim],
    called: &Result<Vec<Option<AdmissionReply>>, AdmissionError>,
) {
    if !trace::is_on() {
        return;
    }
    for (at, pending) in batch.iter().enumerate() {
        let Some(trace) = pending.trace.filter(|trace| trace.sampled) else {
            continue;
        };
        let took = pending.arrived.elapsed();
        let Some(span) = TraceSpan::ended_now(trace.child(), "admission", SpanKind::Client, took)
        else {
            continue;
        };
        let span = span
            .below(trace.span_id)
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
        let admission = match reply {
            Ok(Some(reply)) => reply.admission,
            Ok(None) => {
                span.export(SpanEnd::Failed(AdmissionError::Unexpected.word()));
                continue;
            }
            Err(error) => {
                span.export(SpanEnd::Failed(error.word()));
                continue;
            }
        };
        let span = span.with(key::OUTCOME, admission.word());
        let span = match admission {
            Admission::Accepted(slot) | Admission::Already(_, slot) => {
                span.with(key::SLOT, i64::from(slot))
            }
            _ => span,
        };
        span.export(SpanEnd::Fine);
    }
}
