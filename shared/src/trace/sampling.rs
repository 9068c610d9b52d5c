//! Which traces are exported: OpenTelemetry's samplers, by their names.

use clap::ValueEnum;
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample as _};

use super::TraceContext;

/// `OTEL_TRACES_SAMPLER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum SamplerName {
    /// Every trace
    AlwaysOn,
    /// None, but what others ask for goes on to the next
    AlwaysOff,
    /// The ratio, whatever the request says
    #[value(name = "traceidratio")]
    TraceIdRatio,
    /// As the request's `traceparent` says; without one, every trace
    #[value(name = "parentbased_always_on")]
    ParentBasedAlwaysOn,
    /// As the request's `traceparent` says; without one, none
    #[value(name = "parentbased_always_off")]
    ParentBasedAlwaysOff,
    /// As the request's `traceparent` says; without one, the ratio
    #[default]
    #[value(name = "parentbased_traceidratio")]
    ParentBasedTraceIdRatio,
}

/// The decision for each request, made once: what follows obeys it.
#[derive(Debug)]
pub(super) struct Sampling {
    obeys_parent: bool,
    pub(super) is_off: bool,
    root: Sampler,
}

impl Sampling {
    pub(super) fn new(name: SamplerName, ratio: f64) -> Self {
        use SamplerName::{
            AlwaysOff, AlwaysOn, ParentBasedAlwaysOff, ParentBasedAlwaysOn, ParentBasedTraceIdRatio, TraceIdRatio,
        };
        Self {
            obeys_parent: matches!(name, ParentBasedAlwaysOff | ParentBasedAlwaysOn | ParentBasedTraceIdRatio),
            is_off: name == AlwaysOff,
            root: match name {
                AlwaysOn | ParentBasedAlwaysOn => Sampler::AlwaysOn,
                AlwaysOff | ParentBasedAlwaysOff => Sampler::AlwaysOff,
                TraceIdRatio | ParentBasedTraceIdRatio => Sampler::TraceIdRatioBased(ratio),
            },
        }
    }

    /// The span of a request; `None`: it has no trace.
    pub(super) fn begin(&self, parent: Option<TraceContext>) -> Option<TraceContext> {
        let trace = match parent {
            Some(parent) if self.obeys_parent => return Some(if parent.sampled { parent.child() } else { parent }),
            Some(parent) => TraceContext { sampled: true, ..parent.child() },
            None => TraceContext::root(),
        };
        let kind = &opentelemetry::trace::SpanKind::Server;
        let decided = self.root.should_sample(None, trace.trace_id, "", kind, &[], &[]).decision;
        if decided == SamplingDecision::RecordAndSample {
            return Some(trace);
        }
        parent.map(|parent| TraceContext { sampled: false, ..parent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sampler_decides_as_its_name_says() {
        let asked = TraceContext::root();
        let not_asked = TraceContext { sampled: false, ..asked };
        for (name, ratio, expected) in [
            // (no traceparent, one that is sampled, one that is not)
            ("always_on", 0.0, [Some(true), Some(true), Some(true)]),
            ("always_off", 1.0, [None, Some(false), Some(false)]),
            ("traceidratio", 1.0, [Some(true), Some(true), Some(true)]),
            ("traceidratio", 0.0, [None, Some(false), Some(false)]),
            ("parentbased_always_on", 0.0, [Some(true), Some(true), Some(false)]),
            ("parentbased_always_off", 1.0, [None, Some(true), Some(false)]),
            ("parentbased_traceidratio", 0.0, [None, Some(true), Some(false)]),
            ("parentbased_traceidratio", 1.0, [Some(true), Some(true), Some(false)]),
        ] {
            let sampling = Sampling::new(SamplerName::from_str(name, false).unwrap(), ratio);
            let begun = [None, Some(asked), Some(not_asked)].map(|parent| sampling.begin(parent));
            assert_eq!(begun.map(|begun| begun.map(|context| context.sampled)), expected, "{name} {ratio}");
            for (begun, parent) in begun[1..].iter().zip([asked, not_asked]) {
                let begun = begun.unwrap();
                assert_eq!(begun.trace_id, asked.trace_id, "{name}: the trace goes on");
                assert_eq!(begun.sampled, begun.span_id != parent.span_id, "{name}: what is exported is a span");
            }
        }
    }

    #[test]
    fn a_ratio_is_kept() {
        let sampling = Sampling::new(SamplerName::default(), 0.01);
        let sampled = (0..100_000).filter(|_| sampling.begin(None).is_some()).count();
        assert!((700..1_300).contains(&sampled), "{sampled} of 100,000");
    }
}
