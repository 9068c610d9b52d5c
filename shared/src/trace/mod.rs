//! Traces: what became of one claim, across processes, by OpenTelemetry
//! (docs/decisions/0028-traces.md).
//!
//! A [`TraceContext`] goes with a claim from the request by Kafka's header to its row or dead
//! letter, also where nothing is exported. Spans are made of sampled ones alone, as a whole at
//! their end, and only while [`is_on`]: for all others no span costs anything.

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
