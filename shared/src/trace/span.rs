//! Spans, which are created when they end.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{Link, SpanId, SpanKind, Status};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::TraceContext;
use super::exporter::{is_on, scope, take};

/// Names of attributes: OpenTelemetry's, and Firstcome's own.
pub mod key {
    pub use opentelemetry_semantic_conventions::attribute::{
        DB_COLLECTION_NAME, DB_OPERATION_BATCH_SIZE, DB_OPERATION_NAME, DB_QUERY_SUMMARY,
        DB_SYSTEM_NAME, ERROR_TYPE, HTTP_REQUEST_METHOD, HTTP_RESPONSE_STATUS_CODE, HTTP_ROUTE,
        MESSAGING_BATCH_MESSAGE_COUNT, MESSAGING_CONSUMER_GROUP_NAME, MESSAGING_DESTINATION_NAME,
        MESSAGING_DESTINATION_PARTITION_ID, MESSAGING_KAFKA_MESSAGE_KEY, MESSAGING_KAFKA_OFFSET,
        MESSAGING_OPERATION_NAME, MESSAGING_OPERATION_TYPE, MESSAGING_SYSTEM, URL_SCHEME,
    };

    pub const COUPON: &str = "firstcome.coupon_id";
    pub const DROP: &str = "firstcome.drop_id";
    pub const SLOT: &str = "firstcome.slot";
    /// The outcome, as one word.
    pub const OUTCOME: &str = "firstcome.outcome";
    /// The id in the response's `x-request-id`.
    pub const REQUEST: &str = "firstcome.request_id";
    /// The pass.
    pub const RUN: &str = "firstcome.run_id";
    /// The trigger of the pass.
    pub const TRIGGER: &str = "firstcome.trigger";
    /// The kind of finding that a repair is for.
    pub const FINDING: &str = "firstcome.finding";
    pub const REPAIRS: &str = "firstcome.repairs";
}

/// The result of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanEnd {
    Fine,
    /// The work failed with an error of this type: a word, or a status.
    Failed(&'static str),
}

/// A span of a sampled trace.
pub struct TraceSpan {
    data: SpanData,
}

impl TraceSpan {
    /// Creates a span that started `took` ago and ends now. Returns `None` if spans are not
    /// exported.
    pub fn ended_now(
        context: TraceContext,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        took: Duration,
    ) -> Option<Self> {
        if !context.sampled || !is_on() {
            return None;
        }
        let now = SystemTime::now();
        Some(Self {
            data: SpanData {
                span_context: context.as_span(),
                parent_span_id: SpanId::INVALID,
                parent_span_is_remote: false,
                span_kind: kind,
                name: name.into(),
                start_time: now.checked_sub(took).unwrap_or(now),
                end_time: now,
                attributes: Vec::new(),
                dropped_attributes_count: 0,
                events: SpanEvents::default(),
                links: SpanLinks::default(),
                status: Status::Unset,
                instrumentation_scope: scope(),
            },
        })
    }

    #[must_use]
    pub fn below(mut self, parent: SpanId) -> Self {
        self.data.parent_span_id = parent;
        self
    }

    /// Like [`Self::below`], for a parent in another process.
    #[must_use]
    pub fn below_remote(mut self, parent: TraceContext) -> Self {
        self.data.parent_span_is_remote = true;
        self.below(parent.span_id)
    }

    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.data.attributes.push(KeyValue::new(key, value));
        self
    }

    /// Links the span to spans of other traces.
    #[must_use]
    pub fn linked(mut self, to: impl IntoIterator<Item = TraceContext>) -> Self {
        self.data.links.links.extend(
            to.into_iter()
                .map(|to| Link::new(to.as_span(), Vec::new(), 0)),
        );
        self
    }

    /// Passes the span to the exporter. If its queue is full, the span is dropped, so that nothing
    /// waits.
    pub fn export(mut self, end: SpanEnd) {
        if let SpanEnd::Failed(error) = end {
            self.data.status = Status::error("");
            self.data
                .attributes
                .push(KeyValue::new(key::ERROR_TYPE, error));
        }
        take(self.data);
    }
}
