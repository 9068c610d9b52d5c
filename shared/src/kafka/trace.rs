//! The trace of a message.

use rdkafka::message::{BorrowedHeaders, Headers as _};

use crate::trace::{TRACEPARENT, TraceContext};

/// The span that sent a message, by its header.
pub fn trace_of(headers: &BorrowedHeaders) -> Option<TraceContext> {
    let header = headers.iter().find(|header| header.key == TRACEPARENT)?;
    TraceContext::parse(header.value?)
}
