//! Traces repairs: one span per repaired claim in that claim's trace, if it is known, and one span
//! for all of them in the trace of the pass.

use std::time::Duration;

use firstcome_shared::redis::AdmissionKey;
use firstcome_shared::trace::{SpanEnd, SpanKind, TraceContext, TraceSpan, key};

use super::{Executor, RepairAttempt};
use crate::plan::{Action, Planned, RowChange};
use crate::traces;

/// Maximum number of links of a span, as in OpenTelemetry's default.
const LINKS: usize = 128;

impl Executor<'_> {
    /// Returns the trace of each repaired claim from its dead letter. If the claim's message is
    /// lost, the trace comes from Redis, which stores those of sampled requests.
    pub(super) async fn traces_of(&self, run: &[Planned]) -> Vec<Option<TraceContext>> {
        if let Some(Planned {
            action: Some(Action::Row(RowChange { letter: None, .. })),
            ..
        }) = run.first()
        {
            return self.traces_in_redis(run).await;
        }
        run.iter().map(|item| item.trace).collect()
    }

    async fn traces_in_redis(&self, run: &[Planned]) -> Vec<Option<TraceContext>> {
        let admission = |item: &Planned| match &item.action {
            // Redis has no trace for an admission without a known time.
            Some(Action::Row(RowChange { claim, .. })) => AdmissionKey {
                slot: claim.slot,
                at_ms: claim.claimed_at.map_or(0, |at| at.timestamp_millis()),
            },
            _ => AdmissionKey { slot: 0, at_ms: 0 },
        };
        let admissions: Vec<_> = run.iter().map(admission).collect();
        self.redis
            .traces(&self.keys, &admissions)
            .await
            .unwrap_or_else(|error| {
                tracing::debug!(%error, "the traces of claims cannot be read");
                vec![None; run.len()]
            })
    }

    /// Exports the spans.
    pub(super) fn trace_repairs(
        &self,
        run: &[Planned],
        of_claims: &[Option<TraceContext>],
        attempts: &[RepairAttempt],
        took: Duration,
    ) {
        let Some(first) = run.first().filter(|first| first.action.is_some()) else {
            return;
        };
        let pass = traces::of_pass(self.run_id);
        let repair = |context: TraceContext| {
            let span = TraceSpan::ended_now(
                context,
                format!("repair {}", first.kind.as_str()),
                SpanKind::Internal,
                took,
            )?;
            Some(
                span.with(key::RUN, self.run_id.to_owned())
                    .with(key::FINDING, first.kind.as_str())
                    .with(key::COUPON, self.facts.coupon.id.0)
                    .with(key::DROP, self.drop_id().0),
            )
        };
        for (trace, attempt) in of_claims.iter().zip(attempts) {
            let Some(trace) = trace else { continue };
            if let Some(span) = repair(trace.child()) {
                let done = matches!(attempt, RepairAttempt::Done(_));
                let end = if done {
                    SpanEnd::Fine
                } else {
                    SpanEnd::Failed("not_repaired")
                };
                span.below_remote(*trace)
                    .linked(pass)
                    .with(key::OUTCOME, first.action_kind().as_str())
                    .export(end);
            }
        }
        if let Some((pass, span)) = pass.and_then(|pass| Some((pass, repair(pass.child())?))) {
            let saved = of_claims.iter().flatten().copied().take(LINKS);
            let number = i64::try_from(run.len()).unwrap_or(i64::MAX);
            span.below(pass.span_id)
                .with(key::REPAIRS, number)
                .linked(saved)
                .export(SpanEnd::Fine);
        }
    }
}
