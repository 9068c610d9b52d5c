//! The trace of a request: continued from its header or started by the sampler, and returned in the
//! response's header.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, StatusCode};

use super::exporter::sampling;
use super::span::{SpanEnd, TraceSpan, key};
use super::{SpanKind, TRACEPARENT, TraceContext};
use crate::http::request_id;

tokio::task_local! {
    static CURRENT: Option<TraceContext>;
}

/// Returns the trace of the request that the current task handles.
pub fn current() -> Option<TraceContext> {
    CURRENT.try_with(|context| *context).ok().flatten()
}

/// The method of a request, and the pattern of its path.
#[derive(Debug, Clone, Copy)]
pub struct Route<'a> {
    pub method: &'static str,
    pub path: &'a str,
}

/// A request's part in a trace.
#[derive(Debug, Clone, Copy)]
pub struct RequestTrace {
    parent: Option<TraceContext>,
    context: Option<TraceContext>,
}

impl RequestTrace {
    pub fn of(headers: &HeaderMap) -> Self {
        let parent = headers
            .get(TRACEPARENT)
            .and_then(|text| TraceContext::parse(text.as_bytes()));
        Self {
            parent,
            context: sampling().map_or(parent, |sampling| sampling.begin(parent)),
        }
    }

    /// Runs `work` with this trace as [`current`].
    pub fn within<F: Future>(self, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self.context, work)
    }

    /// Ends the request: exports its span, and sets the response's header. `route` contains the
    /// pattern of the path.
    pub fn end(
        self,
        Route { method, path }: Route<'_>,
        status: StatusCode,
        took: Duration,
        headers: &mut HeaderMap,
    ) {
        let Some(context) = self.context else { return };
        if let Ok(value) = HeaderValue::try_from(context.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
        if !context.sampled {
            return;
        }
        let Some(span) =
            TraceSpan::ended_now(context, format!("{method} {path}"), SpanKind::Server, took)
        else {
            return;
        };
        let span = span
            .with(key::HTTP_REQUEST_METHOD, method)
            .with(key::HTTP_ROUTE, path.to_owned())
            .with(key::URL_SCHEME, "http")
            .with(key::HTTP_RESPONSE_STATUS_CODE, i64::from(status.as_u16()));
        let span = match request_id::current() {
            Some(id) => span.with(key::REQUEST, id.as_str().to_owned()),
            None => span,
        };
        let span = self.parent.into_iter().fold(span, TraceSpan::below_remote);
        span.export(match status.as_u16() {
            500 => SpanEnd::Failed("500"),
            503 => SpanEnd::Failed("503"),
            501.. => SpanEnd::Failed("5xx"),
            _ => SpanEnd::Fine,
        });
    }
}
