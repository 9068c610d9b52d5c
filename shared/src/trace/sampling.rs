//! Decides which traces are exported, with OpenTelemetry's samplers.

use clap::ValueEnum;
use opentelemetry::Context;
use opentelemetry::trace::{SpanKind, TraceContextExt as _};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample as _};

use super::TraceContext;

/// `OTEL_TRACES_SAMPLER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum SamplerName {
    /// Every trace
    AlwaysOn,
    /// None, but the decision of others is passed on
    AlwaysOff,
    /// The ratio, regardless of the request
    #[value(name = "traceidratio")]
    TraceIdRatio,
    /// According to the request's `traceparent`; without one, every trace
    #[value(name = "parentbased_always_on")]
    ParentBasedAlwaysOn,
    /// According to the request's `traceparent`; without one, none
    #[value(name = "parentbased_always_off")]
    ParentBasedAlwaysOff,
    /// According to the request's `traceparent`; without one, the ratio
    #[default]
    #[value(name = "parentbased_traceidratio")]
    ParentBasedTraceIdRatio,
}

/// Decides once per request whether it is sampled; later steps follow this decision.
#[derive(Debug)]
pub(super) struct Sampling {
    sampler: Sampler,
    pub(super) is_off: bool,
}

impl Sampling {
    pub(super) fn new(name: SamplerName, ratio: f64) -> Self {
        let parent_based = |root: Sampler| Sampler::ParentBased(Box::new(root));
        let sampler = match name {
            SamplerName::AlwaysOn => Sampler::AlwaysOn,
            SamplerName::AlwaysOff => Sampler::AlwaysOff,
            SamplerName::TraceIdRatio => Sampler::TraceIdRatioBased(ratio),
            SamplerName::ParentBasedAlwaysOn => parent_based(Sampler::AlwaysOn),
            SamplerName::ParentBasedAlwaysOff => parent_based(Sampler::AlwaysOff),
            SamplerName::ParentBasedTraceIdRatio => parent_based(Sampler::TraceIdRatioBased(ratio)),
        };
        Self {
            sampler,
            is_off: name == SamplerName::AlwaysOff,
        }
    }

    /// Creates the span of a request; `None` if it has no trace.
    pub(super) fn begin(&self, parent: Option<TraceContext>) -> Option<TraceContext> {
        let own = parent.map_or_else(TraceContext::root, TraceContext::child);
        let remote = parent.map(|parent| Context::new().with_remote_span_context(parent.as_span()));
        let result = self.sampler.should_sample(
            remote.as_ref(),
            own.trace_id,
            "",
            &SpanKind::Server,
            &[],
            &[],
        );
        let sampled = result.decision == SamplingDecision::RecordAndSample;
        if sampled {
            Some(TraceContext { sampled, ..own })
        } else {
            parent.map(|parent| TraceContext { sampled, ..parent })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sampler_decides_by_its_documented_rule() {
        let asked = TraceContext::root();
        let not_asked = TraceContext {
            sampled: false,
            ..asked
        };
        for (name, ratio, expected) in [
            // (no traceparent, a sampled traceparent, an unsampled one)
            ("always_on", 0.0, [Some(true), Some(true), Some(true)]),
            ("always_off", 1.0, [None, Some(false), Some(false)]),
            ("traceidratio", 1.0, [Some(true), Some(true), Some(true)]),
            ("traceidratio", 0.0, [None, Some(false), Some(false)]),
            (
                "parentbased_always_on",
                0.0,
                [Some(true), Some(true), Some(false)],
            ),
            (
                "parentbased_always_off",
                1.0,
                [None, Some(true), Some(false)],
            ),
            (
                "parentbased_traceidratio",
                0.0,
                [None, Some(true), Some(false)],
            ),
            (
                "parentbased_traceidratio",
                1.0,
                [Some(true), Some(true), Some(false)],
            ),
        ] {
            let sampling = Sampling::new(SamplerName::from_str(name, false).unwrap(), ratio);
            let begun = [None, Some(asked), Some(not_asked)].map(|parent| sampling.begin(parent));
            assert_eq!(
                begun.map(|begun| begun.map(|context| context.sampled)),
                expected,
                "{name} {ratio}"
            );
            for (begun, parent) in begun[1..].iter().zip([asked, not_asked]) {
                let begun = begun.unwrap();
                assert_eq!(
                    begun.trace_id, asked.trace_id,
                    "{name}: the trace continues"
                );
                assert_eq!(
                    begun.sampled,
                    begun.span_id != parent.span_id,
                    "{name}: what is exported is a span"
                );
            }
        }
    }
}
