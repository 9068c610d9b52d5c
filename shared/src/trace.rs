//! Traces: the path of one claim through all processes, by OpenTelemetry's SDK
//! (docs/decisions/0035-settings.md).
//!
//! A [`TraceContext`] accompanies a claim from the request to Kafka's header, even if nothing is
//! exported. Spans are made only for sampled traces, so that other
//! traces cost nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Bytes;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span};
use tokio::runtime::Handle;

use crate::config::ssl_cert_file;
use crate::http::origin::Origin;
use crate::http::request_id;
use crate::tls::Store;

/// The header of requests, responses and messages.
pub const TRACEPARENT: &str = "traceparent";

/// Default share of traced requests among those without a `traceparent`. OpenTelemetry's default
/// is all: each traced claim is a separate message.
const RATIO: f64 = 0.01;

/// Maximum duration of one export, and maximum wait for unsent spans when the process ends.
const EXPORT_LIMIT: Duration = Duration::from_secs(5);
const LAST_EXPORT: Duration = Duration::from_secs(2);

/// Maximum number of bytes read from an answer of the collector.
const ANSWER: usize = 64 * 1024;

/// A span of a trace; the next span becomes its child.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    /// Whether its spans are exported.
    pub sampled: bool,
}

impl TraceContext {
    /// Parses a `traceparent`.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?.to_owned();
        let carrier = HashMap::from([(TRACEPARENT.to_owned(), text)]);
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
        let parsed = context.span().span_context().clone();
        parsed.is_valid().then(|| Self::from(&parsed))
    }

    /// Returns the context for OpenTelemetry, as a parent.
    fn as_parent(self) -> Context {
        let flags = TraceFlags::default().with_sampled(self.sampled);
        Context::new().with_remote_span_context(SpanContext::new(
            self.trace_id,
            self.span_id,
            flags,
            true,
            TraceState::NONE,
        ))
    }
}

impl From<&SpanContext> for TraceContext {
    fn from(span: &SpanContext) -> Self {
        Self {
            trace_id: span.trace_id(),
            span_id: span.span_id(),
            sampled: span.is_sampled(),
        }
    }
}

/// Writes the `traceparent`.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{}-{}-{flags:02x}", self.trace_id, self.span_id)
    }
}

/// The process's exporter. As for metrics, there is one per process.
static EXPORT: OnceLock<(SdkTracerProvider, SdkTracer)> = OnceLock::new();

/// Exports spans if OpenTelemetry's variables name a collector. The SDK reads the variables;
/// `process` is the name of the service unless `OTEL_SERVICE_NAME` is set. Must be called in a
/// runtime, which then sends the spans. Further calls in a process (tests) have no effect.
pub fn start_as(process: &'static str) -> anyhow::Result<()> {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let address = set("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT");
    let Some(address) = address.or_else(|| set("OTEL_EXPORTER_OTLP_ENDPOINT")) else {
        return Ok(());
    };
    let shape = "http://host:4318 or https://host:4318";
    let collector = Origin::new(&address, Store::Collector, shape, ssl_cert_file());
    let (collector, _) = collector.map_err(|why| anyhow!(why))?;
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(OtlpSender {
            collector,
            runtime: Handle::current(),
        })
        .with_protocol(Protocol::HttpBinary)
        .build()
        .context("OTEL_EXPORTER_OTLP_ENDPOINT can't be used")?;
    let name = set("OTEL_SERVICE_NAME").unwrap_or_else(|| process.to_owned());
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name(name);
    let mut provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource.with_attribute(version).build());
    if set("OTEL_TRACES_SAMPLER").is_none() {
        let ratio = Sampler::TraceIdRatioBased(RATIO);
        provider = provider.with_sampler(Sampler::ParentBased(Box::new(ratio)));
    }
    let provider = provider.build();
    let tracer = provider.tracer("firstcome");
    if EXPORT.set((provider, tracer)).is_ok() {
        tracing::info!(to = address, "exporting traces");
    }
    Ok(())
}

/// Sends the remaining spans. Blocks, and requires the runtime of `start_as` to be running.
pub fn stop() {
    if let Some((provider, _)) = EXPORT.get()
        && let Err(error) = provider.shutdown_with_timeout(LAST_EXPORT)
    {
        tracing::warn!(%error, "cannot export the last spans");
    }
}

/// Sends spans in the runtime while the exporter's thread waits.
#[derive(Debug)]
struct OtlpSender {
    collector: Origin,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for OtlpSender {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let path = request.uri().path_and_query().map(ToString::to_string);
        *request.uri_mut() = path.unwrap_or_default().parse()?;
        let collector = self.collector.clone();
        // The exporter's thread has no runtime, which the timer needs.
        let sent = self.runtime.spawn(async move {
            Ok(tokio::time::timeout(EXPORT_LIMIT, collector.exchange(request, ANSWER)).await??)
        });
        sent.await?
    }
}

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

/// A request's part in a trace: continued from its header or started by the sampler, and returned
/// in the response's header.
pub struct RequestTrace {
    span: Option<Span>,
    context: Option<TraceContext>,
}

impl RequestTrace {
    pub fn of(headers: &HeaderMap) -> Self {
        let parent = headers.get(TRACEPARENT);
        let mut context = parent.and_then(|text| TraceContext::parse(text.as_bytes()));
        let span = EXPORT.get().and_then(|(_, tracer)| {
            let builder = tracer.span_builder("request").with_kind(SpanKind::Server);
            let above = context.map_or_else(Context::new, TraceContext::as_parent);
            let span = tracer.build_with_context(builder, &above);
            if let Some(parent) = &mut context {
                parent.sampled = false;
            }
            span.is_recording().then_some(span)
        });
        let own = span.as_ref().map(|span| span.span_context().into());
        let context = own.or(context);
        Self { span, context }
    }

    /// Runs `work` with this trace as [`current`]. Most requests have none, and no need of a scope.
    pub fn within<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        let context = self.context;
        async move {
            if context.is_some() {
                CURRENT.scope(context, work).await
            } else {
                work.await
            }
        }
    }

    /// Ends the request's span, and sets the response's header. `route` contains the pattern of
    /// the path.
    pub fn end(self, route: Route<'_>, status: StatusCode, headers: &mut HeaderMap) {
        let Some(context) = self.context else { return };
        if let Ok(value) = HeaderValue::try_from(context.to_string()) {
            headers.insert(TRACEPARENT, value);
        }
        let Some(mut span) = self.span else { return };
        let Route { method, path } = route;
        span.update_name(format!("{method} {path}"));
        let mut set = |key, value: Value| span.set_attribute(KeyValue::new(key, value));
        // OpenTelemetry's semantic conventions.
        set("http.request.method", method.into());
        set("http.route", path.to_owned().into());
        set("url.scheme", "http".into());
        let code = i64::from(status.as_u16());
        set("http.response.status_code", code.into());
        if let Some(id) = request_id::current() {
            set("firstcome.request_id", id.as_str().to_owned().into());
        }
        if status.is_server_error() {
            set("error.type", status.as_str().to_owned().into());
            span.set_status(Status::error(""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_round_trips_and_an_invalid_one_is_ignored() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        for text in [good.to_owned(), good.replace("-01", "-00")] {
            let parsed = TraceContext::parse(text.as_bytes()).unwrap();
            assert_eq!(parsed.sampled, text == good);
            assert_eq!(parsed.to_string(), text);
        }
        for bad in [
            "",
            "00",
            &good[..53],
            &good.replace("00f067aa0ba902b7", &"0".repeat(16)),
        ] {
            assert_eq!(TraceContext::parse(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(TraceContext::parse(&[0xff]), None);
    }
}
