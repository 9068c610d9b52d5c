//! Exports the trace of a pass. The trace ID is the pass ID without dashes, so anyone who has the
//! pass ID from a mail, page or log can find the trace.

use std::time::Duration;

use firstcome_shared::trace::{self, SpanEnd, SpanKind, TraceContext, TraceSpan, key};

use crate::report::{Outcome, Run, Status};

/// Returns the span of a pass, or `None` if traces are not exported.
pub(crate) fn of_pass(run_id: &str) -> Option<TraceContext> {
    let id = trace::may_begin()
        .then(|| uuid::Uuid::parse_str(run_id).ok())??
        .simple()
        .to_string();
    TraceContext::parse(format!("00-{id}-{}-01", &id[16..]).as_bytes())
}

/// Exports the span of a pass that found something. Other passes are left out, because they run
/// twice a minute and most find nothing.
pub(crate) fn export(run: &Run, took: Duration) {
    if run.all_findings().next().is_none() && run.status != Status::Failed {
        return;
    }
    let Some(context) = of_pass(&run.run_id) else {
        return;
    };
    let Some(span) = TraceSpan::ended_now(context, "pass", SpanKind::Internal, took) else {
        return;
    };
    let applied = run
        .all_findings()
        .filter(|finding| finding.result == Outcome::Applied)
        .count();
    span.with(key::RUN, run.run_id.clone())
        .with(key::TRIGGER, run.trigger.as_str())
        .with(key::OUTCOME, run.status.as_str())
        .with(key::REPAIRS, i64::try_from(applied).unwrap_or(i64::MAX))
        .export(if run.status == Status::Failed {
            SpanEnd::Failed("pass_failed")
        } else {
            SpanEnd::Fine
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pass_has_no_trace_if_traces_are_not_exported() {
        assert_eq!(of_pass(&crate::pass::new_run_id()), None);
    }
}
