//! Decides which traces are exported, with OpenTelemetry's samplers.

use clap::ValueEnum;

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

/// Decides once per request whether it is sampled; later steps follow this decision. Like
/// OpenTelemetry's SDK, it uses the lower half of the trace's id, so that all processes make the
/// same decision. New ids are created only for sampled requests.
#[derive(Debug)]
pub(super) struct Sampling {
    obeys_parent: bool,
    pub(super) is_off: bool,
    /// A trace is sampled if the lower half of its id, divided by two, is below this.
    bound: u64,
}

impl Sampling {
    pub(super) fn new(name: SamplerName, ratio: f64) -> Self {
        use SamplerName::{
            AlwaysOff, AlwaysOn, ParentBasedAlwaysOff, ParentBasedAlwaysOn,
            ParentBasedTraceIdRatio, TraceIdRatio,
        };
        Self {
            obeys_parent: matches!(
                name,
                ParentBasedAlwaysOff | ParentBasedAlwaysOn | ParentBasedTraceIdRatio
            ),
            is_off: name == AlwaysOff,
            bound: match name {
                AlwaysOn | ParentBasedAlwaysOn => 1 << 63,
                AlwaysOff | ParentBasedAlwaysOff => 0,
                TraceIdRatio | ParentBasedTraceIdRatio => share(ratio),
            },
        }
    }

    fn samples(&self, lower: u64) -> bool {
        lower >> 1 < self.bound
    }

    /// Creates the span of a request. Returns `None` if it has no trace.
    pub(super) fn begin(&self, parent: Option<TraceContext>) -> Option<TraceContext> {
        match parent {
            Some(parent) if self.obeys_parent => Some(if parent.sampled {
                parent.child()
            } else {
                parent
            }),
            Some(parent) if self.samples(parent.lower()) => Some(TraceContext {
                sampled: true,
                ..parent.child()
            }),
            Some(parent) => Some(TraceContext {
                sampled: false,
                ..parent
            }),
            None => {
                let lower = rand::random();
                self.samples(lower).then(|| TraceContext::root_of(lower))
            }
        }
    }
}

/// Returns the ratio as a fraction of 2^63.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 0 and 2^63"
)]
fn share(ratio: f64) -> u64 {
    (ratio.clamp(0.0, 1.0) * 2_f64.powi(63)) as u64
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

    #[test]
    fn sampling_decisions_match_the_opentelemetry_sdk() {
        use opentelemetry_sdk::trace::{Sampler, SamplingDecision, ShouldSample as _};
        let kind = &opentelemetry::trace::SpanKind::Server;
        for ratio in [0.0, 0.05, 0.3, 0.9, 1.0] {
            let own = Sampling::new(SamplerName::TraceIdRatio, ratio);
            let sdk = Sampler::TraceIdRatioBased(ratio);
            let mut sampled = 0;
            for _ in 0..2_000 {
                let trace = TraceContext::root();
                let decided = sdk
                    .should_sample(None, trace.trace_id, "", kind, &[], &[])
                    .decision;
                let decided = decided == SamplingDecision::RecordAndSample;
                assert_eq!(
                    own.begin(Some(trace)).map(|begun| begun.sampled),
                    Some(decided),
                    "{ratio} {trace}"
                );
                sampled += u32::from(decided);
            }
            assert_eq!(
                (sampled > 0, sampled < 2_000),
                (ratio > 0.0, ratio < 1.0),
                "{ratio}: {sampled}"
            );
        }
    }

    #[test]
    fn sampled_share_matches_the_ratio() {
        let sampling = Sampling::new(SamplerName::default(), 0.01);
        let sampled = (0..100_000)
            .filter(|_| sampling.begin(None).is_some())
            .count();
        assert!((700..1_300).contains(&sampled), "{sampled} of 100,000");
    }
}
