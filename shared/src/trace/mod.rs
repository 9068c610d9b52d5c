//! Traces: the path of one claim through all processes, with OpenTelemetry
//! (docs/decisions/0028-traces.md).
//!
//! A [`TraceContext`] accompanies a claim from the request through Kafka's header to its row or
//! dead letter, even if nothing is exported. A span is created when it ends, and only for sampled
//! traces while [`is_on`], so that other traces cost nothing.

mod context;
mod environment;
mod exporter;
mod request;
mod sampling;
mod span;

pub use context::{TRACEPARENT, TraceContext};
pub use environment::start_as;
pub use exporter::{is_on, may_begin, stop};
pub use request::{RequestTrace, Route, current};
pub use span::{SpanEnd, TraceSpan, key};

/// The kind of a span.
pub use opentelemetry::trace::SpanKind;
