//! Traces of a call: a span for each sampled claim, and the trace context stored for repairs.

use firstcome_shared::domain::DropId;
use firstcome_shared::redis::AdmissionKey;
use firstcome_shared::redis::admission::{Admission, AdmissionError, AdmissionReply};
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::trace::{self, SpanEnd, SpanKind, TraceSpan, key};

use super::{AdmittedClaim, MicroBatches, PendingClaim};

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

/// Stores the trace contexts of new admissions in the background, so that a repair can continue
/// the trace of a claim whose message is lost.
pub(super) fn keep<'c>(
    batches: &MicroBatches,
    keys: &DropKeys,
    admitted: impl Iterator<Item = &'c AdmittedClaim>,
) {
    let sampled = admitted.filter_map(|claim| {
        let trace = claim.trace.filter(|trace| trace.sampled)?;
        let admission = AdmissionKey {
            slot: claim.slot,
            at_ms: claim.admitted_at_ms?,
        };
        Some((admission, trace))
    });
    let sampled: Vec<_> = sampled.collect();
    if sampled.is_empty() {
        return;
    }
    let redis = batches.redis.clone();
    let keys = keys.clone();
    batches.in_flight.spawn(async move {
        if let Err(error) = redis.keep_traces(&keys, &sampled).await {
            tracing::debug!(%error, traces = sampled.len(), "traces are not kept: a repair will not find them");
        }
    });
}
